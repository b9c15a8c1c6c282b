"""Which prediction hits which truth: one to one, at every IoU threshold, from sparse overlaps.

A prediction *hits* a truth at a threshold of t percent if ``100 · |A ∩ B| > t · |A ∪ B|``. This is
compared in integers, so that an IoU of exactly 0.75 never passes 0.75 by a rounding error.

The matching is a **maximum** one: as many pairs as can be formed when each truth and each
prediction is used once. When the masks on one side share no pixel (as in any submission), at an IoU
above one half each mask on the other side can hit only one of them, so the graph of hits is made of
stars and every sensible rule (greedy by IoU, greedy by confidence, maximum) finds the same number.
Only where truths *and* predictions overlap can they differ; there the maximum is the one number
that depends on no order. Pairs are taken by falling IoU first and only then rearranged, so the
pairs themselves are the natural ones too.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.overlap import shared_pixels

#: The IoU thresholds of the competition and of COCO, in percent.
THRESHOLDS: tuple[int, ...] = tuple(range(50, 100, 5))

#: ``maximum``: one to one, as many pairs as possible. ``kaggle``: the public kernels' shortcut.
Matching = Literal["maximum", "kaggle"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """What the n truths and m predictions of one image share: all that any score needs.

    Attributes:
        id: the image.
        image_class: class of the whole image, if it has one.
        truth_areas, prediction_areas: int64 (n,), (m,), pixels.
        truth_classes, prediction_classes: int16 (n,), (m,), indices into *one* list of names,
            -1 for unknown.
        scores: float32 (m,), the confidence of each prediction.
        truth, prediction, shared: int32, int32, int64 (k,): the pairs that share pixels, and how
            many they share.
        crowd: int64 (c, 3), prediction, pixels shared, class: what lies on crowds, for COCO AP.
    """

    id: str
    image_class: str | None
    truth_areas: Ints
    prediction_areas: Ints
    truth_classes: npt.NDArray[np.int16]
    prediction_classes: npt.NDArray[np.int16]
    scores: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int32]
    prediction: npt.NDArray[np.int32]
    shared: Ints
    crowd: Ints = field(default_factory=lambda: np.zeros((0, 3), np.int64))

    @classmethod
    def between(
        cls,
        truth: Instances,
        prediction: Instances,
        id: str = "",
        image_class: str | None = None,
        names: tuple[str, ...] | None = None,
        crowd: Instances | None = None,
    ) -> "Overlaps":
        """Overlaps of two lists of instances of the same image.

        Soft masks are cut at one half. Classes are joined by *name*: they become indices into
        ``names`` (default: the truth's names, then those that only the prediction has).

        Raises:
            SomasegError: the two differ in size.
        """
        if truth.size != prediction.size:
            (height, width), (other_height, other_width) = truth.size, prediction.size
            raise SomasegError(
                f"image {id!r}: the prediction is {other_width}×{other_height} pixels, the truth "
                f"{width}×{height}; predict the image as it is, or resize the masks back"
            )
        if names is None:
            names = joined_names(truth.names, prediction.names)
        truth, prediction = _hard(truth), _hard(prediction)
        i, j, shared = shared_pixels(truth, prediction)
        crowd = Instances.empty(truth.size, names) if crowd is None else _hard(crowd)
        region, on_it, pixels = shared_pixels(crowd, prediction)
        ignored = np.stack([on_it, pixels, crowd.rename(names).classes[region]], axis=1)
        return cls(
            id=id,
            image_class=image_class,
            truth_areas=truth.areas,
            prediction_areas=prediction.areas,
            truth_classes=truth.rename(names).classes,
            prediction_classes=prediction.rename(names).classes,
            scores=prediction.scores,
            truth=i,
            prediction=j,
            shared=shared,
            crowd=ignored.astype(np.int64),
        )

    @property
    def iou(self) -> Floats:
        """IoU of each pair, float64 (k,)."""
        union = self.truth_areas[self.truth] + self.prediction_areas[self.prediction] - self.shared
        return self.shared / union

    def of_class(self, index: int) -> "Overlaps":
        """Only the truths and predictions of one class."""
        truths = self.truth_classes == index
        predictions = self.prediction_classes == index
        pairs = truths[self.truth] & predictions[self.prediction]
        # Rows move up by the number of rows dropped before them.
        truth_row = (np.cumsum(truths) - 1).astype(np.int32)
        prediction_row = (np.cumsum(predictions) - 1).astype(np.int32)
        crowd = self.crowd[predictions[self.crowd[:, 0]] & (self.crowd[:, 2] == index)]
        crowd[:, 0] = prediction_row[crowd[:, 0]]
        return Overlaps(
            id=self.id,
            image_class=self.image_class,
            truth_areas=self.truth_areas[truths],
            prediction_areas=self.prediction_areas[predictions],
            truth_classes=self.truth_classes[truths],
            prediction_classes=self.prediction_classes[predictions],
            scores=self.scores[predictions],
            truth=truth_row[self.truth[pairs]],
            prediction=prediction_row[self.prediction[pairs]],
            shared=self.shared[pairs],
            crowd=crowd,
        )

    def matches(self, thresholds: tuple[int, ...] = THRESHOLDS) -> npt.NDArray[np.int32]:
        """The prediction matched to each truth at each threshold; -1: none. int32 (T, n)."""
        return match_pairs(
            *(self.truth, self.prediction, self.shared),
            *(self.truth_areas, self.prediction_areas, _checked(thresholds)),
        )

    def counts(
        self, thresholds: tuple[int, ...] = THRESHOLDS, matching: Matching = "maximum"
    ) -> "Counts":
        """Hits, false positives and false negatives at each threshold (percent, ascending).

        ``matching="kaggle"`` counts as the data science bowl's public kernels do: a truth with
        exactly one hit is a true positive, one without any a false negative, a prediction without
        any a false positive; a truth hit twice is none of them.
        """
        percents = _checked(thresholds)
        if matching == "kaggle":
            return Counts(
                *count_kaggle(
                    *(self.truth, self.prediction, self.shared),
                    *(self.truth_areas, self.prediction_areas, percents),
                )
            )
        if matching != "maximum":
            raise SomasegError(f"matching {matching!r} is unknown; use 'maximum' or 'kaggle'")
        hits = np.count_nonzero(self.matches(thresholds) >= 0, axis=1)
        return Counts(hits, len(self.prediction_areas) - hits, len(self.truth_areas) - hits)


@dataclass(frozen=True, eq=False)
class Counts:
    """True positives, false positives and false negatives at T thresholds, each int64 (T,)."""

    hits: Ints
    false_positives: Ints
    false_negatives: Ints

    @property
    def accuracy(self) -> Floats:
        """TP / (TP + FP + FN), float64 (T,): the competition's "precision" at each threshold.

        Where there is neither a truth nor a prediction nothing is wrong: 1.
        """
        total = self.hits + self.false_positives + self.false_negatives
        return np.divide(self.hits, total, out=np.ones(len(total)), where=total > 0)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.hits + other.hits,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )


def joined_names(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """The names of ``first``, then those of ``second`` that it lacks."""
    return first + tuple(name for name in second if name not in first)


def _hard(instances: Instances) -> Instances:
    return instances.binary() if instances.soft else instances


def _checked(thresholds: tuple[int, ...]) -> Ints:
    percents = np.asarray(thresholds, np.int64)
    if len(percents) == 0 or (np.diff(percents) <= 0).any() or percents[0] < 0:
        raise SomasegError(f"IoU thresholds {thresholds}: give rising whole percents, like 50, 75")
    return percents


@njit(cache=True, nogil=True)
def levels(truth, prediction, shared, truth_areas, prediction_areas, percents):  # type: ignore[no-untyped-def]
    """How many of the rising thresholds each pair passes, int64 (k,)."""
    passed = np.zeros(len(truth), np.int64)
    for pair in range(len(truth)):
        union = truth_areas[truth[pair]] + prediction_areas[prediction[pair]] - shared[pair]
        while passed[pair] < len(percents) and (
            100 * shared[pair] > percents[passed[pair]] * union
        ):
            passed[pair] += 1
    return passed


@njit(cache=True, nogil=True)
def count_kaggle(truth, prediction, shared, truth_areas, prediction_areas, percents):  # type: ignore[no-untyped-def]
    """True positives, false positives, false negatives, each int64 (T,), as public kernels do."""
    passed = levels(truth, prediction, shared, truth_areas, prediction_areas, percents)
    once = np.zeros(len(percents), np.int64)
    no_truth = np.zeros(len(percents), np.int64)
    no_prediction = np.zeros(len(percents), np.int64)
    for t in range(len(percents)):
        truth_hits = np.zeros(len(truth_areas), np.int64)
        prediction_hits = np.zeros(len(prediction_areas), np.int64)
        for pair in range(len(truth)):
            if passed[pair] > t:
                truth_hits[truth[pair]] += 1
                prediction_hits[prediction[pair]] += 1
        once[t] = np.count_nonzero(truth_hits == 1)
        no_truth[t] = np.count_nonzero(prediction_hits == 0)
        no_prediction[t] = np.count_nonzero(truth_hits == 0)
    return once, no_truth, no_prediction


@njit(cache=True, nogil=True)
def match_pairs(truth, prediction, shared, truth_areas, prediction_areas, percents):  # type: ignore[no-untyped-def]
    """Match truths and predictions, the maximum number of pairs at every threshold.

    Callable from other compiled code (the tuner's). ``percents``: int64 (T,), rising.

    Returns:
        int32 (T, n): the prediction of each truth, or -1. A truth matched at one threshold is
        matched at all lower ones.
    """
    n_thresholds = len(percents)
    matched = np.full((n_thresholds, len(truth_areas)), -1, np.int32)
    passed = levels(truth, prediction, shared, truth_areas, prediction_areas, percents)
    truth_degree = np.zeros(len(truth_areas), np.int32)
    prediction_degree = np.zeros(len(prediction_areas), np.int32)
    for pair in range(len(truth)):
        if passed[pair] > 0:
            truth_degree[truth[pair]] += 1
            prediction_degree[prediction[pair]] += 1

    n_contested = 0
    for pair in range(len(truth)):
        if passed[pair] == 0:
            continue
        if truth_degree[truth[pair]] == 1 and prediction_degree[prediction[pair]] == 1:
            for t in range(passed[pair]):  # nobody else wants either of them
                matched[t, truth[pair]] = prediction[pair]
        else:
            n_contested += 1
    if n_contested:
        contested = np.empty(n_contested, np.int64)
        closeness = np.empty(n_contested)
        n_contested = 0
        for pair in range(len(truth)):
            i, j = truth[pair], prediction[pair]
            if passed[pair] > 0 and (truth_degree[i] > 1 or prediction_degree[j] > 1):
                union = truth_areas[i] + prediction_areas[j] - shared[pair]
                contested[n_contested] = pair
                # The exact level first: a rounding of the IoU must not put a pair out of order.
                closeness[n_contested] = passed[pair] + 0.5 * shared[pair] / union
                n_contested += 1
        order = contested[np.argsort(-closeness, kind="mergesort")]
        _match_contested(
            truth[order], prediction[order], passed[order], len(prediction_areas), matched
        )
    return matched


@njit(cache=True, nogil=True)
def _match_contested(truth, prediction, passed, n_predictions, matched):  # type: ignore[no-untyped-def]
    """Fill ``matched`` for pairs sorted by falling IoU: greedy first, then augmenting paths.

    Goes from the strictest threshold to the laxest. A matching stays valid when pairs are added,
    and one search from each free truth makes it maximum again (Berge 1957, Kuhn 1955).
    """
    n_thresholds, n_truths = matched.shape
    # The pairs of each truth, in the order given: start[i] .. start[i + 1].
    start = np.zeros(n_truths + 1, np.int64)
    for pair in range(len(truth)):
        start[truth[pair] + 1] += 1
    start = np.cumsum(start)
    filled = start[:-1].copy()
    pairs = np.empty(len(truth), np.int64)
    for pair in range(len(truth)):
        pairs[filled[truth[pair]]] = pair
        filled[truth[pair]] += 1

    partner = np.full(n_truths, -1, np.int32)
    owner = np.full(n_predictions, -1, np.int32)
    found_from = np.empty(n_predictions, np.int32)
    seen_in = np.full(n_predictions, -1, np.int64)
    queue = np.empty(n_truths, np.int32)
    search = 0
    added = 0
    for t in range(n_thresholds - 1, -1, -1):
        while added < len(truth) and passed[added] > t:
            i, j = truth[added], prediction[added]
            if partner[i] < 0 and owner[j] < 0:
                partner[i], owner[j] = j, i
            added += 1
        for free in range(n_truths):
            if partner[free] >= 0 or start[free] == start[free + 1]:
                continue
            # Breadth first along alternating paths, to a prediction nobody owns.
            queue[0], head, tail, end = free, 0, 1, -1
            while head < tail and end < 0:
                i = queue[head]
                head += 1
                for at in range(start[i], start[i + 1]):
                    pair = pairs[at]
                    j = prediction[pair]
                    if passed[pair] <= t:
                        break  # sorted: the truth's other pairs fail as well
                    if seen_in[j] == search:
                        continue
                    seen_in[j], found_from[j] = search, i
                    if owner[j] < 0:
                        end = j
                        break
                    queue[tail] = owner[j]
                    tail += 1
            search += 1
            while end >= 0:  # hand each prediction on the path to the truth it was found from
                i = found_from[end]
                partner[i], owner[end], end = end, i, partner[i]
        for i in range(n_truths):
            if partner[i] >= 0:
                matched[t, i] = partner[i]
