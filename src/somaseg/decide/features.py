"""What can be said of a raw mask without the image: its score, shape, certainty and neighbours.

The mask is that at a half, as everywhere before settling. Lengths are in pixels. What is heavy is
compiled: one pass over the pixels of each crop, and the pairs that share pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.spatial import cKDTree

from somaseg.instances import Instances
from somaseg.masks.overlap import iou_pairs

Features = npt.NDArray[np.float32]

_SHAPES = (
    "area",
    "length",
    "elongation",
    "solidity",
    "roundness",
    "extent",
    "certainty",
    "border",
    "stability",
)
FEATURES = (
    "score",
    "rank",
    *_SHAPES,
    "relative_area",
    "best_iou",
    "best_rival",
    "supporters",
    "rivals",
    "covered",
    "to_edge",
    "nearest",
    "density",
    "count",
)
"""Columns of :func:`instance_features`, in this order.

- score: as the model gave it; rank: the share of the image's instances with a lower one.
- area, length: logarithms of the pixels and of the major axis of the ellipse of equal moments;
  elongation: minor by major axis; solidity: area by that of the convex hull of the pixels' corners;
  roundness: 4π·area by the square of the outline's length along pixel edges; extent: by the box.
- certainty, border: mean probability over the mask, and over its outermost pixels; stability: area
  at 0.6 by area at 0.4. For hard masks these are 1.
- relative_area: logarithm of the area by the median of the image.
- best_iou, best_rival: largest IoU with another instance, and largest score of those that overlap;
  supporters, rivals: how many have an IoU above 0.5, and how many share pixels at all; covered:
  the sum of the shares of its pixels that those of higher score have.
- to_edge: logarithm of the distance of the box from the image's edge.
- nearest: distance to the nearest other centre by the root of the area; density: how many centres
  lie within four roots of the median area; count: logarithm of the number in the image.
