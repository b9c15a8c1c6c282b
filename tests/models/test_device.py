import os
import sys

import numpy as np
import pytest
import torch
import typer

from somaseg.cli import app
from somaseg.errors import SomasegError
from somaseg.models import engine, precision
from somaseg.models.config import ModelInfo
from somaseg.models.device import (
    BATCH_VARIABLE,
    VARIABLE,
    choose_device,
    keep_memory,
    predicting,
)
from somaseg.models.registry import build_model, load_preset, parse_config
from somaseg.predict import predictor
from somaseg.predict.predictor import Predictor
from somaseg.runs.execute import default_jobs, execute, free_gpus

INFO = ModelInfo(names=("cell",), diameter=14.0)
CONFIGS = {
    "flow": {"family": "flow", "pretrained": "none"},
    "cpnet": {"family": "flow", "encoder": "cpnet", "widths": (2, 4), "diameter": 20.0},
    "semantic": {"family": "semantic", "pretrained": "none"},
    "rcnn": load_preset("mask_rcnn_lite").model,
    "pixel_forest": {"family": "pixel_forest", "pretrained": "none", "levels": 2},
}


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def gpus(monkeypatch):
    """As on a machine of three GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


# ---- the choice ----


def test_auto_takes_the_gpu(gpus):
    assert choose_device() == torch.device("cuda:0")
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cuda:2") == torch.device("cuda:2")


def test_the_environment_chooses_where_nobody_else_does(gpus, monkeypatch):
    monkeypatch.setenv(VARIABLE, "cuda:1")
    assert choose_device() == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device() == torch.device("cpu")
    with pytest.raises(SomasegError, match="device cuda:0: this machine has no CUDA GPU; choose"):
        choose_device("cuda:0")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "CPU", "meta", "cuda:0 "])
def test_what_is_no_device(name):
    with pytest.raises(SomasegError, match="give auto, cpu, cuda"):
        choose_device(name)


# ---- placement ----


class Arrived(Exception):
    pass


@pytest.mark.parametrize("name", CONFIGS)
def test_network_and_image_meet_on_the_device(name, monkeypatch):
    """The meta device stands in for a GPU: it holds shapes, and refuses tensors of elsewhere."""
    monkeypatch.setattr(predictor, "choose_device", lambda _: torch.device("meta"))
    model = build_model(parse_config(CONFIGS[name]), INFO)
    finder = Predictor([model])
    net = model if isinstance(model, torch.nn.Module) else model.net
    assert {p.device.type for p in (*net.parameters(), *net.buffers())} == {"meta"}

    def arrive(module, inputs):
        raise Arrived(inputs[0].device.type)

    parts = {"rcnn": "backbone", "pixel_forest": "features.encoder"}
    part = net.get_submodule(parts.get(name, "net"))
    if getattr(net, "engine", None):  # a folded copy runs in its place
        part = net.engine.__self__
        assert {p.device.type for p in (*part.parameters(), *part.buffers())} == {"meta"}
    part.register_forward_pre_hook(arrive)
    if name == "pixel_forest":
        monkeypatch.setattr(net, "forward", lambda image: net.features.encoder(image))
    with pytest.raises(Arrived, match="meta"):
        finder(np.zeros((64, 64), np.uint8))


def test_on_a_processor_nothing_is_halved():
    with predicting(torch.device("cpu")):
        out = torch.nn.Linear(3, 3)(torch.zeros(1, 3))
    assert out.dtype == torch.float32
    assert not out.requires_grad


# ---- trainings side by side ----


def test_each_training_has_a_gpu_of_its_own(gpus, monkeypatch):
    assert default_jobs() == 3
    chosen = [entry["CUDA_VISIBLE_DEVICES"] for entry in free_gpus(5)]
    assert chosen == ["0", "1", "2", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5,6")
    assert [entry["CUDA_VISIBLE_DEVICES"] for entry in free_gpus(3)] == ["4", "GPU-5", "6"]
    monkeypatch.setenv(VARIABLE, "cuda:1")
    assert [entry["CUDA_VISIBLE_DEVICES"] for entry in free_gpus(2)] == ["GPU-5", "GPU-5"]
    assert default_jobs() == 1
    monkeypatch.setenv(VARIABLE, "cpu")
    assert free_gpus(2) == []


def test_tasks_see_their_gpu_and_give_it_back(gpus, tmp_path, monkeypatch):
    (tmp_path / "task_of_a_test.py").write_text(
        "import json, os, sys, time\n"
        "start = time.time(); time.sleep(0.3)\n"
        f"keys = ('CUDA_VISIBLE_DEVICES', {VARIABLE!r})\n"
        "told = {'env': [os.environ.get(k) for k in keys], 'at': [start, time.time()]}\n"
        "print(json.dumps(told))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    told = []
    execute(
        [(str(i), []) for i in range(5)],
        2,
        lambda _, event: told.append(event) if "env" in event else None,
        "task_of_a_test",
    )
    assert len(told) == 5
    assert {event["env"][0] for event in told} == {"0", "1"}
    assert {event["env"][1] for event in told} == {"cuda:0"}
    for one in told:
        for other in told:
            if one is not other and one["env"] == other["env"]:
                assert one["at"][1] <= other["at"][0] or other["at"][1] <= one["at"][0]


# ---- the command line ----


@pytest.mark.parametrize("name", ["predict", "evaluate", "ensemble", "train", "fit", "search"])
def test_commands_that_run_a_network_take_a_device(name, monkeypatch):
    monkeypatch.setenv(VARIABLE, "auto")  # so that it is put back
    (option,) = [
        parameter
        for parameter in typer.main.get_command(app).commands[name].params
        if "--device" in parameter.opts
    ]
    option.callback(None, option, "cuda:1")
    assert os.environ[VARIABLE] == "cuda:1"
    option.callback(None, option, None)
    assert os.environ[VARIABLE] == "cuda:1"


@pytest.mark.parametrize("name", ["predict", "evaluate", "ensemble"])
@pytest.mark.parametrize(
    ("flag", "variable", "value"),
    [
        ("--engine", engine.VARIABLE, "openvino"),
        ("--precision", precision.VARIABLE, "float32"),
        ("--batch", BATCH_VARIABLE, 4),
    ],
)
def test_commands_that_predict_take_what_runs_a_network(name, flag, variable, value, monkeypatch):
    monkeypatch.setenv(variable, "")  # so that it is put back
    (option,) = [
        parameter
        for parameter in typer.main.get_command(app).commands[name].params
        if flag in parameter.opts
    ]
    option.callback(None, option, value)
    assert os.environ[variable] == str(value)


# ---- memory ----


def test_glibc_is_told_once(monkeypatch):
    if not sys.platform.startswith("linux"):
        pytest.skip("only glibc")
    calls = []

    class Library:
        def __init__(self, _):
            self.mallopt = lambda *arguments: calls.append(arguments) or 1

    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr("ctypes.CDLL", Library)
    keep_memory.cache_clear()
    assert keep_memory()
    assert keep_memory()
    assert {option for option, _ in calls} == {-1, -2, -3}
    assert len(calls) == 3
    keep_memory.cache_clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert not keep_memory()
    keep_memory.cache_clear()
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_memory()
    keep_memory.cache_clear()
    assert len(calls) == 3
