"""Move crops about: select, cut soft ones, tighten, shift into another frame, fuse."""

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.masks.flat import Boxes, Flat, Ints, Pixels, Size, as_flat, offsets_of, solid


@njit(cache=True, nogil=True)
def _gather(pixels, offsets, rows, new_pixels, new_offsets):  # type: ignore[no-untyped-def]
    for r in range(rows.size):
        i = rows[r]
        crop = pixels[offsets[i] : offsets[i + 1]]
        new = new_pixels[new_offsets[r] : new_offsets[r + 1]]
        for k in range(crop.size):
            new[k] = crop[k]


@njit(cache=True, nogil=True)
def _cut(pixels, offsets, cuts, new_pixels):  # type: ignore[no-untyped-def]
    for i in range(cuts.size):
        crop = pixels[offsets[i] : offsets[i + 1]]
        new = new_pixels[offsets[i] : offsets[i + 1]]
        for k in range(crop.size):
            new[k] = crop[k] >= cuts[i]


@njit(cache=True, nogil=True)
def _tight(boxes, pixels, offsets, tight):  # type: ignore[no-untyped-def]
    """Smallest box around the pixels of each crop; x1 <= x0 if there are none."""
    for i in range(boxes.shape[0]):
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        x0, y0, x1, y1 = width, height, 0, 0
        for y in range(height):
            p = offsets[i] + np.int64(y) * width
            row = pixels[p : p + width]
            first = 0
            while first < width and row[first] == 0:
                first += 1
            if first == width:
                continue
            last = width - 1
            while row[last] == 0:
                last -= 1
            x0, x1 = min(x0, first), max(x1, last + 1)
            y0, y1 = min(y0, y), y + 1
        tight[i, 0], tight[i, 1] = boxes[i, 0] + x0, boxes[i, 1] + y0
        tight[i, 2], tight[i, 3] = boxes[i, 0] + x1, boxes[i, 1] + y1


@njit(cache=True, nogil=True)
def _recrop(boxes, pixels, offsets, rows, new_boxes, new_pixels, new_offsets):  # type: ignore[no-untyped-def]
    """Copy what is in the new boxes; the new boxes lie inside of the old ones."""
    for r in range(rows.size):
        i = rows[r]
        width, new_width = boxes[i, 2] - boxes[i, 0], new_boxes[r, 2] - new_boxes[r, 0]
        p = offsets[i] + np.int64(new_boxes[r, 1] - boxes[i, 1]) * width
        p += new_boxes[r, 0] - boxes[i, 0]
        q = new_offsets[r]
        for _ in range(new_boxes[r, 3] - new_boxes[r, 1]):
            row, new = pixels[p : p + new_width], new_pixels[q : q + new_width]
            for k in range(new_width):
                new[k] = row[k]
            p += width
            q += new_width


@njit(cache=True, nogil=True)
def _add(boxes, pixels, offsets, weights, groups, union, union_offsets, sums):  # type: ignore[no-untyped-def]
    for i in range(boxes.shape[0]):
        g = groups[i]
        if g < 0:
            continue
        weight = np.float32(weights[i])
        width, union_width = boxes[i, 2] - boxes[i, 0], union[g, 2] - union[g, 0]
        p = offsets[i]
        q = union_offsets[g] + np.int64(boxes[i, 1] - union[g, 1]) * union_width
        q += boxes[i, 0] - union[g, 0]
        for _ in range(boxes[i, 3] - boxes[i, 1]):
            row, total = pixels[p : p + width], sums[q : q + width]
            for k in range(width):
                total[k] += weight * row[k]
            p += width
            q += union_width


def gather(boxes: Boxes, pixels: Pixels, offsets: Ints, rows: Ints) -> Flat:
    """The crops ``rows`` (int64, 0 <= row < n), in that order; a row may come twice."""
    flat = as_flat(boxes, pixels, offsets)
    rows = solid(rows, np.int64)
    new_boxes = flat.boxes[rows]
    new_offsets = offsets_of(new_boxes)
    new_pixels = np.empty(new_offsets[-1], np.uint8)
    _gather(flat.pixels, flat.offsets, rows, new_pixels, new_offsets)
    return Flat(new_boxes, new_pixels, new_offsets)


def binarise(pixels: Pixels, offsets: Ints, thresholds: npt.ArrayLike = 0.5) -> Pixels:
    """Pixels 0/1: whether the probability, value / 255, is above ``thresholds`` (one, or (n,))."""
    offsets = solid(offsets, np.int64)
    wanted = np.broadcast_to(np.asarray(thresholds, np.float64), (len(offsets) - 1,))
    if not ((wanted >= 0) & (wanted < 1)).all():
        raise ValueError(f"mask thresholds lie in 0 <= t < 1, not {wanted.min()} … {wanted.max()}")
    cuts = (np.floor(wanted * 255) + 1).astype(np.uint8)
    result = np.empty_like(pixels)
    _cut(solid(pixels, np.uint8), offsets, cuts, result)
    return result


