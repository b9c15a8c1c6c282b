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
from somaseg.models import registry
from tests.cli.run import somaseg

PACKAGE = Path(__file__).parent / "plugin_package"


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """The package in a folder of its own, in which Python looks, too."""
    target = tmp_path_factory.mktemp("installed")
    copy = tmp_path_factory.mktemp("package")
    for path in PACKAGE.glob("*.*"):
        (copy / path.name).write_bytes(path.read_bytes())
    assert len(list(copy.iterdir())) == 2
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", target, copy], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(target)
        registry.families.cache_clear()
        yield target
    registry.families.cache_clear()


def test_the_format_is_written_and_read(installed, tmp_path):
    # Formats to choose from are asked for when the command line is loaded: new processes.
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "somaseg", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    data = write_dataset(tmp_path / "data", n_per_class=1, size=(96, 96))
    written = run("data", "convert", data, tmp_path / "discs", "--to", "discs")
    assert written.returncode == 0, written.stderr
    rows = list(csv.DictReader((tmp_path / "discs" / "discs.csv").open()))
    found = json.loads(run("data", "info", tmp_path / "discs", "--json").stdout)
    assert found["total"]["cells"] == len(rows) > 5
    assert found["source"].endswith("discs.csv")
    unknown = run("data", "info", data, "--format", "squares")
    assert unknown.returncode == 2
    assert "discs" in unknown.stderr


def test_the_family_is_trained_scored_and_used(tmp_path):
    data = write_dataset(tmp_path / "data", n_per_class=1, size=(96, 96), n_test=1)
    preset = {"model": {"family": "blobs", "blur": 1.5}, "training": {"steps": 4}}
    (tmp_path / "blobs.yaml").write_text(yaml.safe_dump(preset))
    run = tmp_path / "run"
    somaseg("train", data, "--model", tmp_path / "blobs.yaml", "--folds", 2, "--out", run)
    assert json.loads((run / "scores.json").read_text())["nested"]["map"] >= 0
    losses = [float(r["total"]) for r in csv.DictReader((run / "fold0/metrics.csv").open())]
    assert losses[-1] > 0
    told = somaseg("predict", data / "test", "--model", run, "--out", tmp_path / "masks")
    assert "3 images" in told.stdout + told.stderr
    assert len(json.loads((tmp_path / "masks" / "predictions.json").read_text())) > 0
    assert "blobs" in somaseg("models").stdout
