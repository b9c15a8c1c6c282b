"""Trackers, read back from what they wrote: event files, W&B's offline file, MLflow's store."""

import csv
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import yaml
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.models.training.journal import CHECKPOINT
from somaseg.models.training.logs import Loggers
from somaseg.models.training.loop import train_network
from somaseg.models.training.settings import TrainSettings
from somaseg.predict.store import load_predictions, save_predictions
from somaseg.runs.cross_validate import score_run
from somaseg.runs.run import Run
from tests.cli.run import somaseg
from tests.models.contract import training_samples
from tests.models.training.test_loop import Stopped, fresh

STEPS = 8
PRESET = {
    "model": {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16},
    "training": {"steps": STEPS, "batch": 1, "crop": 64, "log_every": 2},
}
PICTURE = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def events(folder):
    found = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0})
    return found.Reload()


def scalars(folder, tag):
    return [(event.step, event.value) for event in events(folder).Scalars(tag)]


def wandb_records(path):
    """Read W&B's transaction log: LevelDB's log format (32 KiB blocks of checked chunks)."""
    data = path.read_bytes()
    at, parts = 7, b""  # after the file's own header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last chunk
            yield Record.FromString(parts)
            parts = b""


def wandb_run(folder):
    """Return config, (step, values) rows, summary and picture files of the one offline run."""
    (place,) = (folder / "wandb").glob("offline-run-*")
    (path,) = place.glob("*.wandb")
    config, rows, summary = {}, [], {}
    for record in wandb_records(path):
        if record.HasField("run"):
            config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
        if record.HasField("summary"):
            update = record.summary.update
            summary |= {u.key or ".".join(u.nested_key): json.loads(u.value_json) for u in update}
        if record.HasField("history"):
            items = record.history.item
            row = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
            rows.append((record.history.step.num, row))
    return config, rows, summary, sorted((place / "files" / "media").rglob("*.png"))


