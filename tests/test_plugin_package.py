"""A family and a format of a package of two files, installed by pip, used as ours are."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from somaseg.data.synthetic import write_dataset

PACKAGE = Path(__file__).parent / "plugin_package"


@pytest.fixture(scope="module")
def somaseg(tmp_path_factory):
    """Commands in a process of their own that has the package."""
    target = tmp_path_factory.mktemp("installed")
    copy = tmp_path_factory.mktemp("package")
    for path in PACKAGE.glob("*.*"):
        (copy / path.name).write_bytes(path.read_bytes())
    assert len(list(copy.iterdir())) == 2
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", target, copy], check=True)
    path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "somaseg", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return run


def test_the_format_is_written_and_read(somaseg, tmp_path):
    data = write_dataset(tmp_path / "data", n_per_class=1, size=(96, 96))
    somaseg("data", "convert", data, tmp_path / "discs", "--to", "discs")
    rows = list(csv.DictReader((tmp_path / "discs" / "discs.csv").open()))
    found = json.loads(somaseg("data", "info", tmp_path / "discs", "--json"))
    assert found["total"]["cells"] == len(rows) > 5
    assert found["source"].endswith("discs.csv")
    assert "discs" in somaseg("data", "info", data, "--format", "yolo", code=2)


def test_the_family_is_trained_scored_and_used(somaseg, tmp_path):
    data = write_dataset(tmp_path / "data", n_per_class=1, size=(96, 96), n_test=1)
    preset = {"model": {"family": "blobs", "blur": 1.5}, "training": {"steps": 4}}
    (tmp_path / "blobs.yaml").write_text(yaml.safe_dump(preset))
    run = tmp_path / "run"
    somaseg("train", data, "--model", tmp_path / "blobs.yaml", "--folds", 2, "--out", run)
    assert json.loads((run / "scores.json").read_text())["nested"]["map"] >= 0
    losses = [float(r["total"]) for r in csv.DictReader((run / "fold0/metrics.csv").open())]
    assert losses[-1] > 0
    told = somaseg("predict", data / "test", "--model", run, "--out", tmp_path / "masks")
    assert "3 images" in told
    assert len(json.loads((tmp_path / "masks" / "predictions.json").read_text())) > 0
    assert "blobs" in somaseg("models")
