import numpy as np
import pytest
import torch

from somaseg.data.augment import Crop
from somaseg.decide import SettleSettings
from somaseg.errors import SomasegError
from somaseg.models.config import ModelInfo
from somaseg.models.flow.targets import label_flows
from somaseg.models.registry import build_model, parse_config
from somaseg.models.training.settings import TrainSettings
from tests.models.contract import INFO, STILL, Contract

SMALL = {"family": "flow", "decoder": (48, 32, 24, 16), "diameter": 24.0}


class TestFlow(Contract):
    config = SMALL
    over_fit = TrainSettings(
        steps=260, batch=2, crop=64, rate=3e-3, encoder_rate=1.0, average=0.9, augment=STILL
    )
    settings = SettleSettings(score=0.1, min_area=15)


class Fixed(torch.nn.Module):
    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, image):
        return self.out


def test_true_maps_decode_to_the_cells():
    from somaseg.data.synthetic import make_image

    cells = make_image("cort", 3, (120, 160))[1].disjoint(largest_piece=True, min_area=30)[0]
    labels = cells.to_labels()
    model = build_model(parse_config(SMALL), INFO)
    logits = np.where(labels > 0, 6.0, -6.0).astype(np.float32)
    classes = np.zeros((3, *labels.shape), np.float32)
    classes[1] = 4
    maps = np.concatenate([5 * label_flows(labels), logits[None], classes])
    found = model.decode(maps)
    assert len(found) == len(cells)
    assert (found.classes == 1).all()
    assert (found.scores > 0.9).all()
    assert np.array_equal(found.binary().to_labels() > 0, labels > 0)


def test_losses_by_hand():
    model = build_model(parse_config(SMALL), INFO)
    torch.manual_seed(0)
    out = torch.randn(2, 6, 8, 8)
    model.net = Fixed(out)
    foreground = (torch.arange(64).reshape(8, 8) < 20).float().expand(2, 8, 8)
    batch = {
        "image": torch.zeros(2, 1, 16, 16),
        "flows": torch.rand(2, 2, 8, 8),
        "foreground": foreground,
        "classes": torch.where(foreground > 0, 2, -1),
    }
    losses = {k: v.item() for k, v in model.losses(batch).items()}
    values = out.numpy().astype(float)
    flow = 0.5 * ((values[:, :2] - 5 * batch["flows"].numpy()) ** 2).mean()
    p = 1 / (1 + np.exp(-values[:, 2]))
    f = foreground.numpy()
    cell = -(f * np.log(p) + (1 - f) * np.log(1 - p)).mean()
    soft = np.exp(values[:, 3:]) / np.exp(values[:, 3:]).sum(1, keepdims=True)
    kind = -np.log(soft[:, 2][f > 0]).mean() * model.config.class_weight
    assert losses == pytest.approx({"flow": flow, "cell": cell, "class": kind}, rel=1e-4)


def test_every_piece_of_a_cell_has_its_flow():
    plane = np.zeros((48, 48), np.int32)
    plane[4:12, 4:12] = plane[30:40, 30:40] = 1  # a cell and its mirror image
    plane[30:40, 10:20] = 2
    crop = Crop(np.zeros((32, 32), np.float32), plane[None], 8, np.array([2, 0], np.int16))
    example = build_model(parse_config(SMALL), INFO).example(crop)
    inside = plane[8:-8, 8:-8] > 0
    length = np.hypot(*example["flows"])
    assert np.array_equal(length > 0.5, inside)
    # The part of the first piece outside of the crop still pulls: towards the upper left.
    assert (example["flows"][:, :4, :4].mean(axis=(1, 2)) < -0.3).all()
    assert np.array_equal(
        example["classes"][inside], np.array([2, 0])[plane[8:-8, 8:-8] - 1][inside]
    )


def test_scale_follows_the_cells():
    small = build_model(parse_config(SMALL), ModelInfo(names=("a",), diameter=8.0))
    assert small.scale == 3.0


def test_unknown_encoder_is_named():
    with pytest.raises(SomasegError, match="encoder 'resnet1000'"):
        build_model(parse_config({**SMALL, "encoder": "resnet1000"}), INFO)


def test_unknown_field_is_named():
    with pytest.raises(SomasegError, match="encodr"):
        parse_config({**SMALL, "encodr": "resnet18"})
