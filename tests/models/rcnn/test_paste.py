import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.models.detection.roi_heads import paste_masks_in_image

from somaseg.instances import Instances
from somaseg.models.rcnn.paste import paste

SIZE = (40, 56)


def random_masks(seed, side):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, (SIZE[1] - 2, SIZE[0] - 2), (8, 2))
    extent = rng.uniform(0.5, 30, (8, 2))
    boxes = np.concatenate([corner, np.minimum(corner + extent, SIZE[::-1])], 1)
    return rng.random((8, side, side), np.float32), boxes.astype(np.float32)


def planes(flat):
    out = np.zeros((len(flat.boxes), *SIZE))
    cells = Instances.from_flat(SIZE, flat, soft=True)
    for i, (x0, y0, x1, y1) in enumerate(flat.boxes):
        out[i, y0:y1, x0:x1] = cells.crop(i)
    return out


@given(st.integers(0, 2**31), st.sampled_from([7, 28]))
def test_as_torchvision_pastes(seed, side):
    masks, boxes = random_masks(seed, side)
    expected = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), SIZE)
    found = planes(paste(masks, boxes, SIZE, aligned=False))
    assert np.abs(found - 255 * expected[:, 0].numpy()).max() <= 0.51


@given(st.integers(0, 2**31), st.sampled_from([7, 28]))
def test_aligned_as_sampled_on_the_whole_image(seed, side):
    masks, boxes = random_masks(seed, side)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    grid = [
        np.stack([2 * (x - x0) / (x1 - x0) - 1, 2 * (y - y0) / (y1 - y0) - 1], -1)
        for x0, y0, x1, y1 in boxes.astype(np.float64)
    ]
    expected = functional.grid_sample(
        torch.from_numpy(masks).double()[:, None],
        torch.from_numpy(np.stack(grid)),
        align_corners=False,
    )[:, 0].numpy()
    found = planes(paste(masks, boxes, SIZE))
    # A box thinner than a pixel may reach no pixel's centre and still has one, of value 0.
    assert np.abs(found - 255 * expected).max() <= 0.51


def test_nothing_to_paste():
    flat = paste(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), SIZE)
    assert len(flat.boxes) == 0
    assert flat.offsets.tolist() == [0]
