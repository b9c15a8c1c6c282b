"""Where annotations lie beside what the image shows: by how much, and whether that is sure.

An annotator's tool, or a cursor's tip, may put all outlines half a pixel off. A network cannot
learn that: flips and rotations in training average it away. So it is found from out-of-fold
predictions: the mean distance between the centres of predicted cells and of the annotated ones that
they hit. Hundreds of cells make it sure to a few hundredths of a pixel. Masks are then moved by it
before they are cut at their threshold, if they surely fit better so.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.stats import t as student

from somaseg.data.types import Dataset
from somaseg.decide.judge import SURENESS
from somaseg.instances import Instances
from somaseg.masks.flat import Flat, Masks
from somaseg.masks.overlap import iou_pairs
from somaseg.masks.parallel import map_images
from somaseg.masks.shift import shift
from somaseg.scoring.match import THRESHOLDS

Floats = npt.NDArray[np.float64]
Offset = tuple[float, float]
"""dy, dx in pixels."""

NONE: Offset = (0.0, 0.0)
STEPS = (0.5, 1.0, 1.5)
"""Shares of the distance that are tried: a threshold cuts moved masks as it likes."""
ROUND = 0.05
"""Pixels."""
_NOISE = 0.975  # an axis stays 0 unless it is surely not, to both sides
_APART = 2.0  # standard errors between a class and all images, for an offset of its own


class _Estimate(NamedTuple):
    """Mean over images, float64 (2,), and its standard error."""

    mean: Floats
    error: Floats
    images: int


def shifted(raw: Instances, offsets: npt.ArrayLike) -> Instances:
    """The instances moved by (dy, dx) in pixels, one for all or (n, 2).

    Soft masks keep their probabilities, between pixels by bilinear interpolation; hard ones are cut
    at a half.
    """
    by = np.broadcast_to(np.asarray(offsets, np.float64), (len(raw), 2))
    if not by.any():
        return raw
    boxes, pixels, starts = shift(*raw.flat, raw.size, by)
    return raw.replace(boxes=boxes, pixels=pixels, offsets=starts)


class OffsetFinder:
    """Finds the offset of each class from some images; what is known of an image is kept.

    Each image's predictions are matched with its truth once, and, if there is an offset to try,
    four times more. No setting plays a part: of every annotated cell its best mask counts, cut at a
    half.

    Args:
        dataset: the annotated images.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._distances: dict[tuple[str, int], Floats] = {}
        self._fits: dict[tuple[str, int, Offset], float] = {}

    def find(
        self, raw: Mapping[str, Instances], groups: Mapping[str, Sequence[str]]
    ) -> dict[str, Offset]:
        """Offset of each class.

        Classes share what all images say, unless one says otherwise by two standard errors.

        Args:
            raw: raw predictions by image id.
            groups: images of each class.
        """
        means = {
            group: self._known(self._distances, raw, ids, self._distance)
            for group, ids in groups.items()
        }
        pooled = _estimate(np.concatenate([np.zeros((0, 2)), *means.values()]))
        if pooled is None:
            return dict.fromkeys(groups, NONE)
        sets: dict[str, tuple[_Estimate, list[str]]] = {}
        for group in groups:
            own = _estimate(means[group])
            apart = own is not None and bool(
                (abs(own.mean - pooled.mean) > _APART * np.hypot(own.error, pooled.error)).any()
            )
            if own is not None and apart:
                sets[group] = own, [group]
            else:
                sets.setdefault("", (pooled, []))[1].append(group)
        out: dict[str, Offset] = {}
        for estimate, members in sets.values():
            ids = [name for group in members for name in groups[group]]
            out |= dict.fromkeys(members, self._tried(raw, ids, estimate))
        return out

    def _tried(
        self, raw: Mapping[str, Instances], ids: Sequence[str], estimate: _Estimate
    ) -> Offset:
        """The share of an estimate that fits best, if it surely fits better than none."""
        limit = student.ppf(_NOISE, estimate.images - 1) * estimate.error
        sure = np.where(abs(estimate.mean) > limit, estimate.mean, 0)
        offsets = dict.fromkeys(_rounded(share * sure) for share in STEPS)
        offsets.pop(NONE, None)
        best, least = NONE, 0.0
        for offset in offsets:
            gains = self._fit(raw, ids, offset) - self._fit(raw, ids, NONE)
            n = len(gains)
            if n < 2:
                continue
            error = student.ppf(SURENESS, n - 1) * gains.std(ddof=1) / np.sqrt(n)
            if gains.mean() - error > least:
                best, least = offset, float(gains.mean() - error)
        return best

    def _fit(self, raw: Mapping[str, Instances], ids: Sequence[str], offset: Offset) -> Floats:
        """How well cells are drawn under an offset, for each image; see :func:`best_fit`."""

        def work(name: str) -> float:
            return best_fit(shifted(raw[name], offset), self._dataset[name].annotated())

        todo = [name for name in ids if (name, id(raw[name]), offset) not in self._fits]
        for name, value in zip(todo, map_images(work, todo), strict=True):
            self._fits[name, id(raw[name]), offset] = value
        return np.array([self._fits[name, id(raw[name]), offset] for name in ids])

    def _distance(self, one: Instances, name: str) -> Floats:
        found = distances(one, self._dataset[name].annotated())
        return found.mean(0, keepdims=True) if len(found) else found

    def _known(
        self,
        memory: dict[tuple[str, int], Floats],
        raw: Mapping[str, Instances],
        ids: Sequence[str],
        work: Callable[[Instances, str], Floats],
    ) -> Floats:
        todo = [name for name in ids if (name, id(raw[name])) not in memory]
        for name, value in zip(todo, map_images(lambda i: work(raw[i], i), todo), strict=True):
            memory[name, id(raw[name])] = value
        return np.concatenate([np.zeros((0, 2)), *(memory[name, id(raw[name])] for name in ids)])


