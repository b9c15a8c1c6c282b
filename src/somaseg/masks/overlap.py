"""Intersections and IoU of masks as sparse pairs.

Boxes are swept from left to right, so only boxes that overlap are ever compared; then the pixels
on the intersection of two boxes are counted. A result is a list of pairs: rows i and j, sorted,
and a value; pairs that share no pixel are not in it.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.masks.flat import Boxes, Ints, Masks, Pixels, Size, as_flat, cut_of, solid

Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@njit(cache=True, nogil=True)
def _areas(pixels, offsets, cut):  # type: ignore[no-untyped-def]
    areas = np.empty(offsets.size - 1, np.int64)
    for i in range(areas.size):
        crop = pixels[offsets[i] : offsets[i + 1]]
        total = np.int32(0)  # narrow sums are vectorised better
        for k in range(crop.size):
            total = np.int32(total + (crop[k] >= cut))
        areas[i] = total
    return areas


@njit(cache=True, nogil=True)
def _claim(boxes, pixels, offsets, cut, claims):  # type: ignore[no-untyped-def]
    for i in range(len(boxes)):
        at = offsets[i]
        for y in range(boxes[i, 1], boxes[i, 3]):
            for x in range(boxes[i, 0], boxes[i, 2]):
                claims[y, x] += pixels[at] >= cut
                at += 1


@njit(cache=True, nogil=True)
def _box_pairs(a_boxes, b_boxes, order, same, pairs):  # type: ignore[no-untyped-def]
    """Write the rows of boxes that overlap to ``pairs`` and return how many there are.

    ``order`` sorts the boxes of a, then b, by x0. With ``pairs`` empty they are only counted.
    """
    n = a_boxes.shape[0]
    m = 0
    # Boxes that the sweep line crosses: those of a in row 0, those of b in row 1.
    active = np.empty((2, order.size), np.int64)
    sizes = np.zeros(2, np.int64)
    for e in order:
        side = 0 if e < n else 1
        row = e if e < n else e - n
        other = side if same else 1 - side
        mine = a_boxes if side == 0 else b_boxes
        theirs = a_boxes if other == 0 else b_boxes
        x0, y0, y1 = mine[row, 0], mine[row, 1], mine[row, 3]
        s = 0
        while s < sizes[other]:
            partner = active[other, s]
            if theirs[partner, 2] <= x0:  # the line has left it
                sizes[other] -= 1
                active[other, s] = active[other, sizes[other]]
                continue
            s += 1
            if theirs[partner, 1] < y1 and theirs[partner, 3] > y0:
                if pairs.size > 0:
                    first = row < partner if same else side == 0
                    pairs[m, 0] = row if first else partner
                    pairs[m, 1] = partner if first else row
                m += 1
        active[side, sizes[side]] = row
        sizes[side] += 1
    return m


@njit(cache=True, nogil=True)
def _count_shared(a_boxes, a_pixels, a_offsets, a_cut, b_boxes, b_pixels, b_offsets, b_cut, pairs):  # type: ignore[no-untyped-def]
    counts = np.empty(pairs.shape[0], np.int64)
    for m in range(pairs.shape[0]):
        i, j = pairs[m, 0], pairs[m, 1]
        x0, x1 = max(a_boxes[i, 0], b_boxes[j, 0]), min(a_boxes[i, 2], b_boxes[j, 2])
        y0, y1 = max(a_boxes[i, 1], b_boxes[j, 1]), min(a_boxes[i, 3], b_boxes[j, 3])
        a_width, b_width = a_boxes[i, 2] - a_boxes[i, 0], b_boxes[j, 2] - b_boxes[j, 0]
        p = a_offsets[i] + np.int64(y0 - a_boxes[i, 1]) * a_width + (x0 - a_boxes[i, 0])
        q = b_offsets[j] + np.int64(y0 - b_boxes[j, 1]) * b_width + (x0 - b_boxes[j, 0])
        total = 0
        for _ in range(y1 - y0):
            a_row, b_row = a_pixels[p : p + x1 - x0], b_pixels[q : q + x1 - x0]
            in_row = np.int32(0)
            for k in range(a_row.size):
                in_row = np.int32(in_row + ((a_row[k] >= a_cut) & (b_row[k] >= b_cut)))
            total += int(in_row)
            p += a_width
            q += b_width
        counts[m] = total
    return counts


def areas(pixels: Pixels, offsets: Ints, cut: int = 1) -> Ints:
    """Number of pixels >= ``cut`` of each crop, int64 (n,)."""
    return _areas(solid(pixels, np.uint8), solid(offsets, np.int64), np.uint8(cut))


def claims(
    boxes: Boxes, pixels: Pixels, offsets: Ints, size: Size, cut: int = 1
) -> npt.NDArray[np.int32]:
    """Number of masks that each pixel of an image belongs to, int32 (h, w).

    Args:
        size: ``(height, width)`` of the image
        cut: pixels of at least this value are inside
    """
    counted = np.zeros(size, np.int32)
    _claim(*as_flat(boxes, pixels, offsets), np.uint8(cut), counted)
    return counted


def intersections(
    a_boxes: Boxes,
    a_pixels: Pixels,
    a_offsets: Ints,
    b_boxes: Boxes | None = None,
    b_pixels: Pixels | None = None,
    b_offsets: Ints | None = None,
    *,
    a_cut: int = 1,
    b_cut: int = 1,
) -> tuple[Rows, Rows, Ints]:
    """Pairs of masks that share pixels: i int32 (m,), j int32 (m,), pixels shared int64 (m,).

    Pairs are sorted by i, then j. Without b the masks are paired among themselves, i < j.
    Pixels >= the cut are inside: 1 for hard masks, 128 for soft ones at a half.
    """
    a = as_flat(a_boxes, a_pixels, a_offsets)
    same = b_boxes is None or b_pixels is None or b_offsets is None
    b = a if same else as_flat(b_boxes, b_pixels, b_offsets)  # type: ignore[arg-type]
    left = a.boxes[:, 0] if same else np.concatenate([a.boxes[:, 0], b.boxes[:, 0]])
    order = np.argsort(left, kind="stable")
    count = _box_pairs(a.boxes, b.boxes, order, same, np.empty((0, 2), np.int32))
    pairs = np.empty((count, 2), np.int32)
    if count:
        _box_pairs(a.boxes, b.boxes, order, same, pairs)
    second = a_cut if same else b_cut
    shared = _count_shared(*a, np.uint8(a_cut), *b, np.uint8(second), pairs)
    found = np.flatnonzero(shared)
    pairs, shared = pairs[found], shared[found]
    ranks = np.argsort(pairs[:, 0] * np.int64(len(b.boxes)) + pairs[:, 1])
    return pairs[ranks, 0], pairs[ranks, 1], shared[ranks]


def iou_pairs(a: Masks, b: Masks | None = None) -> tuple[Rows, Rows, Floats]:
    """Pairs of masks that share pixels: i, j int32 (m,) and their IoU float64 (m,).

    Without b the masks are paired among themselves, i < j. Soft masks count at a half.
    """
    i, j, shared = shared_pixels(a, b)
    a_areas = areas(a.pixels, a.offsets, cut_of(a.soft))
    b_areas = a_areas if b is None else areas(b.pixels, b.offsets, cut_of(b.soft))
    return i, j, shared / (a_areas[i] + b_areas[j] - shared)


def shared_pixels(a: Masks, b: Masks | None = None) -> tuple[Rows, Rows, Ints]:
    """``intersections`` of two sets, or of one with itself; soft masks count at a half."""
    cut = cut_of(a.soft)
    if b is None:
        return intersections(a.boxes, a.pixels, a.offsets, a_cut=cut)
    return intersections(
        a.boxes, a.pixels, a.offsets, b.boxes, b.pixels, b.offsets, a_cut=cut, b_cut=cut_of(b.soft)
    )


def pairwise_iou(a: Masks, b: Masks) -> Floats:
    """IoU of every mask of a with every mask of b, float64 (n, m); soft masks count at a half."""
    result = np.zeros((len(a.boxes), len(b.boxes)))
    i, j, iou = iou_pairs(a, b)
    result[i, j] = iou
    return result
