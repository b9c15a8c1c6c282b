"""A disk that is full, a folder that cannot be written to: one clear line, nothing lost.

A limit on the size of files stands for the full disk: a write fails in its middle, as there.
"""

import errno
import os
import shutil
import tempfile
from collections import namedtuple
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from somaseg.cli import app
from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.files import CannotWrite, write_text
from somaseg.models.bundle import load_model
from somaseg.runs.cross_validate import cross_validate
from somaseg.runs.machine import model_bytes
from somaseg.runs.run import DataConfig, Run, RunConfig
from tests.cli import run
from tests.cli.run import largest_file

PRESET = {
    "model": {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16},
    "training": {"steps": 4, "batch": 1, "crop": 64, "log_every": 2, "checkpoint_minutes": 1e-4},
}


def somaseg(*arguments, limit=None):
    with largest_file(limit) if limit else nullcontext():
        return run.somaseg(*arguments, check=False)


def assert_told(done, *words):
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for word in (*words, "cannot be written", "free some space or choose another folder"):
        assert word in done.stderr


def leftovers(folder):
    return [path for path in folder.rglob(".*") if ".tmp" in path.name]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), n_per_class=1, size=(96, 96))


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A picture that no compression makes small."""
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (420, 420), np.uint8))
    return path


def test_train_goes_on_when_there_is_space(data, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PRESET))
    command = ["train", data, "--model", tmp_path / "tiny.yaml", "--folds", 2, "--jobs", 1]
    run = tmp_path / "run"
    done = somaseg(*command, "--out", run, limit=2_000_000)
    assert_told(done, "fold0: ", "fold0/checkpoint.safetensors", "File too large")
    assert leftovers(run) == []
    # What was written before stands.
    assert (run / "fold0" / "metrics.csv").read_text().splitlines()[1].startswith("2,")
    again = somaseg(*command, "--out", run)
    assert again.returncode == 0, again.stderr
    load_model(run / "fold1" / "model.safetensors")
    rows = (run / "fold0" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "2", "4"]


def test_predict_keeps_what_stood_there(noise, tmp_path):
    out = tmp_path / "out"
    (out / "overlays").mkdir(parents=True)
    (out / ".predict").mkdir()
    (out / ".predict" / ".somaseg").touch()  # what stands is of an earlier prediction
    (out / "overlays" / "noise.png").write_bytes(b"of yesterday")
    done = somaseg("predict", noise, "--out", out, limit=200_000)
    assert_told(done, "overlays/noise.png")
    assert (out / "overlays" / "noise.png").read_bytes() == b"of yesterday"
    assert leftovers(out) == []
    assert not (out / "predictions.json").exists()


def test_convert_keeps_what_stood_there(noise, tmp_path):
    data = tmp_path / "data"
    (data / "labels").mkdir(parents=True)
    (data / "images").mkdir()
    labels = np.zeros((420, 420), np.uint16)
    labels[10:60, 10:60] = 1
    for name in ("a", "b"):
        cv2.imwrite(str(data / "labels" / f"{name}.png"), labels)
    shutil.copy(noise, data / "images" / "a.png")
    cv2.imwrite(str(data / "images" / "b.png"), np.zeros((420, 420), np.uint8))
    done = somaseg("data", "convert", data, tmp_path / "out", "--to", "coco", limit=100_000)
    assert_told(done, "images/a.png", "File too large")
    assert leftovers(tmp_path / "out") == []
    assert not (tmp_path / "out" / "images" / "a.png").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["train", "DATA", "--out", "/dev/null/run"],
        ["predict", "DATA/train", "--out", "/dev/null/out"],
        ["data", "convert", "DATA", "/dev/null/out", "--to", "coco"],
        ["data", "eda", "DATA", "--out", "/dev/null/eda.html"],
        ["ledger", "export", "/dev/null/all.csv", "DATA"],
    ],
)
def test_folders_that_cannot_be_made(data, command):
    done = somaseg(*(part.replace("DATA", str(data)) for part in command))
    assert_told(done, "/dev/null/")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_file_is_whole_or_the_old_one(tmp_path, monkeypatch, code):
    write_text(tmp_path / "file", "old")

    def fails(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(CannotWrite, match=f"file: cannot be written .{os.strerror(code)}.; free"):
        write_text(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_too_small_a_disk_is_told_before_training(data, tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**6, 10**6))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PRESET))
    with pytest.raises(SomasegError, match=r"run: training needs about [\d,]+ MB .* 1 MB are free"):
        CliRunner().invoke(
            app,
            ["train", str(data), "-m", str(tmp_path / "tiny.yaml"), "-o", str(tmp_path / "run")],
            catch_exceptions=False,
        )
    assert not list((tmp_path / "run").glob("fold*/"))
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left - {".lock"} == {"config.yaml", "folds.json"}


def test_a_folder_that_has_become_read_only_is_told_before_training(data, tmp_path, monkeypatch):
    config = RunConfig(data=DataConfig(path=str(data)), folds=2, **PRESET)
    run = Run.create(tmp_path / "run", config)

    def read_only(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(CannotWrite, match=r"run: cannot be written .Read-only file system"):
        cross_validate(run, 1, lambda name, event: None)
    assert not list((tmp_path / "run").glob("fold*/"))


def test_the_size_is_that_of_the_file(data, tmp_path):
    config = RunConfig(data=DataConfig(path=str(data)), folds=2, **PRESET)
    run = Run.create(tmp_path / "run", config)
    from somaseg.models.config import ModelInfo
    from somaseg.models.registry import build_model, parse_config

    info = ModelInfo(names=("astro", "cort", "shsy5y"), diameter=16.0)
    build_model(parse_config(config.model), info).save(run.model_path(0))
    assert model_bytes(run) == pytest.approx(run.model_path(0).stat().st_size, rel=0.01)
