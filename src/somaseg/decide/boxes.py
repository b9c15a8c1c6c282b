"""Fusion of the boxes of several members: NMS, soft-NMS, NMW and WBF.

They agree with the package ``ensemble-boxes`` to 1e-6, but for what it does by accident:

- Boxes may be in any unit. There they must lie in 0 … 1 and are clipped, with a warning.
- A box with x1 < x0 is refused. There its corners are swapped, with a warning. Boxes without area
  are left out, as there.
- Results are sorted by falling score; equal ones as they came. There NMS sorts by label first, and
  the order of equal scores is left to an unstable sort.
- Soft-NMS returns the lowered scores, as in the paper. There the scores are lowered only to decide
  which boxes stay, and come back as they were (``lowered=False`` here).
- A mean is computed in float64. There it is rounded to float32, so an IoU that lies within 1e-7 of
  the threshold may fall on its other side.
- A cluster of boxes that all have the score 0 has their plain mean. There it is not a number.
- A wrong number of weights is refused. There a printed warning replaces it by ones.

Kept are the ways of ``ensemble-boxes`` with weights: NMS multiplies scores with w / Σ w, so that
three equal members have their scores divided by three; NMW with w / max w; WBF divides by Σ w.
``skip`` is held against scores before they are weighted. Several boxes of one member may end in one
cluster, and WBF counts them all, up to the number of members.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.decide.cluster import Floats, Pairs, decay, join_heads, join_mean_boxes
from somaseg.masks.flat import Ints, solid
from somaseg.masks.resolve import nms_from_pairs

Confidence = Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]
CONFIDENCES: tuple[Confidence, ...] = (
    "avg",
    "max",
    "box_and_model_avg",
    "absent_model_aware_avg",
)
NO_SCORE = 1e-9
"""Counts for a score of 0 where scores weigh a mean: nothing beside others, all among its like."""


class Boxes(NamedTuple):
    """Boxes float64 (n, 4), x0 y0 x1 y1; scores float64 (n,), falling; labels int64 (n,)."""

    boxes: Floats
    scores: Floats
    labels: Ints


class _Joined(NamedTuple):
    """The boxes of all members, one after the other."""

    boxes: Floats
    scores: Floats
    labels: Ints
    member: Ints
    weights: Floats  # of the members


@njit(cache=True, nogil=True)
def _box_pairs(order, boxes, labels, i, j, iou):  # type: ignore[no-untyped-def]
    """Write the pairs of boxes of one label that overlap; with ``i`` empty only count them."""
    m = 0
    for at in range(order.size):
        a = order[at]
        for to in range(at + 1, order.size):
            b = order[to]
            if boxes[b, 0] >= boxes[a, 2]:
                break  # sorted by x0: nor do the others
            height = min(boxes[a, 3], boxes[b, 3]) - max(boxes[a, 1], boxes[b, 1])
            if height <= 0 or labels[a] != labels[b]:
                continue
            if i.size > 0:
                shared = (min(boxes[a, 2], boxes[b, 2]) - boxes[b, 0]) * height
                one = (boxes[a, 2] - boxes[a, 0]) * (boxes[a, 3] - boxes[a, 1])
                two = (boxes[b, 2] - boxes[b, 0]) * (boxes[b, 3] - boxes[b, 1])
                i[m], j[m], iou[m] = a, b, shared / (one + two - shared)
            m += 1
    return m


def box_pairs(boxes: Floats, labels: Ints) -> Pairs:
    """Pairs of boxes of one label that overlap: i, j int32 (m,), each pair once, IoU float64 (m,).

    Args:
        boxes: float64 (n, 4), x0 y0 x1 y1, each with an area.
        labels: int64 (n,).
    """
    boxes, labels = solid(boxes, np.float64), solid(labels, np.int64)
    order = np.argsort(boxes[:, 0], kind="stable")
    nothing = np.empty(0, np.int32)
    count = _box_pairs(order, boxes, labels, nothing, nothing, np.empty(0))
    i, j, iou = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count)
    if count:
        _box_pairs(order, boxes, labels, i, j, iou)
    return i, j, iou


def nms(
    boxes: Sequence[npt.ArrayLike],
    scores: Sequence[npt.ArrayLike],
    labels: Sequence[npt.ArrayLike],
    weights: Sequence[float] | None = None,
    iou: float = 0.5,
) -> Boxes:
    """Greedy suppression: of boxes of one label whose IoU is above ``iou`` the best stays.

    Args:
        boxes: of each member, (n, 4), x0 y0 x1 y1, in one unit.
        scores: of each member, (n,).
        labels: of each member, whole numbers (n,).
        weights: of the members; without, scores stay as they are.
        iou: 0 … 1.

    Raises:
        ValueError: arrays that do not fit each other, a box with x1 < x0 or y1 < y0, a value that
            is not a number, a score below 0, or weights that are not one positive number a member.
    """
    joined = _join(boxes, scores, labels, weights)
    scaled = _shared_out(joined, weights)
    pairs = box_pairs(joined.boxes, joined.labels)
    kept = nms_from_pairs(np.argsort(-scaled, kind="stable"), *pairs, iou)
    return _sorted(joined.boxes[kept], scaled[kept], joined.labels[kept])


def soft_nms(
    boxes: Sequence[npt.ArrayLike],
    scores: Sequence[npt.ArrayLike],
    labels: Sequence[npt.ArrayLike],
    weights: Sequence[float] | None = None,
    iou: float = 0.5,
    sigma: float = 0.5,
    floor: float = 0.001,
    linear: bool = False,
    lowered: bool = True,
) -> Boxes:
    """Soft-NMS (arXiv:1704.04503): boxes that overlap a better one of their label lose score.

    Args:
        boxes, scores, labels, weights: as for :func:`nms`.
        iou: linear only: above it the score becomes s · (1 - IoU).
        sigma: Gaussian only: the score becomes s · exp(-IoU² / sigma).
        floor: boxes whose score does not stay above it are dropped.
        linear: instead of Gaussian.
        lowered: return the lowered scores, else the original ones.

    Raises:
        ValueError: as :func:`nms`.
    """
    joined = _join(boxes, scores, labels, weights)
    scaled = _shared_out(joined, weights)
    pairs = box_pairs(joined.boxes, joined.labels)
    kept, low = decay(scaled, pairs, iou, sigma, floor, linear)
    return _sorted(joined.boxes[kept], (low if lowered else scaled)[kept], joined.labels[kept])


def nmw(
    boxes: Sequence[npt.ArrayLike],
    scores: Sequence[npt.ArrayLike],
    labels: Sequence[npt.ArrayLike],
    weights: Sequence[float] | None = None,
    iou: float = 0.55,
    skip: float = 0.0,
) -> Boxes:
    """Non-maximum weighted (Zhou et al. 2017, "CAD"): each box moves to those it suppresses.

    A box joins the cluster whose best box it overlaps most, if their IoU is above ``iou``. The
    cluster's box is the mean with weights score · IoU with the best box; its score that of the
    best box.

    Args:
        boxes, scores, labels, weights: as for :func:`nms`.
        iou: 0 … 1.
        skip: boxes of a lower score are left out.

    Raises:
        ValueError: as :func:`nms`.
    """
    joined = _join(boxes, scores, labels, weights, skip)
    scaled = joined.scores * (joined.weights / joined.weights.max())[joined.member]
    order = np.argsort(-scaled, kind="stable")
    pairs = box_pairs(joined.boxes, joined.labels)
    clusters, closeness = join_heads(order, pairs, iou)
    means = _means(joined.boxes, clusters, np.maximum(scaled, NO_SCORE) * closeness)
    heads = heads_of(order, clusters)
    return _sorted(means, scaled[heads], joined.labels[heads])


def wbf(
    boxes: Sequence[npt.ArrayLike],
    scores: Sequence[npt.ArrayLike],
    labels: Sequence[npt.ArrayLike],
    weights: Sequence[float] | None = None,
    iou: float = 0.55,
    skip: float = 0.0,
    confidence: Confidence = "avg",
    overflow: bool = False,
) -> Boxes:
    """Weighted boxes fusion (Solovyev et al. 2021, arXiv:1910.13302): clusters around moving means.

    A box joins the cluster whose mean box so far it overlaps most, if their IoU is above ``iou``.
    The cluster's box is the mean with the scores as weights.

    Args:
        boxes, scores, labels, weights: as for :func:`nms`.
        iou: 0 … 1.
        skip: boxes of a lower score are left out.
        confidence: score of a cluster of n boxes of m members, see :func:`fused_scores`.
        overflow: ``avg`` only: more boxes than members raise the score further, above 1 even.

    Raises:
        ValueError: as :func:`nms`.
    """
    joined = _join(boxes, scores, labels, weights, skip)
    scaled = joined.scores * joined.weights[joined.member]
    order = np.argsort(-scaled, kind="stable")
    pulls = np.maximum(scaled, NO_SCORE)
    clusters = join_mean_boxes(order, joined.boxes, pulls, joined.labels, iou)
    fused = fused_scores(scaled, clusters, joined.member, joined.weights, confidence, overflow)
    means = _means(joined.boxes, clusters, pulls)
    return _sorted(means, fused, joined.labels[heads_of(order, clusters)])


def heads_of(order: Ints, clusters: Ints) -> Ints:
    """Row int64 (g,) that each cluster was opened with."""
    return order[np.unique(clusters[order], return_index=True)[1]]


def presence(clusters: Ints, member: Ints, members: int) -> npt.NDArray[np.bool_]:
    """Whether each cluster has an instance of each member, bool (g, members)."""
    present = np.zeros((int(clusters.max(initial=-1)) + 1, members), bool)
    present[clusters, member] = True
    return present


def fused_scores(
    scaled: Floats,
    clusters: Ints,
    member: Ints,
    weights: Floats,
    confidence: Confidence = "avg",
    overflow: bool = False,
) -> Floats:
    """Scores of WBF's clusters.

    With the mean s̄ of the n weighted scores s · w of a cluster, W = Σ w over all members, P over
    those that are present, Q = the sum over its n instances:

    - ``avg``: s̄ · min(n, number of members) / W
    - ``max``: their maximum / max w
    - ``box_and_model_avg``: s̄ · n / Q · P / W
    - ``absent_model_aware_avg``: s̄ · n / (Q + W - P)

    Args:
        scaled: float64 (n,), each score times the weight of its member.
        clusters: int64 (n,), number of the cluster of each.
        member: int64 (n,), number of the member of each.
        weights: float64 (m,), of the members.
        confidence: which of these.
        overflow: ``avg`` only: n instead of the smaller of both.

    Returns:
        float64 (g,).
    """
    n = np.bincount(clusters).astype(np.float64)
    mean = np.bincount(clusters, scaled) / n
    of_all = weights.sum()
    if confidence == "max":
        top = np.zeros(len(n))
        np.maximum.at(top, clusters, scaled)
        return top / weights.max()
    if confidence == "avg":
        return mean * (n if overflow else np.minimum(n, len(weights))) / of_all
    present = presence(clusters, member, len(weights)) @ weights
    of_instances = np.bincount(clusters, weights[member])
    if confidence == "box_and_model_avg":
        return mean * n / of_instances * present / of_all
    if confidence == "absent_model_aware_avg":
        return mean * n / (of_instances + of_all - present)
    raise ValueError(f"unknown confidence {confidence!r}; choose from {', '.join(CONFIDENCES)}")


def checked_weights(weights: Sequence[float] | None, members: int) -> Floats:
    """Weights float64 (m,) of the members; 1 each by default.

    Raises:
        ValueError: not one positive number for each.
    """
    if weights is None:
        return np.ones(members)
    array = np.asarray(weights, np.float64)
    if array.shape != (members,):
        raise ValueError(f"{array.size} weights for {members} members; give one for each")
    if not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"weights {', '.join(f'{w:g}' for w in array)}: give numbers above 0")
    return array


def _join(
    boxes: Sequence[npt.ArrayLike],
    scores: Sequence[npt.ArrayLike],
    labels: Sequence[npt.ArrayLike],
    weights: Sequence[float] | None,
    skip: float = -np.inf,
) -> _Joined:
    """Check the members and put them together, without boxes that have no area or score."""
    if not len(boxes) == len(scores) == len(labels) > 0:
        raise ValueError("give boxes, scores and labels of each member, of one at least")
    parts = []
    for m, (some, of_some, kinds) in enumerate(zip(boxes, scores, labels, strict=True)):
        corners = np.asarray(some, np.float64).reshape(-1, 4)
        values = np.asarray(of_some, np.float64).ravel()
        numbers = np.asarray(kinds).ravel()
        if not len(corners) == len(values) == len(numbers):
            raise ValueError(
                f"member {m}: {len(corners)} boxes, {len(values)} scores, {len(numbers)} labels"
            )
        if not (np.isfinite(corners).all() and np.isfinite(values).all()):
            raise ValueError(f"member {m}: a box or score is not a number")
        if (values < 0).any():
            raise ValueError(f"member {m}: a score is below 0")
        if (corners[:, 2:] < corners[:, :2]).any():
            raise ValueError(f"member {m}: a box has x1 < x0 or y1 < y0; boxes are x0 y0 x1 y1")
        fit = (corners[:, 2:] > corners[:, :2]).all(1) & (values >= skip)
        parts.append((corners[fit], values[fit], numbers[fit].astype(np.int64)))
    corners, values, numbers = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    member = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    return _Joined(corners, values, numbers, member, checked_weights(weights, len(parts)))


def _shared_out(joined: _Joined, weights: Sequence[float] | None) -> Floats:
    """Scores as NMS weights them."""
    if weights is None:
        return joined.scores
    return joined.scores * (joined.weights / joined.weights.sum())[joined.member]


def _means(boxes: Floats, clusters: Ints, weights: Floats) -> Floats:
    """Weighted mean box of each cluster, float64 (g, 4)."""
    totals = np.bincount(clusters, weights)
    sums = [np.bincount(clusters, weights * side) / totals for side in boxes.T]
    return np.stack(sums, axis=1)


def _sorted(boxes: Floats, scores: Floats, labels: Ints) -> Boxes:
    order = np.argsort(-scores, kind="stable")
    return Boxes(boxes[order], scores[order], labels[order])