"""


@dataclass(frozen=True)
class Whole:
    """What must be known of a whole image to describe the instances of a part of it.

    Attributes:
        scores: of all instances, sorted, float32 (n,).
        median: of their areas, at least 1.
        votes: sum of the scores of each class, float64 (classes + 1,); the last is of no class.
        elected: class that has most of the scores; −1 without any of known class.
    """

    scores: npt.NDArray[np.float32]
    median: float
    votes: npt.NDArray[np.float64]
    elected: int

    @classmethod
    def of(cls, parts: Iterable[Instances]) -> Self:
        """Look at the parts of an image, one at a time; all have the same class names."""
        scores, areas = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
        votes, known = np.zeros(1), False
        for part in parts:
            scores.append(part.scores)
            areas.append(part.areas)
            rows = part.classes >= 0
            if len(votes) == 1:
                votes = np.zeros(len(part.names) + 1)
            np.add.at(votes, part.classes[rows], part.scores[rows])
            known |= bool(rows.any())
        sizes = np.concatenate(areas)
        median = max(float(np.median(sizes)), 1.0) if len(sizes) else 1.0
        elected = int(votes[:-1].argmax()) if known else -1
        return cls(np.sort(np.concatenate(scores)), median, votes, elected)


def instance_features(raw: Instances, whole: Whole | None = None) -> Features:
    """Describe each raw instance of an image.

    Args:
        raw: soft or hard; a mask without a pixel at a half has 0 for its shape.
        whole: the image that they are a part of; by default they are all of it.

    Returns:
        float32 (n, len(FEATURES)).
    """
    n = len(raw)
    out = np.zeros((n, len(FEATURES)), np.float32)
    if n == 0:
        return out
    column = {name: out[:, k] for k, name in enumerate(FEATURES)}
    shapes, centres = _shapes(raw.boxes, raw.pixels, raw.offsets, raw.cut, 255 if raw.soft else 1)
    areas = shapes[:, 0].copy()
    shapes[:, :2] = np.log1p(shapes[:, :2])
    first = FEATURES.index(_SHAPES[0])
    out[:, first : first + len(_SHAPES)] = shapes
    column["score"][:] = raw.scores
    whole = whole or Whole.of([raw])
    total, median = len(whole.scores), whole.median
    column["rank"][:] = np.searchsorted(whole.scores, raw.scores) / total
    column["relative_area"][:] = np.log1p(areas) - np.log1p(median)
    i, j, iou = iou_pairs(raw)
    shared = iou * (areas[i] + areas[j]) / (1 + iou)
    for one, other in ((i, j), (j, i)):
        np.maximum.at(column["best_iou"], one, iou)
        np.maximum.at(column["best_rival"], one, raw.scores[other])
        np.add.at(column["supporters"], one, iou > 0.5)
        np.add.at(column["rivals"], one, 1)
        below = raw.scores[other] > raw.scores[one]
        np.add.at(column["covered"], one[below], (shared / areas[one])[below])
    height, width = raw.size
    edge = np.minimum(raw.boxes[:, :2], np.array([width, height]) - raw.boxes[:, 2:]).min(axis=1)
    column["to_edge"][:] = np.log1p(edge)
    tree = cKDTree(centres)
    if n > 1:
        column["nearest"][:] = tree.query(centres, 2)[0][:, 1] / np.sqrt(np.maximum(areas, 1))
    radius = 4 * np.sqrt(median)
    column["density"][:] = tree.query_ball_point(centres, radius, return_length=True) - 1
    column["count"][:] = np.log1p(total)
    return out


@njit(cache=True, nogil=True)
def _shapes(boxes, pixels, offsets, cut, full):  # type: ignore[no-untyped-def]
    """Float64 (n, 9) of ``_SHAPES``, before logarithms, and centres (n, 2) x y."""
    n = boxes.shape[0]
    out, centres = np.zeros((n, 9)), np.empty((n, 2))
    widest = 1
    for i in range(n):
        widest = max(widest, boxes[i, 3] - boxes[i, 1])
    lefts, rights = np.empty(2 * widest + 2), np.empty(2 * widest + 2)
    low, high = 0.4 * full, 0.6 * full
    for i in range(n):
        height, width = boxes[i, 3] - boxes[i, 1], boxes[i, 2] - boxes[i, 0]
        crop = pixels[offsets[i] : offsets[i + 1]].reshape(height, width)
        area, x_sum, y_sum, xx, yy, xy = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        inside, rim, n_rim, outline, n_low, n_high, top, rows = 0.0, 0.0, 0, 0, 0, 0, 0, 0
        for y in range(height):
            left, right = -1, -1
            for x in range(width):
                value = crop[y, x]
                n_low += value > low
                n_high += value > high
                if value < cut:
                    continue
                if left < 0:
                    left = x
                right = x
                area += 1
                x_sum, y_sum = x_sum + x, y_sum + y
                xx, yy, xy = xx + x * x, yy + y * y, xy + x * y
                inside += value
                sides = 0
                sides += x == 0 or crop[y, x - 1] < cut
                sides += x == width - 1 or crop[y, x + 1] < cut
                sides += y == 0 or crop[y - 1, x] < cut
                sides += y == height - 1 or crop[y + 1, x] < cut
                outline += sides
                if sides > 0:
                    rim += value
                    n_rim += 1
            if left >= 0:
                if rows == 0:
                    top = y
                rows = y - top + 1
                lefts[rows - 1], rights[rows - 1] = left, right + 1
            elif rows > 0:  # a gap between pieces
                lefts[y - top], rights[y - top] = np.inf, -np.inf
        centres[i, 0], centres[i, 1] = boxes[i, 0] + width / 2, boxes[i, 1] + height / 2
        if area == 0:
            continue
        centres[i, 0] = boxes[i, 0] + x_sum / area
        centres[i, 1] = boxes[i, 1] + y_sum / area
        # Central moments of the pixels' squares: a twelfth is that of a single one.
        a = xx / area - (x_sum / area) ** 2 + 1 / 12
        b = yy / area - (y_sum / area) ** 2 + 1 / 12
        c = xy / area - x_sum / area * y_sum / area
        spread = np.sqrt(((a - b) / 2) ** 2 + c * c)
        major, minor = (a + b) / 2 + spread, max((a + b) / 2 - spread, 0.0)
        out[i, 0] = area
        out[i, 1] = 4 * np.sqrt(major)
        out[i, 2] = np.sqrt(minor / major)
        out[i, 3] = area / _hull_area(lefts[:rows], rights[:rows])
        out[i, 4] = 4 * np.pi * area / outline**2
        out[i, 5] = area / (height * width)
        out[i, 6] = inside / area / full
        out[i, 7] = rim / n_rim / full
        out[i, 8] = n_high / n_low
    return out, centres


@njit(cache=True, nogil=True)
def _hull_area(lefts, rights):  # type: ignore[no-untyped-def]
    """Area of the convex hull of the pixels' corners, from each row's first and last edge."""
    rows = lefts.size
    # At each line between rows the outermost edge of the row above and of that below.
    left, right = np.empty(rows + 1), np.empty(rows + 1)
    for y in range(rows + 1):
        left[y] = min(lefts[max(y - 1, 0)], lefts[min(y, rows - 1)])
        right[y] = max(rights[max(y - 1, 0)], rights[min(y, rows - 1)])
    return _chain(right, 1.0) - _chain(left, -1.0)


@njit(cache=True, nogil=True)
def _chain(edge, sign):  # type: ignore[no-untyped-def]
    """Integral over the lines of the least concave (sign 1) or largest convex (-1) bound."""
    stack = np.empty(edge.size, np.int64)
    top = 0
    for y in range(edge.size):
        if not np.isfinite(edge[y]):
            continue
        while top > 1:
            one, two = stack[top - 2], stack[top - 1]
            turn = (edge[two] - edge[one]) * (y - one) - (edge[y] - edge[one]) * (two - one)
            if sign * turn > 0:
                break
            top -= 1
        stack[top] = y
        top += 1
    total = 0.0
    for k in range(1, top):
        one, two = stack[k - 1], stack[k]
        total += (edge[one] + edge[two]) / 2 * (two - one)
    return total
