"""From foreground and borders to cells: seeds where the inside is sure, then a watershed.

Seeds are either the pieces of the inside above a threshold, or its maxima that stand out: those
that rise by some height above the pass to any higher one (their persistence; Edelsbrunner et al.
2002). Predicted borders are often fainter than a threshold asks for, but still a pass.

The flood is Meyer's ("Topographic distance and watershed lines", Signal Processing 38, 1994):
pixels are taken from a queue, surest inside first, of equals the oldest first, and hand their label
on to their neighbours. The levels are few, so the queue is a list a level, and all is one pass.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

LEVELS = 256
"""Steps in which the landscape is flooded."""


@dataclass(frozen=True)
class Regions:
    """Cells of one image.

    Attributes:
        labels: int32 (h, w), 0 is background, cells are 1..n.
        scores: float32 (n,), 0..1: mean foreground of the cell times its surest inside.
    """

    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]


def watershed_instances(
    foreground: npt.NDArray[np.float32],
    border: npt.NDArray[np.float32] | None = None,
    seeds: npt.NDArray[np.float32] | None = None,
    *,
    foreground_threshold: float = 0.5,
    seed_threshold: float = 0.5,
    prominence: float | None = None,
    min_area: int = 15,
) -> Regions:
    """Group the foreground pixels into cells.

    The inside is the foreground that is not border; with seeds, its mean with them. Without border,
    seeds and prominence the cells are the connected components (of 4 neighbours) of the foreground
    above ``seed_threshold``, grown to where it is above ``foreground_threshold``.

    Args:
        foreground: float32 (h, w), probability of being in a cell, borders included.
        border: float32 (h, w), probability of being where a cell ends.
        seeds: float32 (h, w), 0..1, high in the middle of cells (a depth or centre map).
        foreground_threshold: pixels above it belong to cells.
        seed_threshold: pieces where the inside is above it become a cell each. Foreground that no
            such piece reaches is a cell as well.
        prominence: if given, ``seed_threshold`` is not used: maxima of the inside become a cell
            each that rise by this much above the pass to any higher one.
        min_area: smaller cells are dropped, in pixels.

    Raises:
        ValueError: the shapes do not fit.
    """
    for name, one in (("border", border), ("seeds", seeds)):
        if one is not None and one.shape != foreground.shape:
            raise ValueError(f"{name} {one.shape} and foreground {foreground.shape} do not fit")
    within = foreground if border is None else foreground * (1 - border)
    if seeds is not None:
        within = (within + seeds) / 2
    inside = np.ascontiguousarray(foreground > foreground_threshold)
    heights = np.clip(within * LEVELS, 0, LEVELS - 1).astype(np.uint8)
    if prominence is None:
        markers = _pieces(within > seed_threshold, inside)
    else:
        markers = _maxima(heights, inside, max(round(prominence * LEVELS), 1))
    labels = flood(LEVELS - 1 - heights, markers, inside)
    return _regions(labels, foreground, within, min_area)


def flood(
    levels: npt.NDArray[np.uint8], markers: npt.NDArray[np.int32], inside: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Grow markers over a landscape, lowest level first, until they meet.

    Args:
        levels: uint8 (h, w).
        markers: int32 (h, w), 0 is unmarked.
        inside: bool (h, w); pixels outside stay 0.

    Returns:
        int32 (h, w), the label of the marker that reached each pixel (by 4 neighbours), 0 where
        none did.
    """
    out = np.where(inside, markers, 0).astype(np.int32)
    _flood(np.ascontiguousarray(levels), out, np.ascontiguousarray(inside))
    return out


def prominent_maxima(
    heights: npt.NDArray[np.uint8], inside: npt.NDArray[np.bool_], prominence: int
) -> npt.NDArray[np.int32]:
    """Mark the maxima of a landscape that stand out.

    Args:
        heights: uint8 (h, w).
        inside: bool (h, w); ways lead over these pixels only, by 4 neighbours.
        prominence: a maximum counts if every way to a higher one goes down by this much, 1 at
            least. Of equal maxima that do not stand out from each other, all are one.

    Returns:
        int32 (h, w), 1..n where the height is less than ``prominence`` below the maximum; else 0.
    """
    return _maxima(np.ascontiguousarray(heights), np.ascontiguousarray(inside), max(prominence, 1))