def tighten(boxes: Boxes, pixels: Pixels, offsets: Ints) -> tuple[Flat, Ints]:
    """Shrink each box to its pixels other than 0; drop the crops that have none.

    Returns:
        The crops that are left, and their rows int64 in what was given.
    """
    flat = as_flat(boxes, pixels, offsets)
    tight = np.empty_like(flat.boxes)
    _tight(*flat, tight)
    kept = np.flatnonzero(tight[:, 2] > tight[:, 0])
    if len(kept) == len(tight) and (tight == flat.boxes).all():
        return flat, kept
    return _crops_in(flat, tight[kept], kept), kept


def window(
    boxes: Boxes, pixels: Pixels, offsets: Ints, size: Size, shift: tuple[int, int] = (0, 0)
) -> tuple[Flat, Ints]:
    """Move all crops by ``shift`` (dx, dy) into an image of ``size``; cut off what is outside.

    Returns:
        The crops whose box is still partly inside, and their rows int64 in what was given.
        A crop may be left without a pixel other than 0 (see ``tighten``).
    """
    flat = as_flat(boxes, pixels, offsets)
    moved = flat.boxes + np.array([*shift, *shift], np.int32)
    limits = np.array([size[1], size[0]] * 2, np.int32)
    inside = np.clip(moved, 0, limits)
    kept = np.flatnonzero((inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1]))
    if len(kept) == len(moved) and (inside == moved).all():
        return Flat(moved, flat.pixels, flat.offsets), kept
    return _crops_in(Flat(moved, flat.pixels, flat.offsets), inside[kept], kept), kept


def paste(crop: npt.NDArray, box: npt.ArrayLike, size: Size) -> npt.NDArray:
    """The full image (height, width) with ``crop`` at ``box`` and 0 elsewhere."""
    x0, y0, x1, y1 = np.asarray(box).tolist()
    image = np.zeros(size, crop.dtype)
    image[y0:y1, x0:x1] = crop
    return image


def fuse(
    boxes: Boxes,
    pixels: Pixels,
    offsets: Ints,
    groups: npt.ArrayLike,
    weights: npt.ArrayLike,
    totals: npt.ArrayLike | None = None,
) -> Flat:
    """Weighted mean of soft crops by group, on the union of their boxes.

    Where a crop of the group is absent it counts as 0. Rounded to uint8.

    Args:
        groups: (n,) number of the group of each crop, 0 … g - 1, each with a member at least;
            -1 leaves the crop out
        weights: (n,) weight of each crop
        totals: (g,) what the weighted sums are divided by; the sum of the weights by default
    """
    flat = as_flat(boxes, pixels, offsets)
    groups = solid(groups, np.int64)
    weights = solid(weights, np.float64)
    member = groups >= 0
    count = int(groups.max(initial=-1)) + 1
    if (np.bincount(groups[member], minlength=count) == 0).any():
        raise ValueError("a group has no member")
    union = np.empty((count, 4), np.int32)
    union[:, :2] = np.iinfo(np.int32).max
    union[:, 2:] = 0
    np.minimum.at(union[:, :2], groups[member], flat.boxes[member, :2])
    np.maximum.at(union[:, 2:], groups[member], flat.boxes[member, 2:])
    union_offsets = offsets_of(union)
    sums = np.zeros(union_offsets[-1], np.float32)
    _add(*flat, weights, groups, union, union_offsets, sums)
    if totals is None:
        totals = np.bincount(groups[member], weights[member], minlength=count)
    divisors = np.asarray(totals, np.float64)
    if (divisors <= 0).any():
        raise ValueError("the weights of a group sum up to nothing")
    sums /= np.repeat(divisors.astype(np.float32), np.diff(union_offsets))
    return Flat(union, np.clip(np.rint(sums), 0, 255).astype(np.uint8), union_offsets)


def _crops_in(flat: Flat, new_boxes: Boxes, rows: Ints) -> Flat:
    new_boxes = np.ascontiguousarray(new_boxes)
    new_offsets = offsets_of(new_boxes)
    new_pixels = np.empty(new_offsets[-1], np.uint8)
    _recrop(*flat, rows, new_boxes, new_pixels, new_offsets)
    return Flat(new_boxes, new_pixels, new_offsets)
