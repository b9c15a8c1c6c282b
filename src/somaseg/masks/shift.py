"""Move crops by parts of a pixel."""

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.masks.flat import Boxes, Flat, Ints, Pixels, Size, offsets_of, solid


@njit(cache=True, nogil=True)
def _resample(boxes, pixels, offsets, shifts, height, width, new_boxes, new_pixels, new_offsets):  # type: ignore[no-untyped-def]
    for i in range(boxes.shape[0]):
        rows, columns = boxes[i, 3] - boxes[i, 1], boxes[i, 2] - boxes[i, 0]
        crop = pixels[offsets[i] : offsets[i + 1]]
        q = new_offsets[i]
        for v in range(new_boxes[i, 1], new_boxes[i, 3]):
            # Beyond the image it is as at its edge: a cell that is cut there goes on.
            y = min(max(v - shifts[i, 0], 0.0), height - 1.0)
            top = int(np.floor(y))
            below = y - top
            top -= boxes[i, 1]
            for u in range(new_boxes[i, 0], new_boxes[i, 2]):
                x = min(max(u - shifts[i, 1], 0.0), width - 1.0)
                left = int(np.floor(x))
                beside = x - left
                left -= boxes[i, 0]
                value = 0.0
                for a in range(2):
                    for b in range(2):
                        r, c = top + a, left + b
                        if 0 <= r < rows and 0 <= c < columns:
                            share = (below if a else 1 - below) * (beside if b else 1 - beside)
                            value += share * crop[r * columns + c]
                new_pixels[q] = int(value + 0.5)
                q += 1


def shift(boxes: Boxes, pixels: Pixels, offsets: Ints, size: Size, shifts: npt.ArrayLike) -> Flat:
    """Move each crop by its own (dy, dx), to parts of a pixel, by bilinear interpolation.

    Args:
        boxes, pixels, offsets: n crops, soft or hard; hard ones stay hard, cut at a half.
        size: (height, width) of the image. What lies beyond its edge is as at the edge.
        shifts: float64 (n, 2), dy dx in pixels.

    Returns:
        The crops in boxes that are larger by up to a pixel on the side they move to.
    """
    by = solid(shifts, np.float64).reshape(-1, 2)
    height, width = size
    moved = np.empty((len(boxes), 4), np.int64)
    for axis, length in ((0, width), (1, height)):
        low, high = boxes[:, axis].astype(np.int64), boxes[:, axis + 2].astype(np.int64)
        step = by[:, 1 - axis]
        first = np.where(low == 0, 0, np.floor(low + step)).clip(0, length - 1)
        last = np.where(high == length, length, np.ceil(high + step)).clip(0, length)
        moved[:, axis], moved[:, axis + 2] = first, np.maximum(last, first + 1)
    new_boxes = solid(moved, np.int32)
    new_offsets = offsets_of(new_boxes)
    new_pixels = np.empty(int(new_offsets[-1]), np.uint8)
    _resample(boxes, pixels, offsets, by, height, width, new_boxes, new_pixels, new_offsets)
    return Flat(new_boxes, new_pixels, new_offsets)
