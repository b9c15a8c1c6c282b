"""Kernels between crops and runs of pixels, for both pixel orders.

A run is (start, length) with a 0-based start in the flattened image. With ``columns`` false the
image is flattened row by row (competition), else column by column (COCO). ``line`` is the length
of what is flattened first: the width or the height.
"""

import numpy as np
from numba import njit

from somaseg.masks.flat import Flat, Ints, Size, as_flat, offsets_of

# Faults of a mask's runs; 0 is sound.
NOT_A_NUMBER, ODD, EMPTY, BAD_START, BAD_LENGTH, OUTSIDE, UNSORTED, OVERLAPPING = range(1, 9)


@njit(cache=True, nogil=True)
def check(runs, bounds, size, faults, at):  # type: ignore[no-untyped-def]
    """Write the first fault of each mask, and the index of the run that has it."""
    for i in range(bounds.size - 1):
        if faults[i] != 0:
            continue
        if bounds[i] == bounds[i + 1]:
            faults[i] = EMPTY
            continue
        end = 0
        unsorted = -1
        for k in range(bounds[i], bounds[i + 1]):
            start, length = runs[k, 0], runs[k, 1]
            fault = 0
            if start < 0:
                fault = BAD_START
            elif length < 1:
                fault = BAD_LENGTH
            elif length > size or start > size - length:
                fault = OUTSIDE
            if fault != 0:
                faults[i] = fault
                at[i] = k
                break
            if start < end and unsorted < 0:
                unsorted = k
            end = start + length
        if faults[i] == 0 and unsorted >= 0:
            faults[i] = UNSORTED
            at[i] = unsorted


@njit(cache=True, nogil=True)
def _box(runs, bounds, line, columns, boxes):  # type: ignore[no-untyped-def]
    for i in range(bounds.size - 1):
        near, far = line, 0  # extent along the line
        for k in range(bounds[i], bounds[i + 1]):
            start, last = runs[k, 0], runs[k, 0] + runs[k, 1] - 1
            if start // line != last // line:  # the run goes on in the next line
                near, far = 0, line
            else:
                near = min(near, start % line)
                far = max(far, last % line + 1)
        first = runs[bounds[i], 0] // line
        k = bounds[i + 1] - 1
        after = (runs[k, 0] + runs[k, 1] - 1) // line + 1
        if columns:
            boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = first, near, after, far
        else:
            boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = near, first, far, after


@njit(cache=True, nogil=True)
def _fill(runs, bounds, line, columns, boxes, offsets, pixels):  # type: ignore[no-untyped-def]
    for i in range(bounds.size - 1):
        x0, y0, width = boxes[i, 0], boxes[i, 1], boxes[i, 2] - boxes[i, 0]
        near, first, along, across = x0, y0, 1, width
        if columns:
            near, first, along, across = y0, x0, width, 1
        for k in range(bounds[i], bounds[i + 1]):
            start, left = runs[k, 0], runs[k, 1]
            at_line, place = start // line, start % line
            while left > 0:
                count = min(left, line - place)
                p = offsets[i] + (at_line - first) * across + (place - near) * along
                for _ in range(count):
                    pixels[p] = 1
                    p += along
                left -= count
                at_line += 1
                place = 0


@njit(cache=True, nogil=True)
def _encode(boxes, pixels, offsets, line, columns, runs, bounds):  # type: ignore[no-untyped-def]
    m = 0
    for i in range(boxes.shape[0]):
        near, first = np.int64(boxes[i, 0]), np.int64(boxes[i, 1])
        inner, outer = boxes[i, 2] - near, boxes[i, 3] - first
        along, across = 1, inner
        if columns:
            near, first = first, near
            along, across = inner, 1
            inner, outer = outer, inner
        end = np.int64(-1)  # of the run that is open
        for o in range(outer):
            p = offsets[i] + o * across
            flat = (first + o) * line + near
            for _ in range(inner):
                if pixels[p] != 0:
                    if flat == end:
                        runs[m - 1, 1] += 1
                    else:
                        runs[m, 0] = flat
                        runs[m, 1] = 1
                        m += 1
                    end = flat + 1
                p += along
                flat += 1
        bounds[i + 1] = m
    return m


def decode(runs: Ints, bounds: Ints, size: Size, columns: bool = False) -> Flat:
    """Crops of n masks from their sound, sorted runs int64 (m, 2); tight boxes.

    Args:
        runs: (start, length), 0-based, all masks one after the other
        bounds: int64 (n + 1,); mask i has the runs ``bounds[i]:bounds[i + 1]``, one at least
        size: (height, width) of the image
        columns: the image is flattened column by column
    """
    line = size[0] if columns else size[1]
    boxes = np.empty((len(bounds) - 1, 4), np.int32)
    if not len(boxes):
        return as_flat(boxes, np.zeros(0, np.uint8), np.zeros(1, np.int64))
    _box(runs, bounds, line, columns, boxes)
    offsets = offsets_of(boxes)
    pixels = np.zeros(offsets[-1], np.uint8)
    _fill(runs, bounds, line, columns, boxes, offsets, pixels)
    return Flat(boxes, pixels, offsets)


def encode(flat: Flat, size: Size, columns: bool = False) -> tuple[Ints, Ints]:
    """Runs int64 (m, 2) (0-based start, length) of n masks and their bounds int64 (n + 1,).

    Runs are sorted and as long as can be: one that ends a line and one that begins the next are
    joined. Pixels other than 0 are inside.
    """
    boxes, pixels, offsets = flat
    lines = boxes[:, 2] - boxes[:, 0] if columns else boxes[:, 3] - boxes[:, 1]
    most = int((offsets[-1] + lines.sum()) // 2 + 1)
    runs = np.empty((most, 2), np.int64)
    bounds = np.zeros(len(boxes) + 1, np.int64)
    m = _encode(boxes, pixels, offsets, size[0] if columns else size[1], columns, runs, bounds)
    return runs[:m].copy(), bounds