def _pieces(sure: npt.NDArray[np.bool_], inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Number the pieces of what is sure, then the pieces of the foreground that have none."""
    count, markers = cv2.connectedComponents((sure & inside).astype(np.uint8), connectivity=4)
    pieces, whole = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
    lonely = np.ones(pieces, np.int32)
    lonely[0] = 0
    lonely[whole[markers > 0]] = 0
    numbers = np.where(lonely > 0, count - 1 + np.cumsum(lonely), 0).astype(np.int32)
    marked: npt.NDArray[np.int32] = np.where(markers > 0, markers, numbers[whole])
    return marked


def _regions(
    labels: npt.NDArray[np.int32],
    foreground: npt.NDArray[np.float32],
    within: npt.NDArray[np.float32],
    min_area: int,
) -> Regions:
    n = int(labels.max(initial=0))
    area, total, surest = _measure(labels, foreground, within, n)
    keep = area >= max(min_area, 1)
    number = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    scores = (total / np.maximum(area, 1) * surest)[keep].astype(np.float32)
    return Regions(np.append(np.int32(0), number)[labels], scores)


@njit(cache=True, nogil=True)
def _measure(labels, foreground, within, n):  # type: ignore[no-untyped-def]
    """Area, sum of the foreground and highest inside of cells 1..n."""
    area = np.zeros(n, np.int64)
    total = np.zeros(n, np.float64)
    surest = np.zeros(n, np.float64)
    h, w = labels.shape
    for y in range(h):
        for x in range(w):
            k = labels[y, x] - 1
            if k >= 0:
                area[k] += 1
                total[k] += foreground[y, x]
                surest[k] = max(surest[k], within[y, x])
    return area, total, surest


@njit(cache=True, nogil=True)
def _maxima(heights, inside, prominence):  # type: ignore[no-untyped-def]
    """Take the pixels from the highest down, join them to islands, and islands at their passes."""
    h, w = heights.shape
    start = np.zeros(LEVELS + 1, np.int64)
    for y in range(h):
        for x in range(w):
            if inside[y, x]:
                start[LEVELS - heights[y, x]] += 1
    start = np.cumsum(start)
    order = np.empty(start[LEVELS], np.int32)
    for y in range(h):
        for x in range(w):
            if inside[y, x]:
                level = LEVELS - 1 - heights[y, x]
                order[start[level]] = y * w + x
                start[level] += 1
    # A pixel's parent is nearer to the root of its island; −1 is still under water.
    parent = np.full(h * w, np.int32(-1))
    top = np.zeros(h * w, np.int64)
    for pixel in order:
        y, x = pixel // w, pixel % w
        level = np.int64(heights[y, x])
        own = np.int32(-1)
        for d in range(4):
            v = y + (d == 0) - (d == 1)
            u = x + (d == 2) - (d == 3)
            if v < 0 or u < 0 or v >= h or u >= w or parent[v * w + u] < 0:
                continue
            other = _root(parent, np.int32(v * w + u))
            if own < 0:
                own = other
            elif other != own:
                if top[other] > top[own]:
                    own, other = other, own
                # The lower one ends here, unless it stands out: then the pass stays its border.
                if top[other] - level < prominence:
                    parent[other] = own
        if own < 0:
            own = pixel
            top[pixel] = level
        parent[pixel] = own
    markers = np.zeros((h, w), np.int32)
    number = np.zeros(h * w, np.int32)
    n = 0
    for y in range(h):
        for x in range(w):
            if inside[y, x]:
                root = _root(parent, np.int32(y * w + x))
                if top[root] - np.int64(heights[y, x]) < prominence:
                    if number[root] == 0:
                        n += 1
                        number[root] = n
                    markers[y, x] = number[root]
    return markers


@njit(cache=True, nogil=True)
def _root(parent, pixel):  # type: ignore[no-untyped-def]
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel


@njit(cache=True, nogil=True)
def _flood(levels, labels, inside):  # type: ignore[no-untyped-def]
    h, w = levels.shape
    first = np.full(LEVELS, np.int32(-1))
    last = np.full(LEVELS, np.int32(-1))
    # Each pixel enters the queue once, so one link a pixel holds all the lists.
    following = np.full(h * w, np.int32(-1))
    for y in range(h):
        for x in range(w):
            if labels[y, x] > 0:
                _append(first, last, following, levels[y, x], np.int32(y * w + x))
    level = 0
    while level < LEVELS:
        here = first[level]
        if here < 0:
            level += 1
            continue
        first[level] = following[here]
        y, x = here // w, here % w
        for d in range(4):
            v, u = y, x
            if d == 0:
                v -= 1
            elif d == 1:
                u -= 1
            elif d == 2:
                u += 1
            else:
                v += 1
            if v < 0 or u < 0 or v >= h or u >= w or not inside[v, u] or labels[v, u] > 0:
                continue
            labels[v, u] = labels[y, x]
            _append(first, last, following, levels[v, u], np.int32(v * w + u))
            # A way that leads down is followed at once.
            if levels[v, u] < level:
                level = int(levels[v, u])


@njit(cache=True, nogil=True)
def _append(first, last, following, level, pixel):  # type: ignore[no-untyped-def]
    if first[level] < 0:
        first[level] = pixel
    else:
        following[last[level]] = pixel
    last[level] = pixel
