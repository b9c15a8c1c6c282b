"""Damaged files of runs: one line that names the file, or the rest goes on without it."""

import json
import os
import sys

import pytest
import torch

from somaseg.data.folds import save_folds
from somaseg.data.load import read_dataset
from somaseg.errors import SomasegError
from somaseg.files import write_json
from somaseg.instances import Instances
from somaseg.models.training.checkpoint import load_checkpoint, save_checkpoint
from somaseg.models.training.journal import MetricsFile
from somaseg.predict.store import save_predictions
from somaseg.runs.execute import execute
from somaseg.runs.ledger import read_ledger
from somaseg.runs.members import read_members
from somaseg.runs.recorded import add_result
from somaseg.runs.run import RunConfig
from somaseg.runs.search import Search, SearchConfig
from somaseg.runs.sources import DataConfig
from somaseg.runs.space import Dimension
from tests.cli.run import somaseg

LONG = "x" * 5000  # a name that no file system takes


@pytest.mark.parametrize(
    "text",
    [b"step,seconds,total\nds,1,2\n", b"step,seconds,total\n1,1,\0\n", b"step,\xff\n1,2\n"],
    ids=["step", "loss", "encoding"],
)
def test_metrics(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_bytes(text)
    with pytest.raises(SomasegError, match=r"metrics\.csv: .*(delete|export) it"):
        MetricsFile(path).rows()


def test_a_checkpoint_that_was_damaged_within_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"model": {"w": torch.arange(100.0)}}, {"step": 3})
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # one bit of a weight: the file can be read as before
    path.write_bytes(data)
    with pytest.raises(SomasegError, match=r"c\.safetensors: .*checksum.*delete it to start"):
        load_checkpoint(path)


def test_a_checkpoint_without_checksum_is_one_of_before(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"model": {"w": torch.arange(3.0)}}, {"step": 3})
    data = path.read_bytes().replace(b'"checksum"', b'"checksun"')
    path.write_bytes(data)
    assert load_checkpoint(path)[1] == {"step": 3}


def test_names_that_no_file_system_takes(tmp_path):
    with pytest.raises(SomasegError, match="no such"):
        read_dataset(LONG)
    with pytest.raises(SomasegError, match="no such"):
        read_members([tmp_path / LONG])
    done = somaseg("data", "info", LONG, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: x")


def test_folds_of_an_ensemble(tmp_path):
    (tmp_path / "ensemble.yaml").write_text("members: []\n")
    save_predictions(tmp_path / "predictions.npz", {"a": Instances.empty((9, 9), ("cell",))})
    save_folds(tmp_path / "folds.json", {"a": 0})
    assert read_members([tmp_path])[0].folds == {"a": 0}
    write_json(tmp_path / "folds.json", {"k": 1})
    with pytest.raises(SomasegError, match=r"folds\.json: no folds"):
        read_members([tmp_path])


def search_of(folder):
    config = RunConfig.make(DataConfig.at(folder), folds=2)
    space = {"training.rate": Dimension(low=1e-4, high=1e-2, log=True)}
    return Search.create(folder / "search", SearchConfig(base=config, space=space))


def test_a_search_goes_on_in_what_a_killed_one_has_left(tmp_path):
    (tmp_path / "search").mkdir()
    left = tmp_path / "search" / ".search.yaml.abcd1234.tmp.yaml"
    left.write_text("half")
    search = search_of(tmp_path)
    assert not left.exists()
    assert search_of(tmp_path).config == search.config
    (tmp_path / "search" / "search.yaml").unlink()
    (tmp_path / "search" / "mine.txt").write_text("mine")
    with pytest.raises(SomasegError, match="exists and is no search"):
        search_of(tmp_path)


def test_the_database_of_a_search(tmp_path):
    search = search_of(tmp_path)
    search.study().ask()
    path = tmp_path / "search" / "search.db"
    data = path.read_bytes()
    for damaged in (data[:3000], b"no database" * 400, data.replace(b"RUNNING", b"R\xff\xfeNING")):
        assert damaged != data
        path.write_bytes(damaged)
        with pytest.raises(SomasegError, match=r"search\.db: cannot be opened"):
            search.study()


def test_the_ledger_leaves_out_what_is_no_number(tmp_path):
    for name, score in (("good", 0.5), ("bad", "0.5"), ("worse", float("1e400"))):
        run = tmp_path / name
        run.mkdir()
        (run / "plan.yaml").write_text("budget: 2h")
        nested = {"map": 0.25, "by_class": {"cort": score}}
        (run / "scores.json").write_text(json.dumps({"nested": nested, "untuned": {"map": 0.2}}))
    results = ({"public": "0.5"}, {"public": 0.5, "cv": [1]}, {"public": 0.5, "cv": {"map": "x"}})
    for number, damaged in enumerate(results):
        run = tmp_path / f"result{number}"
        run.mkdir()
        (run / "plan.yaml").write_text("budget: 2h")
        write_json(run / "leaderboard.json", [damaged])
    ledger = read_ledger(tmp_path)
    assert [entry.name for entry in ledger.entries] == ["good"]
    assert len(ledger.problems) == 5
    with pytest.raises(SomasegError, match=r"leaderboard\.json: not a list of scores"):
        add_result(run, public=0.5)


def test_cores_of_a_training_do_not_depend_on_how_many_are_left(tmp_path, monkeypatch):
    """With other threads, floats are added in another order: a resumed fold would differ."""
    (tmp_path / "task_of_a_test.py").write_text(
        "import json, os; print(json.dumps({'threads': [os.environ[f'{name}_NUM_THREADS'] "
        "for name in ('OMP', 'MKL')]}))"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr("somaseg.models.training.loop.os.sched_getaffinity", lambda _: range(12))
    told = []

    def note(_, event):
        if "threads" in event:
            told.append(event["threads"])

    for tasks, of in ((3, 0), (1, 3), (1, 0)):
        execute([(str(i), []) for i in range(tasks)], 4, note, "task_of_a_test", of=of)
    assert told == [["4"] * 2] * 3 + [["4"] * 2] + [["12"] * 2]

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # alone, as its users set it
    execute([("0", [])], 1, note, "task_of_a_test")
    assert told[-1] == ["1", "1"]
