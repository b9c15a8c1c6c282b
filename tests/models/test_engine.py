import sys

import numpy as np
import pytest
import torch
from torch import nn

from somaseg.errors import SomasegError
from somaseg.models import engine
from somaseg.models.config import ModelInfo
from somaseg.models.engine import VARIABLE, choose_engine, use_engine
from somaseg.models.fold import folded
from somaseg.models.registry import build_model, parse_config
from somaseg.predict.predictor import Predictor
from tests.models.test_device import CONFIGS

INFO = ModelInfo(names=("a", "b"), diameter=14.0)
UNET = {
    "family": "semantic",
    "network": "smp",
    "architecture": "Unet",
    "encoder": "resnet18",
    "pretrained": "none",
}
SMALL = {
    "family": "semantic",
    "network": "attention_unet",
    "widths": [2, 4],
    "border": False,
    "seeds": False,
    "min_area": 1,
}
CONFIGS = {**CONFIGS, "smp": UNET, "small": SMALL}
NETWORKS = ("flow", "cpnet", "rcnn", "smp")  # the semantic family's U-Net is that of flow


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def model_of(name):
    """A network whose normalisations do something."""
    torch.manual_seed(3)
    model = build_model(parse_config(CONFIGS[name]), INFO)
    for part in model.modules() if isinstance(model, nn.Module) else ():
        if hasattr(part, "running_mean"):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.1)
    return model.eval() if isinstance(model, nn.Module) else model


def outputs(run, channels, shape):
    image = torch.rand(1, channels, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        out = run(image.contiguous(memory_format=torch.channels_last))
    return [out] if isinstance(out, torch.Tensor) else list(out)


def assert_close(found, wanted, share=1e-5):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= share * max(1, b.abs().max())


# ---- folding ----


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_networks_give_the_same(name):
    model = model_of(name)
    core, (_, channels, *_) = model.core()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wanted = outputs(core, channels, (64, 96))
    made = folded(*model.core())
    assert_close(outputs(made, channels, (64, 96)), wanted)
    left, all_ = (sum(hasattr(m, "running_mean") for m in net.modules()) for net in (made, core))
    # Cellpose's network normalises before it convolves, and adds in between.
    assert 0 < left < all_ if name == "cpnet" else left == 0 < all_
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


class Twice(nn.Module):
    """Takes the convolution's own result as well: it cannot be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(0.7)

    def forward(self, x):
        x = self.conv(x)
        return x + self.norm(x)


def test_what_cannot_be_folded_stays_and_so_does_its_mode():
    network = Twice().train()
    assert folded(network, (1, 1, 16, 16)) is network
    assert network.training
    assert network.norm.training
    assert network.norm.num_batches_tracked == 0


def test_predictions_are_folded_until_training():
    model = model_of("flow")
    gray = np.random.default_rng(0).random((64, 64), np.float32)
    plain = model.maps(gray)
    state = {name: tensor.clone() for name, tensor in model.tensors().items()}
    digits = Predictor([model]).fingerprint()
    assert model.engine is not None
    assert np.abs(model.maps(gray) - plain).max() < 1e-4
    assert list(model.tensors()) == list(state)
    model.train().eval()
    assert model.engine is None
    nn.init.constant_(model.net.head.bias, 5.0)
    assert np.abs(model.maps(gray) - plain).max() > 1
    assert Predictor([model]).fingerprint() != digits


# ---- engines ----


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", NETWORKS)
def test_engines_give_what_torch_gives(name, kind):
    pytest.importorskip(kind)
    pytest.importorskip("onnx")
    model = model_of(name)
    core, (_, channels, *_) = model.core()
    use_engine(model, kind, torch.device("cpu"))
    for shape in ((64, 96), (128, 64)):  # any size, not that of the example
        wanted = outputs(core, channels, shape)
        assert_close(outputs(model.run, channels, shape), wanted, 1e-4)


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino"])
def test_instances_are_the_same(kind):
    pytest.importorskip(kind)
    pytest.importorskip("onnx")
    model = model_of("small")
    nn.init.constant_(model.net.head.bias, 0.0)
    gray = np.random.default_rng(0).random((96, 80), np.float32)
    plain = Predictor([model], "flips")
    wanted, digits = plain(gray), plain.fingerprint()
    predictor = Predictor([model], "flips", engine=kind)
    found = predictor(gray)
    assert len(wanted) > 0
    assert np.array_equal(found.boxes, wanted.boxes)
    assert np.abs(found.scores - wanted.scores).max() < 1e-4
    assert predictor.fingerprint() != digits


def test_the_environment_chooses(monkeypatch):
    assert choose_engine() == "torch"
    monkeypatch.setenv(VARIABLE, "openvino")
    assert choose_engine() == "openvino"
    assert choose_engine("torch") == "torch"
    with pytest.raises(SomasegError, match="engine 'tvm': give one of torch, openvino, onnxr"):
        choose_engine("tvm")


def test_what_no_engine_can_run():
    model = model_of("pixel_forest")
    with pytest.raises(SomasegError, match="engine openvino: family pixel_forest has no network"):
        Predictor([model], engine="openvino")
    Predictor([model], engine="torch")
    with pytest.raises(SomasegError, match="give --device cpu as well"):
        use_engine(model_of("flow"), "openvino", torch.device("cuda", 0))


def test_an_engine_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(engine, "onnx_bytes", lambda *_: b"")
    with pytest.raises(SomasegError, match=r"pip install 'somaseg\[openvino\]'"):
        Predictor([model_of("cpnet")], engine="openvino")
