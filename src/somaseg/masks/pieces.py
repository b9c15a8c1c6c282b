"""Connected pieces and holes of each crop.

Pixels other than 0 are inside. Pieces are 8-connected by default and holes are then 4-connected;
with ``connectivity=4`` it is the other way round. A hole is background that no path joins to the
border of the crop.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.masks.flat import Boxes, Flat, Ints, Pixels, as_flat, offsets_of


@njit(cache=True, nogil=True)
def _components(crop, height, width, inside, reach, runs, parent, lines):  # type: ignore[no-untyped-def]
    """Find the runs of the crop's rows (of mask or background) and join those that touch.

    Writes the first and last + 1 place of each run in the flat crop to ``runs``, the first run of
    each row to ``lines`` and to ``parent`` the first run, in reading order, of its component.
    ``reach`` is how far apart runs of two rows may be: 1 if diagonals join, else 0. Returns the
    number of runs.
    """
    m = 0
    for y in range(height):
        lines[y] = m
        row = crop[y * width : (y + 1) * width]
        x = 0
        while x < width:
            if (row[x] != 0) != inside:
                x += 1
                continue
            runs[m, 0] = y * width + x
            while x < width and (row[x] != 0) == inside:
                x += 1
            runs[m, 1] = y * width + x
            parent[m] = m
            m += 1
        if y == 0:
            continue
        above, here = lines[y - 1], lines[y]
        while above < lines[y] and here < m:
            above_start, above_end = runs[above, 0] + width, runs[above, 1] + width
            if above_start < runs[here, 1] + reach and runs[here, 0] < above_end + reach:
                one, two = above, here
                while parent[one] != one:
                    parent[one] = parent[parent[one]]
                    one = parent[one]
                while parent[two] != two:
                    parent[two] = parent[parent[two]]
                    two = parent[two]
                parent[max(one, two)] = min(one, two)
            if above_end < runs[here, 1]:
                above += 1
            else:
                here += 1
    lines[height] = m
    for r in range(m):  # parents come before their children
        parent[r] = parent[parent[r]]
    return m


@njit(cache=True, nogil=True)
def _room(boxes):  # type: ignore[no-untyped-def]
    """The most runs that a crop can have, and the most rows."""
    runs, lines = 0, 0
    for i in range(boxes.shape[0]):
        height, width = boxes[i, 3] - boxes[i, 1], boxes[i, 2] - boxes[i, 0]
        runs = max(runs, np.int64(height) * ((width + 1) // 2))
        lines = max(lines, height)
    return runs, lines + 1


@njit(cache=True, nogil=True)
def _label(boxes, pixels, offsets, reach, pieces, counts):  # type: ignore[no-untyped-def]
    """Number the pieces of each crop from 1, in reading order."""
    most_runs, most_lines = _room(boxes)
    runs = np.empty((most_runs, 2), np.int64)
    parent = np.empty(most_runs, np.int64)
    lines = np.empty(most_lines, np.int64)
    numbers = np.empty(most_runs, np.int32)
    for i in range(boxes.shape[0]):
        crop = pixels[offsets[i] : offsets[i + 1]]
        out = pieces[offsets[i] : offsets[i + 1]]
        height, width = boxes[i, 3] - boxes[i, 1], boxes[i, 2] - boxes[i, 0]
        m = _components(crop, height, width, True, reach, runs, parent, lines)
        for r in range(m):
            if parent[r] == r:
                counts[i] += 1
                numbers[r] = counts[i]
            for p in range(runs[r, 0], runs[r, 1]):
                out[p] = numbers[parent[r]]


@njit(cache=True, nogil=True)
def keep_largest_crops(boxes, pixels, offsets, reach):  # type: ignore[no-untyped-def]
    """Clear all but the largest piece of each crop."""
    most_runs, most_lines = _room(boxes)
    runs = np.empty((most_runs, 2), np.int64)
    parent = np.empty(most_runs, np.int64)
    lines = np.empty(most_lines, np.int64)
    areas = np.empty(most_runs, np.int64)
    for i in range(boxes.shape[0]):
        crop = pixels[offsets[i] : offsets[i + 1]]
        height, width = boxes[i, 3] - boxes[i, 1], boxes[i, 2] - boxes[i, 0]
        m = _components(crop, height, width, True, reach, runs, parent, lines)
        for r in range(m):
            areas[r] = 0
        for r in range(m):
            areas[parent[r]] += runs[r, 1] - runs[r, 0]
        best = 0
        for r in range(m):
            if areas[r] > areas[best]:
                best = r
        for r in range(m):
            if parent[r] != best:
                for p in range(runs[r, 0], runs[r, 1]):
                    crop[p] = 0


@njit(cache=True, nogil=True)
def fill_crops(boxes, pixels, offsets, reach, most_filled, hole_areas):  # type: ignore[no-untyped-def]
    """Set the pixels of holes up to ``most_filled`` to 1; add up all ``hole_areas``."""
    most_runs, most_lines = _room(boxes)
    runs = np.empty((most_runs, 2), np.int64)
    parent = np.empty(most_runs, np.int64)
    lines = np.empty(most_lines, np.int64)
    areas = np.empty(most_runs, np.int64)
    for i in range(boxes.shape[0]):
        crop = pixels[offsets[i] : offsets[i + 1]]
        height, width = boxes[i, 3] - boxes[i, 1], boxes[i, 2] - boxes[i, 0]
        m = _components(crop, height, width, False, reach, runs, parent, lines)
        for r in range(m):
            areas[r] = 0
        for y in range(height):
            for r in range(lines[y], lines[y + 1]):
                areas[parent[r]] += runs[r, 1] - runs[r, 0]
                first, last = runs[r, 0] - y * width, runs[r, 1] - y * width
                if y == 0 or y == height - 1 or first == 0 or last == width:
                    areas[parent[r]] = -crop.size - 1  # at the border: never a hole
        for r in range(m):
            area = areas[parent[r]]
            if area > 0:
                hole_areas[i] += runs[r, 1] - runs[r, 0]
                if area <= most_filled:
                    for p in range(runs[r, 0], runs[r, 1]):
                        crop[p] = 1


@njit(cache=True, nogil=True)
def _split(pixels, offsets, pieces, rows, numbers, parts, new_offsets):  # type: ignore[no-untyped-def]
    for r in range(rows.size):
        whole = pixels[offsets[rows[r]] : offsets[rows[r] + 1]]
        number = pieces[offsets[rows[r]] : offsets[rows[r] + 1]]
        part = parts[new_offsets[r] : new_offsets[r + 1]]
        for k in range(part.size):
            part[k] = whole[k] if number[k] == numbers[r] else 0


def _reach(connectivity: int) -> int:
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity is 4 or 8, not {connectivity}")
    return 1 if connectivity == 8 else 0


def label_pieces(
    boxes: Boxes, pixels: Pixels, offsets: Ints, connectivity: int = 8
) -> tuple[npt.NDArray[np.int32], Ints]:
    """Number the pieces of each crop: int32 like ``pixels``, 1 … k in reading order; and k (n,)."""
    flat = as_flat(boxes, pixels, offsets)
    numbers = np.zeros(len(flat.pixels), np.int32)
    counts = np.zeros(len(flat.boxes), np.int64)
    _label(*flat, _reach(connectivity), numbers, counts)
    return numbers, counts


def count_pieces(boxes: Boxes, pixels: Pixels, offsets: Ints, connectivity: int = 8) -> Ints:
    """Number of connected pieces of each crop, int64 (n,)."""
    return label_pieces(boxes, pixels, offsets, connectivity)[1]


def largest_piece(boxes: Boxes, pixels: Pixels, offsets: Ints, connectivity: int = 8) -> Pixels:
    """Pixels with only the largest piece of each crop; of equal ones the first in reading order.

    Soft values are kept.
    """
    flat = as_flat(boxes, pixels, offsets)
    kept = flat.pixels.copy()
    keep_largest_crops(flat.boxes, kept, flat.offsets, _reach(connectivity))
    return kept


def split_pieces(
    boxes: Boxes, pixels: Pixels, offsets: Ints, connectivity: int = 8
) -> tuple[Flat, Ints]:
    """Each piece as a crop of its own (same box as the whole), and the row it came from (m,)."""
    flat = as_flat(boxes, pixels, offsets)
    numbers, counts = label_pieces(*flat, connectivity)
    rows = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    new_boxes = flat.boxes[rows]
    new_offsets = offsets_of(new_boxes)
    parts = np.empty(new_offsets[-1], np.uint8)
    _split(flat.pixels, flat.offsets, numbers, rows, number, parts, new_offsets)
    return Flat(new_boxes, parts, new_offsets), rows


def fill_holes(
    boxes: Boxes,
    pixels: Pixels,
    offsets: Ints,
    connectivity: int = 8,
    most: int | None = None,
) -> Pixels:
    """Pixels (hard masks) with the holes set to 1: all, or those of at most ``most`` pixels."""
    flat = as_flat(boxes, pixels, offsets)
    filled = flat.pixels.copy()
    most = np.iinfo(np.int64).max if most is None else int(most)
    unused = np.zeros(len(flat.boxes), np.int64)
    fill_crops(flat.boxes, filled, flat.offsets, 1 - _reach(connectivity), most, unused)
    return filled


def hole_areas(boxes: Boxes, pixels: Pixels, offsets: Ints, connectivity: int = 8) -> Ints:
    """Number of pixels in the holes of each crop, int64 (n,)."""
    flat = as_flat(boxes, pixels, offsets)
    areas = np.zeros(len(flat.boxes), np.int64)
    fill_crops(*flat, 1 - _reach(connectivity), 0, areas)  # 0: nothing is filled
    return areas
