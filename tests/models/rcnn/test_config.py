import pytest
import torch

from somaseg.errors import SomasegError
from somaseg.models.config import ModelInfo
from somaseg.models.registry import build_model, load_preset, parse_config, preset_names
from tests.models.contract import INFO
from tests.models.rcnn.make import SMALL, model


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbne": "resnet18"}, "backbne"),
        ({"backbone": "resnet18"}, "norm: frozen needs pretrained weights, and resnet18"),
        ({"pretrained": "none"}, "set norm: batch, or pretrained: imagenet or a file"),
        ({"strides": (4, 16)}, "two or more neighbours"),
        ({"anchor_sizes": ((16,), (32,))}, "2 lists for 3 levels"),
        ({"anchor_sizes": ((16,), (32,), (64, 90))}, "every level needs as many sizes"),
        ({"rpn_iou": (0.7, 0.3)}, "the lower limit comes first"),
        ({"mask_size": 112}, "a conv mask head makes"),
        ({"mask_head": "point", "mask_size": 14}, "a point mask head makes"),
        ({"box_head": "two"}, "box_head"),
    ],
)
def test_what_does_not_fit_together_is_told(fields, message):
    with pytest.raises(SomasegError, match=message):
        parse_config(SMALL | fields)


def test_unknown_encoder_is_named():
    with pytest.raises(SomasegError, match="encoder 'resnet1000'"):
        build_model(parse_config(SMALL | {"backbone": "resnet1000", "norm": "batch"}), INFO)


def test_coco_weights_are_those_of_resnet50():
    fields = SMALL | {"backbone": "resnet18", "pretrained": "coco"}
    with pytest.raises(SomasegError, match="COCO weights for resnet50 only"):
        build_model(parse_config(fields), INFO)


def test_weights_of_another_encoder_are_refused(tmp_path):
    other = model(pretrained="none", norm="batch").state_dict()
    torch.save(other, tmp_path / "lite0.pth")
    fields = SMALL | {"backbone": "resnet18", "pretrained": str(tmp_path / "lite0.pth")}
    with pytest.raises(SomasegError, match=r"lite0\.pth: does not fit this backbone .tensor backb"):
        build_model(parse_config(fields), INFO)


def test_missing_weights_are_named():
    with pytest.raises(SomasegError, match=r"nowhere\.pth: no such weights file"):
        build_model(parse_config(SMALL | {"pretrained": "nowhere.pth"}), INFO)


def test_diameter_decides_the_scale():
    info = ModelInfo(names=("a",), diameter=8.0)
    assert model(info, diameter=20.0, input_scale=1.5).scale == 2.5
    assert model(info, input_scale=1.5).scale == 1.5


def test_frozen_weights_and_statistics_stay():
    made = model(frozen_stages=2)
    fixed = [n for n, w in made.named_parameters() if not w.requires_grad]
    assert all(name.startswith("backbone.encoder.network.") for name in fixed)
    assert any(".blocks.1." in name for name in fixed)
    assert not any(".blocks.2." in name for name in fixed)
    made.train()
    before = {n: b.clone() for n, b in made.backbone.encoder.named_buffers()}
    made.backbone(torch.rand(1, 3, 64, 64))
    assert all(torch.equal(before[n], b) for n, b in made.backbone.encoder.named_buffers())


def presets():
    return [name for name in preset_names() if load_preset(name).model["family"] == "rcnn"]


@pytest.mark.parametrize("name", presets())
def test_presets_can_be_built_without_a_network(name):
    assert load_preset(name).about
    # What the documentation tells to set where no weights can be had.
    fields = load_preset(name).model | {"pretrained": "none", "norm": "batch"}
    with torch.device("meta"):
        made = build_model(parse_config(fields), INFO)
    assert sum(weights.numel() for weights in made.parameters()) > 1e6
