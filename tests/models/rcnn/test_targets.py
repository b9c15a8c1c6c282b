import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from somaseg.data.augment import Crop
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.models.rcnn.targets import (
    Truth,
    inside_share,
    mask_targets,
    point_targets,
)
from tests.models.rcnn.make import near, truth

SEEDS = st.integers(0, 2**31)


def boxes_and_cells(seed, size=(40, 52)):
    cells, planes = truth(6, size, seed)
    index = torch.from_numpy(np.random.default_rng(seed).integers(0, 6, 15))
    return cells, planes, index, near(cells.boxes[index], seed, size)


@given(SEEDS)
def test_mask_targets_are_those_of_torchvision(seed):
    cells, planes, index, boxes = boxes_and_cells(seed)
    found = mask_targets(cells, index, boxes, 14, aligned=False)
    assert torch.allclose(found, project_masks_on_boxes(planes, boxes, index, 14), atol=1e-5)


@given(SEEDS)
def test_aligned_mask_targets_are_roi_align_on_full_planes(seed):
    cells, planes, index, boxes = boxes_and_cells(seed)
    rois = torch.cat([index[:, None].float(), boxes], 1)
    expected = roi_align(planes[:, None], rois, (28, 28), aligned=True)[:, 0]
    assert torch.allclose(mask_targets(cells, index, boxes, 28), expected, atol=1e-5)


def test_many_cells_are_laid_in_parts():
    cells, planes = truth(150, (90, 90), 1)
    index = torch.arange(150).flip(0)
    boxes = near(cells.boxes[index], 1, (90, 90))
    rois = torch.cat([index[:, None].float(), boxes], 1)
    expected = roi_align(planes[:, None], rois, (7, 7), aligned=True)[:, 0]
    assert torch.allclose(mask_targets(cells, index, boxes, 7), expected, atol=1e-5)


@given(SEEDS)
def test_point_targets_read_full_planes(seed):
    cells, planes, index, boxes = boxes_and_cells(seed)
    points = torch.rand(len(boxes), 30, 2, generator=torch.Generator().manual_seed(seed))
    place = boxes[:, None, :2] + points * (boxes[:, 2:] - boxes[:, :2])[:, None]
    grid = 2 * place / torch.tensor([52, 40]) - 1
    expected = functional.grid_sample(
        planes[index][:, None], grid[:, :, None], align_corners=False, padding_mode="border"
    )[:, 0, :, 0]
    assert torch.allclose(point_targets(cells, index, boxes, points), expected, atol=1e-4)


@given(SEEDS)
def test_inside_share_counts_pixels(seed):
    cells, planes, index, boxes = boxes_and_cells(seed)
    boxes = (boxes * 4).round() / 4
    # On a grid four times as fine the boxes have whole pixels, to be counted.
    fine = planes[index].repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    for mask, box, share in zip(fine, boxes, inside_share(cells, index, boxes), strict=True):
        x0, y0, x1, y1 = (int(4 * side) for side in box)
        assert share.item() == pytest.approx(mask[y0:y1, x0:x1].sum() / mask.sum(), abs=1e-6)


def test_crops_keep_overlapping_cells_and_drop_slivers():
    planes = np.zeros((2, 20, 20), np.int32)
    planes[0, 2:8, 2:8] = 3
    planes[1, 5:12, 5:12] = 1
    planes[0, 15:18, 0] = 2  # three pixels: too few
    crop = Crop(np.zeros((20, 20), np.float32), planes, 0, np.array([1, 0, 0], np.int16))
    cells = Truth.of_crop(crop, ("a", "b"))
    assert cells.boxes.tolist() == [[2, 2, 8, 8], [5, 5, 12, 12]]
    assert cells.labels.tolist() == [1, 2]
    assert cells.instances.areas.tolist() == [36, 49]


def test_crop_without_cells():
    crop = Crop(np.zeros((8, 8), np.float32), np.zeros((1, 8, 8), np.int32), 0, np.zeros(0, "i2"))
    cells = Truth.of_crop(crop, ("a",))
    assert len(cells) == 0
    assert cells.boxes.shape == (0, 4)


def test_unknown_class_among_several_is_refused():
    masks = np.ones((2, 5, 5), bool)
    cells = Instances.from_masks(masks, classes=[1, -1], names=("astro", "cort"))
    with pytest.raises(SomasegError, match=r"instance 1 has no class.*'astro', 'cort'"):
        Truth.of(cells)
    # Where there is nothing to tell apart, it does not matter.
    assert Truth.of(Instances.from_masks(masks, classes=-1, names=("cell",))).labels.tolist() == [
        1,
        1,
    ]
