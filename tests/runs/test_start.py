"""`somaseg fit --start-from`: a model fine-tuned, and told whether that was worth it."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import yaml

from somaseg.data.convert import write_dataset
from somaseg.data.types import Dataset
from somaseg.models.bundle import Bundle, BundleMember, write_bundle
from somaseg.models.registry import build_model, parse_config
from somaseg.models.training.fit import train_model
from somaseg.models.training.info import learn_info
from somaseg.models.training.settings import TrainSettings
from somaseg.runs.starting import prepare_start, verdict
from tests.cli.run import somaseg
from tests.runs.test_round_trip import draw

MODEL = {"family": "semantic", "network": "attention_unet", "pretrained": "none"}
MODEL |= {"widths": [8, 16, 32], "diameter": 16}
STEPS = {"steps": 60, "batch": 4, "crop": 64, "rate": 0.01, "warmup": 0.1, "average": 0.9}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of bright cells, and annotated images of dark ones."""
    folder = tmp_path_factory.mktemp("start")
    bright = [draw(folder / "bright", k, False) for k in range(3)]
    dark = [draw(folder / "dark", k, True) for k in range(10, 16)]
    write_dataset(folder / "data", Dataset(tuple(dark), ("cell",), "x"), "labels")
    torch.manual_seed(0)
    model = build_model(parse_config(MODEL), learn_info(bright))
    train_model(model, bright, TrainSettings(**STEPS), folder / "training")
    model.save(folder / "bright.safetensors")
    return folder


def test_it_is_told_that_it_got_better(place):
    out = place / "run"
    fit = ("fit", place / "data", "--out", out, "--budget", "10m", "--jobs", 1)
    said = somaseg(*fit, "--start-from", place / "bright.safetensors", "--plan-only").stdout
    assert "its own nested score" in said
    plan = yaml.safe_load((out / "plan.yaml").read_text())
    (member,) = plan["members"]
    assert plan["start_from"] == str(place / "bright.safetensors")
    assert member["model"]["widths"] == [8, 16, 32]
    assert member["start_from"] == str((out / "start" / f"{member['name']}.safetensors").resolve())
    member["training"] |= STEPS
    plan["folds"] = 2
    (out / "plan.yaml").write_text(yaml.safe_dump(plan))
    said = somaseg("fit", "--resume", "--out", out).stdout
    scores = json.loads((out / "scores.json").read_text())
    was, now = scores["start"]["nested"]["map"], scores["nested"]["map"]
    assert now > was + 0.2
    line = f"Better: {now:.3f} against {was:.3f} of the model it started from"
    assert line in said
    assert "as it was" in said
    assert line in (out / "report.html").read_text()
    assert "<td>the model it started from</td>" in (out / "report.html").read_text()
    # Nothing is predicted again.
    kept = (out / "start/predictions.npz").stat().st_mtime_ns
    assert line in somaseg("fit", "--resume", "--out", out).stdout
    assert (out / "start/predictions.npz").stat().st_mtime_ns == kept


def test_a_training_that_did_not_help_is_told():
    samples = [(k, (f"{k}", k / 10)) for k in range(8)]

    def score(change):
        images = [SimpleNamespace(id=name, score=x + change(i)) for i, (name, x) in samples]
        return SimpleNamespace(images=images, map=sum(image.score for image in images) / 8)

    before = score(lambda i: 0)
    assert verdict(before, score(lambda i: 0.05)).startswith("Better: 0.400 against 0.350")
    assert verdict(before, score(lambda i: -0.05)).startswith("WORSE: 0.300 against 0.350")
    mixed = verdict(before, score(lambda i: 0.1 * (-1) ** i))
    assert mixed.startswith("No clear gain")
    assert "4 of 8 images better, 4 worse" in mixed


def test_a_model_of_several_starts_a_member_each(place, tmp_path):
    torch.manual_seed(0)
    models = [
        build_model(
            parse_config(MODEL | {"widths": [4, 8 * k]}), learn_info([draw(place, 0, False)])
        )
        for k in (1, 2)
    ]
    members = tuple(
        BundleMember("a b", 1.0, "none", (model, copy.deepcopy(model))) for model in models
    )
    write_bundle(tmp_path / "m.safetensors", Bundle(members, "wbf"))
    start = prepare_start(tmp_path / "m.safetensors", tmp_path / "run")
    assert [path.name for path in start.presets] == ["a-b-0.yaml", "a-b-1.yaml"]
    for path, model in zip(start.presets, models, strict=True):
        assert yaml.safe_load(path.read_text())["model"]["widths"] == list(model.config.widths)


def test_other_classes_and_families_are_refused(place, tmp_path):
    pytest.importorskip("xgboost")
    fields = {"family": "pixel_forest", "depth": 2, "pixels": 2000, "levels": 1, "class_rounds": 1}
    samples = [draw(place / "bright", 0, False)]
    forest = build_model(parse_config(fields), learn_info(samples))
    train_model(forest, samples, TrainSettings(steps=1), tmp_path / "t")
    forest.save(tmp_path / "forest.safetensors")
    start = ("--start-from", tmp_path / "forest.safetensors")
    done = somaseg("fit", place / "data", "--out", tmp_path / "run", *start, check=False)
    assert done.returncode == 2
    assert "family 'pixel_forest', which has no weights to start from" in done.stderr