def distances(raw: Instances, truth: Instances) -> Floats:
    """From predicted centres to annotated ones, float64 (m, 2), dy dx in pixels.

    Of each annotated cell that is hit (IoU above a half) by its best mask; cells at the image's
    edge are left out, as their centres lie elsewhere.
    """
    i, j, iou = iou_pairs(raw, truth)
    hit = iou > 0.5
    i, j, iou = i[hit], j[hit], iou[hit]
    order = np.lexsort((i, -iou, j))
    i, j = i[order], j[order]
    first = np.r_[True, j[1:] != j[:-1]] if len(j) else np.zeros(0, bool)
    i, j = i[first], j[first]
    limit = np.array([truth.size[1], truth.size[0]])
    inside = np.ones(len(i), bool)
    for boxes in (raw.boxes[i], truth.boxes[j]):
        inside &= (boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < limit).all(1)
    i, j = i[inside], j[inside]
    return _centres(truth.flat, truth.cut)[j] - _centres(raw.flat, raw.cut)[i]


def best_fit(raw: Masks, truth: Masks) -> float:
    """Share of the competition's IoU thresholds that each annotated cell's best mask passes."""
    best = np.zeros(len(truth.boxes))
    _, j, iou = iou_pairs(raw, truth)
    np.maximum.at(best, j, iou)
    passed = (best[:, None] > np.array(THRESHOLDS) / 100).mean(1)
    return float(passed.mean()) if len(passed) else 0.0


def _estimate(means: Floats) -> _Estimate | None:
    n = len(means)
    if n < 3:
        return None
    return _Estimate(means.mean(0), means.std(0, ddof=1) / np.sqrt(n), n)


def _rounded(offset: Floats) -> Offset:
    dy, dx = (round(round(float(value) / ROUND) * ROUND, 2) + 0.0 for value in offset)
    return dy, dx


def _centres(flat: Flat, cut: int) -> Floats:
    return _centroids(*flat, cut)


@njit(cache=True, nogil=True)
def _centroids(boxes, pixels, offsets, cut):  # type: ignore[no-untyped-def]
    """Float64 (n, 2), y x of the mean pixel of each crop; not a number without any."""
    out = np.empty((boxes.shape[0], 2))
    for i in range(boxes.shape[0]):
        width = boxes[i, 2] - boxes[i, 0]
        ys, xs, count, p = 0, 0, 0, offsets[i]
        for y in range(boxes[i, 1], boxes[i, 3]):
            for x in range(boxes[i, 0], boxes[i, 0] + width):
                if pixels[p] >= cut:
                    ys, xs, count = ys + y, xs + x, count + 1
                p += 1
        out[i, 0] = ys / count if count else np.nan
        out[i, 1] = xs / count if count else np.nan
    return out