def mlflow_runs(run):
    client = MlflowClient(f"sqlite:///{run / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("somaseg")
    return client, {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run that was killed in mid-training and went on, tracked by all."""
    folder = tmp_path_factory.mktemp("tracked")
    write_dataset(folder / "data", n_per_class=1, size=(96, 96))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(PRESET))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MLFLOW"))}
    environment |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    words = ["train", folder / "data", "--model", folder / "tiny.yaml", "--out", folder / "run"]
    words += ["--folds", 2, "--jobs", 1, "--log", "wandb", "--log", "mlflow"]
    words += ["--set", "training.checkpoint_minutes=0.0001"]
    process = subprocess.Popen(
        [sys.executable, "-m", "somaseg", *map(str, words)],
        start_new_session=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    checkpoint = folder / "run" / "fold0" / CHECKPOINT
    deadline = time.monotonic() + 1200
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert checkpoint.exists(), process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with patch.dict(os.environ, environment, clear=True):
        somaseg(*words)
    return folder / "run"


def curve(run, fold, name="total"):
    rows = csv.DictReader((run / f"fold{fold}" / "metrics.csv").open())
    return [(int(row["step"]), float(row[name])) for row in rows]


def test_tensorboard_has_each_point_once(tracked):
    for fold in range(2):
        expected = curve(tracked, fold)
        assert [step for step, _ in expected] == [2, 4, 6, 8]
        found = scalars(tracked / f"fold{fold}", "total")
        assert [step for step, _ in found] == [2, 4, 6, 8]
        assert [v for _, v in found] == pytest.approx([v for _, v in expected], abs=1e-5)
    text = events(tracked / "fold0").Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    assert "checkpoint_minutes: 0.0001" in text.decode()


def test_wandb_has_config_and_each_point_once(tracked):
    for fold in range(2):
        config, rows, _, _ = wandb_run(tracked / f"fold{fold}")
        assert config["training"]["steps"] == STEPS
        assert config["model"]["family"] == "flow"
        assert [step for step, _ in rows] == [2, 4, 6, 8]
        assert [row["total"] for _, row in rows] == pytest.approx(
            [value for _, value in curve(tracked, fold)], abs=1e-5
        )


def test_mlflow_has_config_and_each_point_once(tracked):
    client, runs = mlflow_runs(tracked)
    assert set(runs) == {"run-fold0", "run-fold1", "run-scores"}
    for fold in range(2):
        run = runs[f"run-fold{fold}"]
        assert run.info.status == "FINISHED"
        assert run.data.params["training.steps"] == str(STEPS)
        assert run.data.tags["somaseg.run"] == "run"
        past = client.get_metric_history(run.info.run_id, "total")
        assert [metric.step for metric in past] == [2, 4, 6, 8]
        assert [metric.value for metric in past] == pytest.approx(
            [value for _, value in curve(tracked, fold)], abs=1e-5
        )


@pytest.fixture(scope="module")
def scored(tracked):
    """The run scored a second time, with predictions that are right but for one cell an image."""
    run = Run.open(tracked)
    dataset = run.dataset()
    for fold in range(2):
        ids = list(load_predictions(run.predictions_path(fold)))
        found = {i: dataset[i].annotated()[1:] for i in ids}  # an image of one cell is left without
        save_predictions(run.predictions_path(fold), found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        score_run(run, dataset)
    return tracked


def test_scores_are_in_all_and_replace_the_former(scored):
    scores = json.loads((scored / "scores.json").read_text())["nested"]
    expected = {"nested/map": scores["map"]}
    expected |= {f"nested/class {name}": value for name, value in scores["by_class"].items()}
    assert len(expected) == 4
    assert 0 < scores["map"] < 1
    summary = wandb_run(scored)[2]
    runs = mlflow_runs(scored)[1]
    assert set(runs) == {"run-fold0", "run-fold1", "run-scores"}
    for name, value in expected.items():
        assert scalars(scored, name) == [(0, pytest.approx(value, abs=1e-6))]
        assert summary[name] == pytest.approx(value)
        assert runs["run-scores"].data.metrics[name] == pytest.approx(value)


def test_overlays_are_in_all(scored, tmp_path):
    names = {"overlays/worst", "overlays/median", "overlays/best"}
    found = events(scored)
    assert names == set(found.Tags()["images"])
    _, rows, _, pictures = wandb_run(scored)
    assert names == {n.removesuffix(".path") for _, row in rows for n in row if "path" in n}
    client, runs = mlflow_runs(scored)
    client.download_artifacts(runs["run-scores"].info.run_id, "overlays", str(tmp_path))
    paths = {f"overlays/{path.stem}": path for path in (tmp_path / "overlays").iterdir()}
    assert set(paths) == names
    for name, path in paths.items():
        picture = cv2.imread(str(path))
        # Truth and prediction, 96 pixels each and 4 between, a line of text above.
        assert picture.shape == (116, 196, 3)
        (event,) = found.Images(name)
        encoded = np.frombuffer(event.encoded_image_string, np.uint8)
        assert np.array_equal(cv2.imdecode(encoded, cv2.IMREAD_COLOR), picture)
        (other,) = [p for p in pictures if p.name.startswith(path.stem)]
        assert np.array_equal(cv2.imread(str(other)), picture)


def test_points_past_the_checkpoint_are_not_logged_twice(tmp_path):
    """The first sitting has logged step 4, but its last checkpoint is of step 2."""
    samples = training_samples(tmp_path)
    settings = TrainSettings(steps=6, batch=1, crop=64, log_every=2, checkpoint_minutes=1e-9)
    fold = tmp_path / "run" / "fold0"

    def stop(done, total, loss):
        if done == 3:
            shutil.copy(fold / CHECKPOINT, tmp_path / CHECKPOINT)
        if done == 5:
            raise Stopped

    def train(progress=None):
        loggers = Loggers(fold, "x", {"a": {"b": 1}}, (), tmp_path / "run")
        train_network(fresh(samples), samples, settings, fold, loggers=loggers, progress=progress)
        loggers.close()

    with pytest.raises(Stopped):
        train(stop)
    assert [step for step, _ in scalars(fold, "total")] == [2, 4]
    shutil.copy(tmp_path / CHECKPOINT, fold / CHECKPOINT)
    train()
    assert [step for step, _ in scalars(fold, "total")] == [2, 4, 6]


def test_points_of_a_training_without_a_checkpoint_are_not_logged_twice(tmp_path):
    samples = training_samples(tmp_path)
    settings = TrainSettings(steps=4, batch=1, crop=64, log_every=2, checkpoint_minutes=60)

    def stop(done, total, loss):
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train_network(fresh(samples), samples, settings, tmp_path / "fold0", progress=stop)
    train_network(fresh(samples), samples, settings, tmp_path / "fold0")
    assert [step for step, _ in curve(tmp_path, 0)] == [2, 4]


def test_a_tracker_that_fails_is_told_of_and_left_alone(tmp_path):
    loggers = Loggers(tmp_path, "x", {})
    loggers.begin()
    loggers.log(1, {"a": 1.0})
    with pytest.warns(UserWarning, match="tensorboard failed .* metrics.csv has it all"):
        loggers.image("broken", np.zeros((2, 2, 7), np.uint8))
    loggers.log(2, {"a": 2.0})
    loggers.close()
    assert scalars(tmp_path, "a") == [(1, 1.0)]


def test_what_cannot_be_logged_to_is_told_first(tmp_path, monkeypatch):
    with pytest.raises(SomasegError, match="--log comet: not one of tensorboard, wandb, mlflow"):
        Loggers(tmp_path, "x", {}, ["comet"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SomasegError, match=r"pip install 'somaseg\[wandb\]'"):
        Loggers(tmp_path, "x", {}, ["wandb"])
    # MLflow refuses new stores of plain files.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    with pytest.raises(SomasegError, match=r"--log mlflow: cannot log there .*maintenance mode"):
        Loggers(tmp_path, "x", {}, ["mlflow"]).begin()
