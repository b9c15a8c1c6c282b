import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from somaseg.instances import Instances
from somaseg.models.rcnn.box import Matched
from somaseg.models.rcnn.scoring import MaskIoU, true_iou
from somaseg.models.rcnn.targets import Truth, inside_share, mask_targets
from tests.masks.strategies import blobs
from tests.models.rcnn.make import config


@given(st.integers(0, 2**31))
def test_iou_is_with_the_whole_cell(seed):
    rng = np.random.default_rng(seed)
    masks = blobs(5, (60, 60), seed, radius=(8, 20))
    cells = Truth.of(Instances.from_masks(masks, names=("cell",)))
    corner = rng.integers(0, 60 - 28, (5, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + 28], 1)).float()
    index = torch.arange(5)
    predicted = torch.from_numpy(blobs(5, (28, 28), seed + 1, radius=(5, 14)).astype(np.float32))
    found = true_iou(
        predicted, mask_targets(cells, index, boxes, 28), inside_share(cells, index, boxes)
    )
    # A box of 28 pixels has one mask cell a pixel: all can be counted in the image.
    for mask, guess, (x, y), iou in zip(masks, predicted.numpy() > 0.5, corner, found, strict=True):
        drawn = np.zeros((60, 60), bool)
        drawn[y : y + 28, x : x + 28] = guess
        expected = (drawn & mask).sum() / (drawn | mask).sum()
        assert iou.item() == pytest.approx(expected, abs=1e-5)


def head(**fields):
    torch.manual_seed(0)
    return MaskIoU(config(mask_scoring=True, **fields), 4, 14)


def scene():
    # As large as the mask's grid, so that resampling does not round their corners.
    masks = np.zeros((2, 80, 80), bool)
    masks[0, 4:32, 4:32] = True
    masks[1, 40:68, 40:68] = True
    cells = Truth.of(Instances.from_masks(masks, classes=[0, 2], names=("a", "b", "c")))
    boxes = torch.tensor([[4.0, 4, 32, 32], [40, 40, 68, 54], [0, 40, 28, 68]])
    matched = Matched(boxes, torch.tensor([1, 3, 3]), torch.tensor([0, 1, 1]))
    # Right in the whole box; right in the upper half of it; nothing.
    predicted = torch.zeros(3, 28, 28)
    predicted[0] = 1
    predicted[1, :14] = 1
    return cells, matched, predicted


def test_loss_by_hand(monkeypatch):
    made = head()
    cells, matched, predicted = scene()
    guess = torch.rand(3, 4)
    monkeypatch.setattr(made, "forward", lambda pooled, masks: guess)
    loss = made.losses(torch.zeros(3, 48, 14, 14), predicted, [matched], [cells])["mask_iou"]
    # IoU 1; 7 of the cell's 28 rows; and no overlap, which is left out.
    expected = ((guess[0, 1] - 1) ** 2 + (guess[1, 3] - 0.25) ** 2) / 2 / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_score_is_multiplied_by_the_guess_of_its_class_within_0_and_1(monkeypatch):
    made = head()
    guess = torch.tensor([[9.0, 0.5, 9, 9], [9, 9, 9, 1.7], [9, 9, -1.0, 9]])
    monkeypatch.setattr(made, "forward", lambda pooled, masks: guess)
    scores = made.rescore(
        torch.zeros(3), torch.zeros(3), torch.tensor([0.8, 0.6, 0.4]), torch.tensor([1, 3, 2])
    )
    assert scores.tolist() == pytest.approx([0.4, 0.6, 0])


@pytest.mark.parametrize("pooled", [7, 14, 28])
def test_head_takes_every_size_of_pooled_features(pooled):
    made = MaskIoU(config(mask_scoring=True), 4, pooled)
    assert made(torch.randn(2, 48, pooled, pooled), torch.rand(2, 28, 28)).shape == (2, 4)


def test_mask_reaches_the_head_by_its_maximum():
    made = head()
    pooled = torch.randn(1, 48, 14, 14)
    mask = torch.zeros(1, 28, 28)
    mask[0, 3, 5] = 0.9
    coarse = torch.zeros(1, 1, 14, 14)
    coarse[0, 0, 1, 2] = 0.9
    assert torch.allclose(made(pooled, mask), made.layers(torch.cat([pooled, coarse], 1)))
