"""Two crops, each on a box of its own, pixel by pixel where their boxes meet: compiled, no copies.

A crop is flat, uint8 (height × width,); a box is x0 y0 x1 y1, half open.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _common(box, other):  # type: ignore[no-untyped-def]
    """The rectangle that two boxes share: where its first row begins in each crop, its sides."""
    x0, y0 = max(box[0], other[0]), max(box[1], other[1])
    width, other_width = np.int64(box[2] - box[0]), np.int64(other[2] - other[0])
    p = (y0 - box[1]) * width + x0 - box[0]
    q = (y0 - other[1]) * other_width + x0 - other[0]
    return p, width, q, other_width, min(box[2], other[2]) - x0, min(box[3], other[3]) - y0


@njit(cache=True, nogil=True)
def erase(crop, box, other_crop, other_box):  # type: ignore[no-untyped-def]
    """Clear the pixels that the other crop has."""
    p, width, q, other_width, columns, rows = _common(box, other_box)
    for _ in range(rows):
        mine, theirs = crop[p : p + columns], other_crop[q : q + columns]
        for k in range(mine.size):
            mine[k] = 0 if theirs[k] != 0 else mine[k]
        p += width
        q += other_width


@njit(cache=True, nogil=True)
def common_pixels(crop, box, other_crop, other_box):  # type: ignore[no-untyped-def]
    """Number of pixels that two crops share."""
    p, width, q, other_width, columns, rows = _common(box, other_box)
    total = 0
    for _ in range(rows):
        mine, theirs = crop[p : p + columns], other_crop[q : q + columns]
        in_row = np.int32(0)  # narrow sums are vectorised better
        for k in range(mine.size):
            in_row = np.int32(in_row + ((mine[k] != 0) & (theirs[k] != 0)))
        total += int(in_row)
        p += width
        q += other_width
    return total


@njit(cache=True, nogil=True)
def count_pixels(crop):  # type: ignore[no-untyped-def]
    """Number of pixels of a crop."""
    total = np.int32(0)
    for k in range(crop.size):
        total = np.int32(total + (crop[k] != 0))
    return int(total)
