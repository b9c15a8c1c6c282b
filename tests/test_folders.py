"""What a folder is, and who may write to it: with real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from somaseg.errors import SomasegError
from somaseg.files import atomic_path
from somaseg.folders import HOLDER, hold, is_leftover, kind_of, model_files

HOLDING = """
import sys, time
from somaseg.folders import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
ADDING = """
import json, sys
from pathlib import Path
from somaseg.folders import sole
from somaseg.files import read_json, write_json
path = Path(sys.argv[1])
for i in range(50):
    with sole(path):
        write_json(path, [*(read_json(path) if path.exists() else []), f"{sys.argv[2]}-{i}"])
"""


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def holder(tmp_path):
    process = python(HOLDING, tmp_path / "out")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["config.yaml", "folds.json"], "run"),
        (["config.yaml"], None),  # anybody's
        (["plan.yaml"], "fit"),
        (["plan.yaml", "ensemble.yaml", "model.safetensors"], "fit"),  # of before 0.2
        (["plan.yaml", "choice.yaml", "predictions.npz", "folds.json"], "fit"),
        (["search.yaml", "model.safetensors"], "search"),
        (["ensemble.yaml", "predictions.npz", "predictions.json", "labels/a.tif"], "ensemble"),
        (["ensemble.yaml"], None),
        (["predictions.json", "labels/a.tif", "submission.csv"], "masks"),
        (["labels/a.tif"], None),  # a data set
        ([], None),
    ],
)
def test_kind(tmp_path, names, kind):
    assert kind_of(files(tmp_path, *names)) == kind
    assert kind_of(tmp_path / "nothing") is None


def test_models_of_a_run(tmp_path):
    (tmp_path / "folds.json").write_text(json.dumps({"k": 2, "folds": {"a": 0, "b": 1}}))
    files(tmp_path, "fold0/model.safetensors")
    with pytest.raises(SomasegError, match=r"fold1/model\.safetensors is missing"):
        model_files(tmp_path)
    files(tmp_path, "fold1/model.safetensors")
    assert [path.parent.name for path in model_files(tmp_path)] == ["fold0", "fold1"]
    files(tmp_path, "all/model.safetensors")
    assert [path.parent.name for path in model_files(tmp_path)] == ["all"]


def test_the_second_writer_is_told_who_the_first_is(tmp_path, holder):
    with (
        pytest.raises(SomasegError, match=rf"out: process {holder.pid} on .+ since 20") as told,
        hold(tmp_path / "out", wait=0.1),
    ):
        pass
    assert "\n" not in str(told.value)
    with hold(tmp_path / "other"):
        pass  # another folder is another matter


def test_a_killed_writer_holds_nothing(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "out" / HOLDER).exists()
    with hold(tmp_path / "out"):
        assert json.loads((tmp_path / "out" / HOLDER).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "out" / HOLDER).exists()


def test_a_thread_may_hold_twice_but_not_two_threads(tmp_path):
    errors = []

    def try_it():
        try:
            with hold(tmp_path, wait=0.1):
                pass
        except SomasegError as error:
            errors.append(error)

    with hold(tmp_path):
        with hold(tmp_path):
            pass
        other = threading.Thread(target=try_it)
        other.start()
        other.join()
        assert len(errors) == 1
        assert (tmp_path / HOLDER).exists()


def test_all_that_several_processes_add_is_kept(tmp_path):
    path = tmp_path / "list.json"
    processes = [python(ADDING, path, k) for k in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert sorted(json.loads(path.read_text())) == sorted(
        f"{k}-{i}" for k in range(4) for i in range(50)
    )


def test_what_killed_writers_left_is_cleared(tmp_path):
    code = """
import os, sys
from somaseg.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""
    for place in ("out/train.csv", "out/labels/a.tif", "out/fold0/model.safetensors"):
        assert python(code, tmp_path / place).wait() == -signal.SIGKILL
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) == 3
    assert all(map(is_leftover, left))
    mine = files(tmp_path / "out", ".hidden", ".tmp", "a.tmp", "b.12345678.tmp", ".c.tmp.csv")
    begun = time.monotonic()
    with hold(mine):
        pass
    assert time.monotonic() - begun < 5
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {".hidden", ".tmp", "a.tmp", "b.12345678.tmp", ".c.tmp.csv", ".lock"}


def test_what_is_being_written_is_no_data(tmp_path):
    with atomic_path(tmp_path / "train.csv") as temporary:
        assert is_leftover(temporary)
    assert not is_leftover(tmp_path / "train.csv")
