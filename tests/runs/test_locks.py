"""Two writers on one folder: the second is told who the first is; nothing that is added is lost."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from somaseg.cli import app
from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.predict.store import save_predictions
from somaseg.runs.run import DataConfig, Run, RunConfig

MODEL = {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16, "pretrained": "none"}
TRAINING = {"steps": 400, "batch": 1, "crop": 64, "log_every": 1, "checkpoint_minutes": 0.0001}
HOLDING = """
import sys, time
from somaseg.folders import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""
ADDING = """
import sys
from somaseg.runs.recorded import add_result
for i in range(50):
    add_result(sys.argv[1], public=i / 100, note=f"{sys.argv[2]}-{i}")
"""


def python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locks")
    data = write_dataset(folder / "data", n_per_class=1, size=(64, 64), n_test=1)
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"model": MODEL, "training": TRAINING}))
    plan = {
        "data": {"path": str(data)},
        "folds": 2,
        "members": [{"name": "one", "model": MODEL, "training": TRAINING}],
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    found = {"a": Instances.from_labels(np.pad(np.ones((4, 4), np.int32), 2))}
    save_predictions(folder / "one.npz", found)
    save_predictions(folder / "two.npz", found)
    config = RunConfig.make(DataConfig.at(data), str(folder / "tiny.yaml"), folds=2)
    Run.create(folder / "out", config)
    return folder


@pytest.fixture
def holder(place):
    process = python(HOLDING, place / "out")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    "command",
    [
        "train DATA --model TINY --folds 2 --out OUT",
        "fit --plan PLAN --out OUT",
        "tune OUT",
        "predict DATA/test --out OUT --no-overlays",
    ],
)
def test_the_second_command_says_who_holds_the_folder(place, holder, command):
    files = {"DATA": "data", "TINY": "tiny.yaml", "PLAN": "plan.yaml", "OUT": "out"}
    for word, name in files.items():
        command = command.replace(word, str(place / name))
    before = sorted(path.name for path in (place / "out").iterdir())
    with pytest.raises(SomasegError, match=rf"out: process {holder.pid} on .* since .*; wait"):
        CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert sorted(path.name for path in (place / "out").iterdir()) == before


def test_an_ensemble_holds_its_folder(place, tmp_path):
    words = ["ensemble", *(str(place / name) for name in ("one.npz", "two.npz"))]
    words += ["--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    process = python(HOLDING, tmp_path / "out")
    assert process.stdout.readline() == "held\n"
    with pytest.raises(SomasegError, match=f"out: process {process.pid} "):
        CliRunner().invoke(app, words, catch_exceptions=False)
    process.kill()
    process.wait()
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0


def test_a_folder_of_others_gets_no_lock(place, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    words = ["train", str(place / "data"), "-m", str(place / "tiny.yaml"), "--folds", "2"]
    with pytest.raises(SomasegError, match="exists and is no run"):
        CliRunner().invoke(app, [*words, "-o", str(tmp_path / "theirs")], catch_exceptions=False)
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["file"]


def test_all_results_that_are_added_at_once_are_kept(place):
    processes = [python(ADDING, place / "out", k) for k in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    notes = [entry["note"] for entry in json.loads((place / "out/leaderboard.json").read_text())]
    assert sorted(notes) == sorted(f"{k}-{i}" for k in range(4) for i in range(50))


def test_a_training_ends_with_its_command(place, tmp_path):
    """Killed alone, the command leaves no fold that trains on and writes into the next one's."""
    words = ["train", place / "data", "-m", place / "tiny.yaml", "--folds", 2, "--jobs", 1]
    command = [sys.executable, "-m", "somaseg", *words, "--out", tmp_path / "run"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoint = tmp_path / "run" / "fold0" / "checkpoint.safetensors"
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    holder = json.loads((tmp_path / "run" / "fold0" / ".holder.json").read_text())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the fold's process is alive")
