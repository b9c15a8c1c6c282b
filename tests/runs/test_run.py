"""The whole way on a few tiny images, through the command line as a user would go it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tifffile
import torch
import yaml

from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.folders import kind_of
from somaseg.models.bundle import load_model, read_bundle
from somaseg.models.precision import has_bfloat16
from somaseg.predict.load import load_segmenter
from somaseg.predict.store import load_predictions
from somaseg.runs.checking import pooled
from somaseg.runs.cross_validate import leave_model
from somaseg.runs.run import Run
from tests.cli.run import somaseg

PRESET = {
    "model": {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16},
    "training": {"steps": 8, "batch": 1, "crop": 64, "log_every": 2, "checkpoint_minutes": 0.0001},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_dataset(folder / "data", n_per_class=2, size=(96, 96), n_test=1)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(PRESET))
    somaseg(
        "train",
        folder / "data",
        "--model",
        folder / "tiny.yaml",
        "--folds",
        2,
        "--out",
        folder / "run",
        "--refit",
    )
    return folder


def test_a_run_is_a_readable_folder(place):
    run = place / "run"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["training"]["steps"] == 8
    folds = json.loads((run / "folds.json").read_text())
    assert len(json.dumps(folds)) > 20
    rows = list(csv.DictReader((run / "fold0" / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4", "6", "8"]
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores) == {"nested", "untuned", "optimistic", "rescored", "folds", "training"}
    assert set(json.loads((run / "settle.json").read_text())) == {"astro", "cort", "shsy5y"}
    assert (run / "tuning.png").stat().st_size > 5000
    assert list((run / "fold0" / "tensorboard").iterdir())
    assert not (run / "fold0" / "checkpoint.safetensors").exists()
    assert kind_of(run) == "run"
    assert not list(run.rglob(".holder.json"))


def test_every_image_is_predicted_by_the_model_that_has_not_seen_it(place):
    run = Run.open(place / "run")
    folds = run.folds(run.dataset())
    for fold in range(2):
        seen = set(json.loads((run.part(fold) / "training.json").read_text())["images"])
        predicted = set(load_predictions(run.predictions_path(fold)))
        assert predicted == {name for name, k in folds.items() if k == fold}
        assert not seen & predicted
    everything = json.loads((run.part(None) / "training.json").read_text())["images"]
    assert set(everything) == set(folds)


def test_models_know_what_lower_precision_does_to_their_score(place):
    run = Run.open(place / "run")
    found = pooled([run.part(fold) for fold in range(2)])
    assert (found is not None) is has_bfloat16(torch.device("cpu"))
    for fold in (0, 1, None):
        assert load_model(run.model_path(fold)).info.checked == found
    (member,) = read_bundle(place / "run" / "model.safetensors").members
    assert member.models[0].info.checked == found


def test_predict_writes_every_format(place):
    out = place / "masks"
    somaseg("predict", place / "data" / "test", "--model", place / "run", "--out", out)
    ids = sorted(p.stem for p in (place / "data" / "test").iterdir())
    results = json.loads((out / "predictions.json").read_text())
    rows = list(csv.DictReader((out / "submission.csv").open()))
    assert {row["id"] for row in rows} == set(ids)
    for name in ids:
        labels = tifffile.imread(out / "labels" / f"{name}.tif")
        assert labels.shape == (96, 96)
        count = len(np.unique(labels[labels > 0]))
        assert count == sum(r["image_id"] == name for r in results)
        assert count == sum(row["id"] == name and row["predicted"] != "" for row in rows)
        assert cv2.imread(str(out / "overlays" / f"{name}.png")).shape == (96, 96, 3)
    evaluated = somaseg("evaluate", out / "labels", out / "labels", "--json")
    assert json.loads(evaluated.stdout)["map"] == 1


def test_same_command_does_nothing_again(place):
    model = place / "run" / "fold1" / "model.safetensors"
    raw = place / "run" / "fold1" / "predictions.npz"
    before = raw.stat().st_mtime_ns
    somaseg(
        "train",
        place / "data",
        "--model",
        place / "tiny.yaml",
        "--folds",
        2,
        "--out",
        place / "run",
        "--refit",
    )
    assert raw.stat().st_mtime_ns == before
    assert model.exists()


def test_a_run_killed_before_its_config_was_written_is_begun_again(place, tmp_path):
    config = Run.open(place / "run").config
    for number, name in enumerate(("folds.json", ".folds.json.ab12cd_4.tmp.json")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text("{")
        run = Run.create(folder, config)
        assert run.folds(run.dataset()) == Run.open(place / "run").folds(run.dataset())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(SomasegError, match="exists and is no run"):
        Run.create(tmp_path / "mine", config)


def test_other_options_are_refused_by_name(place):
    done = somaseg(
        "train",
        place / "data",
        "--model",
        place / "tiny.yaml",
        "--folds",
        2,
        "--out",
        place / "run",
        "--steps",
        9,
        check=False,
    )
    assert done.returncode == 2
    assert "differs in training.steps" in done.stderr
    assert done.stderr.count("\n") == 1


def test_killed_run_ends_as_an_undisturbed_one(place):
    command = [
        sys.executable,
        "-c",
        "from somaseg.cli import main; main()",
        "train",
        place / "data",
        "--model",
        place / "tiny.yaml",
        "--folds",
        "2",
        "--out",
        place / "killed",
        "--jobs",
        "1",
    ]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, start_new_session=True
    )
    metrics = place / "killed" / "fold0" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert metrics.exists()
    assert not (place / "killed" / "scores.json").exists()
    somaseg(*command[3:])
    for fold in range(2):
        one, other = (
            load_predictions(place / x / f"fold{fold}" / "predictions.npz")
            for x in ("run", "killed")
        )
        assert list(one) == list(other)
        for name in one:
            assert np.array_equal(one[name].pixels, other[name].pixels)
            assert np.array_equal(one[name].scores, other[name].scores)


def test_unfinished_run_says_what_is_missing(place, tmp_path):
    run = Run.create(tmp_path / "run", Run.open(place / "run").config)
    with pytest.raises(SomasegError, match=r"fold0/model\.safetensors is missing"):
        run.model_paths()
    with pytest.raises(SomasegError, match="not a run"):
        Run.open(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(SomasegError, match="exists and is no run"):
        Run.create(tmp_path / "other", run.config)


def test_a_run_leaves_one_file_that_predicts_as_its_parts_do(place, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    old = tmp_path / "old"  # as runs of before were left
    shutil.copytree(place / "run", old)
    (old / "model.safetensors").rename(tmp_path / "moved.safetensors")
    found = [
        load_segmenter(path)(image) for path in (place / "run", tmp_path / "moved.safetensors")
    ]
    expected = load_segmenter(old)(image)
    for one in found:
        assert np.array_equal(one.to_labels(), expected.to_labels())
        assert np.array_equal(one.scores, expected.scores)
    bundle = read_bundle(place / "run" / "model.safetensors")
    scores = json.loads((place / "run" / "scores.json").read_text())
    assert bundle.card["nested out-of-fold mAP"] == round(scores["nested"]["map"], 4)
    assert bundle.settings == json.loads((place / "run" / "settle.json").read_text())


def test_a_run_that_was_tuned_with_flips_predicts_with_flips(place, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"views": "flips"}))
    (run / "model.safetensors").unlink()
    image = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    expected = load_segmenter(place / "run", views="flips").predictor(image)
    plain = load_segmenter(place / "run").predictor(image)
    assert not np.array_equal(plain.scores, expected.scores)
    assert np.array_equal(load_segmenter(run).predictor(image).scores, expected.scores)
    leave_model(Run.open(run))
    assert np.array_equal(load_segmenter(run).predictor(image).scores, expected.scores)
    again = load_segmenter(run, views="none").predictor(image)
    assert np.array_equal(again.scores, plain.scores)


def test_segmenter_takes_a_run_a_model_and_color(place):
    image = np.zeros((70, 64, 3), np.uint8)
    for source in (place / "run", place / "run" / "fold0" / "model.safetensors"):
        assert load_segmenter(source)(image).size == (70, 64)
    with pytest.raises(SomasegError, match="must be"):
        load_segmenter(place / "run")(np.zeros((2, 3, 4, 5)))
    with pytest.raises(SomasegError, match="no such model or run"):
        load_segmenter(place / "nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere.png"], "nowhere.png: no such file"),
        (["train", "nowhere"], "nowhere: no such file"),
        (["train", "DATA", "--model", "unet_9000"], "neither a YAML file nor a preset"),
        (["train", "DATA", "--set", "training.stepz=3"], "stepz"),
        (["train", "DATA", "--set", "steps=3"], "write it as training.FIELD=VALUE"),
        (["train", "DATA", "--weights", "cort"], "cort=320"),
        (
            ["train", "DATA", "--views", "some"],
            "views: Input should be 'none', 'flips', 'all', 'scales' or 'flips+scales'",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(place, arguments, message, tmp_path):
    filled = [str(place / "data") if a == "DATA" else a for a in arguments]
    done = somaseg(*filled, "--out", tmp_path / "out", check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_one_fold_alone(place, tmp_path):
    command = ["train", place / "data", "--model", place / "tiny.yaml", "--folds", 2]
    somaseg(*command, "--out", tmp_path / "run", "--fold", 1)
    assert not (tmp_path / "run" / "fold0").exists()
    run = Run.open(tmp_path / "run")
    assert run.finished_folds() == [1]
    folds = run.folds(run.dataset())
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["folds"] == [1]
    assert set(scores["nested"]["images"]) == {name for name, fold in folds.items() if fold == 1}
    refused = somaseg(*command, "--out", tmp_path / "run", "--fold", 2, check=False)
    assert refused.returncode == 2
    assert "fold 2:" in refused.stderr
    assert "has folds 0 to 1" in refused.stderr
    unfinished = somaseg(
        "predict", place / "data" / "test", "--model", tmp_path / "run", check=False
    )
    assert "fold0/model.safetensors is missing" in unfinished.stderr


def test_cleaning_with_a_run_and_training_on_the_copy(place, tmp_path):
    copy = tmp_path / "copy"
    done = somaseg("data", "clean", place / "data", copy, "--with", place / "run", "--slivers", 9)
    assert "mended sliver" in done.stdout
    command = ["train", place / "data", "--model", place / "tiny.yaml", "--folds", 2, "--fold", 0]
    somaseg(*command, "--train-on", copy, "--out", tmp_path / "run")
    run = Run.open(tmp_path / "run")
    dataset = run.dataset()
    learned = {s.id: len(s.instances) for s in run.training_samples(dataset, 0)}
    assert sum(learned.values()) < sum(len(dataset[name].instances) for name in learned)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(scores["nested"]["images"]) == set(dataset.ids) - set(learned)

    (copy / "train.csv").write_text("\n".join((copy / "train.csv").read_text().split("\n")[:3]))
    refused = somaseg(*command, "--train-on", copy, "--out", tmp_path / "other", check=False)
    assert refused.returncode == 2
    assert "they must be the same" in refused.stderr or "has no annotation of" in refused.stderr
    assert not (tmp_path / "other" / "config.yaml").exists()
