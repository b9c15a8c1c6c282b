import csv

import numpy as np
import pytest
import torch
import yaml

from somaseg.errors import SomasegError
from somaseg.models.registry import build_model, parse_config
from somaseg.models.training.checkpoint import load_checkpoint, save_checkpoint
from somaseg.models.training.info import learn_info
from somaseg.models.training.journal import CHECKPOINT, MetricsFile
from somaseg.models.training.loop import rate_factor, train_network
from somaseg.models.training.settings import TrainSettings
from somaseg.models.training.transfer import start_from
from tests.models.contract import training_samples

CONFIG = {"family": "flow", "decoder": (16, 16, 8, 8), "diameter": 16.0}
SETTINGS = TrainSettings(
    steps=6, batch=1, crop=64, log_every=2, average=0.5, checkpoint_minutes=1e-9
)


class Stopped(Exception):
    pass


def fresh(samples):
    torch.manual_seed(0)
    return build_model(parse_config(CONFIG), learn_info(samples))


def test_interrupted_training_ends_as_an_undisturbed_one(tmp_path):
    samples = training_samples(tmp_path)
    whole = fresh(samples)
    train_network(whole, samples, SETTINGS, tmp_path / "whole")

    def stop(done, total, loss):
        # After a step that is logged no more: its work is lost and done again.
        if done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train_network(fresh(samples), samples, SETTINGS, tmp_path / "parts", progress=stop)
    seen = []
    resumed = fresh(samples)
    train_network(
        resumed, samples, SETTINGS, tmp_path / "parts", progress=lambda done, *_: seen.append(done)
    )
    assert seen == [5, 6]
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name
    rows = [list(csv.DictReader((tmp_path / x / "metrics.csv").open())) for x in ("whole", "parts")]
    assert [r["step"] for r in rows[1]] == ["2", "4", "6"]
    assert [r["total"] for r in rows[0]] == [r["total"] for r in rows[1]]


def test_finished_training_is_not_done_again(tmp_path):
    samples = training_samples(tmp_path)
    first = fresh(samples)
    train_network(first, samples, SETTINGS, tmp_path / "run")
    steps = []
    again = fresh(samples)
    result = train_network(
        again, samples, SETTINGS, tmp_path / "run", progress=lambda *a: steps.append(a)
    )
    assert steps == []
    assert result.losses["total"] > 0
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )


def test_training_changes_the_weights_and_averages_them(tmp_path):
    samples = training_samples(tmp_path)
    before = {k: v.clone() for k, v in fresh(samples).state_dict().items()}
    plain, averaged = fresh(samples), fresh(samples)
    train_network(plain, samples, SETTINGS.model_copy(update={"average": 0.0}), tmp_path / "plain")
    train_network(averaged, samples, SETTINGS, tmp_path / "averaged")
    weight = "net.head.weight"
    moved = (plain.state_dict()[weight] - before[weight]).abs().sum()
    assert 0 < (averaged.state_dict()[weight] - before[weight]).abs().sum() < moved


def test_checkpoint_of_other_settings_is_refused(tmp_path):
    samples = training_samples(tmp_path)
    train_network(fresh(samples), samples, SETTINGS, tmp_path / "run")
    other = SETTINGS.model_copy(update={"rate": 0.5})
    with pytest.raises(SomasegError, match="other training settings"):
        train_network(fresh(samples), samples, other, tmp_path / "run")


def test_truncated_checkpoint_is_named(tmp_path):
    samples = training_samples(tmp_path)
    train_network(fresh(samples), samples, SETTINGS, tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SomasegError, match=r"checkpoint\.safetensors: truncated or damaged"):
        train_network(fresh(samples), samples, SETTINGS, tmp_path / "run")


def test_crop_must_fit_the_network(tmp_path):
    samples = training_samples(tmp_path)
    settings = SETTINGS.model_copy(update={"crop": 100})
    with pytest.raises(SomasegError, match="100 is not a multiple of 32"):
        train_network(fresh(samples), samples, settings, tmp_path / "run")


def test_wild_rate_is_told(tmp_path):
    samples = training_samples(tmp_path)
    settings = SETTINGS.model_copy(update={"rate": 1e30, "optimizer": "sgd", "warmup": 0.0})
    with pytest.raises(SomasegError, match="not finite"):
        train_network(fresh(samples), samples, settings, tmp_path / "run")


def test_checkpoint_round_trip(tmp_path):
    state = {"a": {0: torch.arange(3.0), "b": [1, None, "x", torch.tensor(2)]}, "c": {"d": 0.5}}
    save_checkpoint(tmp_path / "c.safetensors", state, {"step": 3})
    read, progress = load_checkpoint(tmp_path / "c.safetensors")
    assert progress == {"step": 3}
    assert torch.equal(read["a"][0], state["a"][0])
    assert read["a"]["b"][:3] == [1, None, "x"]
    assert read["c"] == {"d": 0.5}


def test_metrics_after_the_checkpoint_are_cut(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv")
    for step in (2, 4, 6):
        metrics.add(step, 1.0, 0.1, {"total": step / 2})
    # A killed process may leave half a line.
    with metrics.path.open("a") as file:
        file.write("8,1.0")
    metrics.cut(4)
    assert metrics.last() == {"total": 2.0}


def test_rate_rises_and_falls():
    settings = TrainSettings(steps=100, warmup=0.1)
    factors = [rate_factor(step, settings) for step in range(100)]
    assert np.all(np.diff(factors[:10]) > 0)
    assert np.all(np.diff(factors[10:]) < 0)
    assert max(factors) == pytest.approx(1)
    assert factors[-1] < 0.02


def test_diameter_counts_classes_alike(tmp_path):
    samples = training_samples(tmp_path, ("cort", "shsy5y"), (200, 200))
    info = learn_info(samples)
    medians = [2 * np.sqrt(np.median(s.instances.areas) / np.pi) for s in samples]
    assert info.diameter == pytest.approx(np.median(medians))
    assert info.one_class


def test_start_from_other_classes(tmp_path):
    samples = training_samples(tmp_path)
    teacher = build_model(
        parse_config(CONFIG), learn_info(samples).model_copy(update={"names": ("cell",)})
    )
    teacher.save(tmp_path / "teacher.safetensors")
    student = fresh(samples)
    note = start_from(student, tmp_path / "teacher.safetensors")
    assert "fresh: net.head" in note
    weight = "net.blocks.0.convs.0.0.weight"
    assert torch.equal(student.state_dict()[weight], teacher.state_dict()[weight])
    other = build_model(parse_config({**CONFIG, "encoder": "resnet18"}), teacher.info)
    with pytest.raises(SomasegError, match=r"teacher\.safetensors: only .* tensors fit"):
        start_from(other, tmp_path / "teacher.safetensors")


def test_no_is_a_precision_in_yaml_too():
    settings = TrainSettings.model_validate(yaml.safe_load("precision: no"))
    assert settings.precision == "no"
