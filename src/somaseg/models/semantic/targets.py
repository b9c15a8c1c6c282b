"""What a semantic network learns of each pixel: foreground, borders, depth. Compiled.

Borders are those of instances, not of the foreground: where cells touch, the foreground has none.
"""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

Plane = npt.NDArray[np.float32]


class Targets(NamedTuple):
    """Targets of one label image, each float32 (h, w).

    Attributes:
        foreground: 1 in cells.
        touching: 1 in cell pixels with another cell among their 8 neighbours, and in background
            pixels with two different cells among theirs.
        outline: 1 in cell pixels with background among their 4 neighbours.
        depth: 0 in the background; in a cell the distance to its outermost pixels, plus one, as a
            share of the cell's largest.
    """

    foreground: Plane
    touching: Plane
    outline: Plane
    depth: Plane


def semantic_targets(labels: npt.NDArray[np.integer]) -> Targets:
    """Compute the targets of a label image.

    Args:
        labels: int (h, w), 0 is background, every other value one cell. Beyond the image nothing
            is known, so its edge is no border.
    """
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    touching, outline, edge = _borders(labels)
    # Within a cell the nearest outermost pixel is its own: the way to another's crosses it.
    distance = cv2.distanceTransform(1 - edge, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    depth = _normalise(labels, distance.astype(np.float32, copy=False))
    return Targets((labels > 0).astype(np.float32), touching, outline, depth)


@njit(cache=True, nogil=True)
def _borders(labels: np.ndarray) -> tuple:
    """Touching, outline, and uint8 1 in cell pixels with anything else among 4 neighbours."""
    h, w = labels.shape
    touching = np.zeros((h, w), np.float32)
    outline = np.zeros((h, w), np.float32)
    edge = np.zeros((h, w), np.uint8)
    for y in range(h):
        for x in range(w):
            own = labels[y, x]
            seen = own
            for v in range(max(y - 1, 0), min(y + 2, h)):
                for u in range(max(x - 1, 0), min(x + 2, w)):
                    other = labels[v, u]
                    if other == own:
                        continue
                    if own > 0 and (v == y or u == x):
                        edge[y, x] = 1
                        if other == 0:
                            outline[y, x] = 1
                    if other > 0:
                        if seen > 0 and other != seen:
                            touching[y, x] = 1
                        seen = other
    return touching, outline, edge


@njit(cache=True, nogil=True)
def _normalise(labels: np.ndarray, distance: np.ndarray) -> np.ndarray:
    h, w = labels.shape
    # OpenCV's square roots differ in the last bit by where in memory the image lies; the squares
    # are whole numbers. Without this the same training would end differently each time.
    for y in range(h):
        for x in range(w):
            square = np.rint(np.float64(distance[y, x]) ** 2)
            distance[y, x] = np.float32(np.sqrt(square))
    top = 0
    for y in range(h):
        for x in range(w):
            top = max(top, labels[y, x])
    largest = np.zeros(top + 1, np.float32)
    for y in range(h):
        for x in range(w):
            k = labels[y, x]
            largest[k] = max(largest[k], distance[y, x] + np.float32(1))
    depth = np.zeros((h, w), np.float32)
    for y in range(h):
        for x in range(w):
            k = labels[y, x]
            if k > 0:
                depth[y, x] = (distance[y, x] + np.float32(1)) / largest[k]
    return depth
