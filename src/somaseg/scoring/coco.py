"""COCO's average precision of masks: predictions ranked by confidence. Not the competition's score.

Lin et al. 2014 (arXiv:1405.0312), as pycocotools computes it (areas of all sizes): in
each image predictions choose, in the order of falling confidence, the free truth they overlap best
with IoU ≥ t (the competition wants *above* t); all images together give a curve of precision over
recall, made monotone, read off at recall 0, 0.01, …, 1; the mean over these, over t = 0.50, 0.55,
…, 0.95 and over classes is the AP. COCO stops at 100 detections an image. Here there is **no cap**:
an image may hold 800 cells. A prediction that hits no truth, but lies on a crowd region (shared
pixels ≥ t of its own), counts neither way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.errors import SomasegError
from somaseg.scoring.comparison import Comparison
from somaseg.scoring.match import THRESHOLDS, Floats, Overlaps

#: Recall levels at which precision is read. From ``linspace`` as in pycocotools: some differ from
#: k / 100 in the last bit, which decides whether a recall of just 0.35 reaches its level.
RECALLS: Floats = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """AP of one class, or of all cells as one.

    Attributes:
        precision: AP at each threshold, float64 (T,).
        recall: largest recall at each threshold, float64 (T,).
    """

    precision: Floats
    recall: Floats

    def to_json(self, thresholds: Sequence[int]) -> dict[str, Any]:
        """Plain values: the means, AP at 0.50 and 0.75 where computed, AP at each threshold."""
        values = dict(zip(thresholds, self.precision.tolist(), strict=True))
        return {
            "ap": float(self.precision.mean()),
            "ap50": values.get(50),
            "ap75": values.get(75),
            "ar": float(self.recall.mean()),
            "precision": list(values.values()),
        }


@dataclass(frozen=True, eq=False)
class CocoScore:
    """COCO AP of a data set, without the cap of 100 detections unless asked for.

    Attributes:
        thresholds: IoU thresholds, percent.
        agnostic: all cells as one class.
        classes: AP of each class that has a truth; empty if the predictions have no classes.
        max_detections: cap an image (and class), or none.
    """

    thresholds: tuple[int, ...]
    agnostic: AveragePrecision
    classes: dict[str, AveragePrecision]
    max_detections: int | None = None

    @property
    def ap(self) -> float | None:
        """What is called "mAP": the mean over classes and thresholds; none without classes."""
        if not self.classes:
            return None
        return float(np.mean([scored.precision for scored in self.classes.values()]))

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        return {
            "ap": self.ap,
            "by_class": {
                name: scored.to_json(self.thresholds) for name, scored in self.classes.items()
            },
            "class_agnostic": self.agnostic.to_json(self.thresholds),
            "max_detections": self.max_detections,
        }


def unranked(comparison: Comparison) -> bool:
    """Whether the predictions carry no confidence: two or more, all with one score."""
    scores = np.concatenate([image.scores for image in comparison.images])
    return len(scores) > 1 and bool((scores == scores[0]).all())


def coco_score(
    comparison: Comparison,
    thresholds: tuple[int, ...] = THRESHOLDS,
    max_detections: int | None = None,
) -> CocoScore | None:
    """COCO AP, by class and class-agnostic.

    Args:
        comparison: from :func:`somaseg.scoring.compare`.
        thresholds: whole percents, rising.
        max_detections: keep the most confident so many of each image (COCO's own number: 100).

    Returns:
        none if there is no truth at all: AP is then undefined.

    Raises:
        SomasegError: the predictions carry no confidence (all the same), or it is not a number.
    """
    for image in comparison.images:
        if not np.isfinite(image.scores).all():
            row = int(np.argmin(np.isfinite(image.scores)))
            raise SomasegError(
                f"image {image.id!r}: the score of prediction {row + 1} is {image.scores[row]}; "
                "COCO AP ranks by scores, give each prediction a finite one"
            )
    if unranked(comparison):
        raise SomasegError(
            "all predictions have the same score, so COCO AP (which ranks by it) is undefined; "
            "give predictions with scores, such as COCO results"
        )
    agnostic = _average_precision(comparison.images, thresholds, max_detections)
    if agnostic is None:
        return None
    names = comparison.names[: comparison.n_truth_names]
    classes = {}
    if len(names) == 1:
        classes = {names[0]: agnostic}
    elif comparison.predictions_have_classes:
        for name in names:
            one = _average_precision(comparison.instances_of(name), thresholds, max_detections)
            if one is not None:
                classes[name] = one
    return CocoScore(thresholds, agnostic, classes, max_detections)


def _average_precision(
    images: Sequence[Overlaps], thresholds: tuple[int, ...], max_detections: int | None
) -> AveragePrecision | None:
    """AP of these truths and predictions, whatever their class; none if there is no truth."""
    n_truths = sum(len(image.truth_areas) for image in images)
    if n_truths == 0:
        return None
    percents = np.asarray(thresholds, np.int64)
    ranked = [np.argsort(-image.scores, kind="stable")[:max_detections] for image in images]
    both = [_hits(image, order, percents) for image, order in zip(images, ranked, strict=True)]
    hits = np.concatenate([hit for hit, _ in both], axis=1)
    ignored = np.concatenate([on_crowd for _, on_crowd in both], axis=1)
    scores = np.concatenate([im.scores[order] for im, order in zip(images, ranked, strict=True)])
    order = np.argsort(-scores, kind="stable")
    hits, ignored = hits[:, order], ignored[:, order]
    true = np.cumsum(hits, axis=1).astype(np.float64)
    recall = true / n_truths
    precision = true / np.maximum(np.cumsum(hits | ~ignored, axis=1), 1)
    # The best precision at this recall or any higher one.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    read = np.zeros((len(thresholds), len(RECALLS)))
    for t in range(len(thresholds)):
        at = np.searchsorted(recall[t], RECALLS, side="left")
        reached = at < hits.shape[1]
        read[t, reached] = precision[t, at[reached]]
    best = recall[:, -1] if hits.shape[1] else np.zeros(len(thresholds))
    return AveragePrecision(read.mean(axis=1), best)


def _hits(
    image: Overlaps, order: npt.NDArray[np.int64], percents: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether predictions in this order hit a truth, or lie on a crowd, (T, len(order)) each."""
    # Pairs sorted by prediction, so that the pairs of prediction j are start[j] .. start[j + 1].
    by_prediction = np.lexsort((image.truth, image.prediction))
    start = np.searchsorted(
        image.prediction[by_prediction], np.arange(len(image.prediction_areas) + 1)
    )
    hits = _choose(
        *(order, start, image.truth[by_prediction], image.shared[by_prediction]),
        *(image.truth_areas, image.prediction_areas, percents),
    )
    on_crowd = np.zeros(len(image.prediction_areas), np.int64)
    np.maximum.at(on_crowd, image.crowd[:, 0], image.crowd[:, 1])
    ignored = 100 * on_crowd[order] >= percents[:, None] * image.prediction_areas[order]
    return hits, ignored & (on_crowd[order] > 0) & ~hits


@njit(cache=True, nogil=True)
def _choose(order, start, truth, shared, truth_areas, prediction_areas, percents):  # type: ignore[no-untyped-def]
    """Let each prediction, in ``order``, take the free truth it overlaps best."""
    hits = np.zeros((len(percents), len(order)), np.bool_)
    for t in range(len(percents)):
        taken = np.zeros(len(truth_areas), np.bool_)
        for rank in range(len(order)):
            j = order[rank]
            best, best_iou = -1, 0.0
            for pair in range(start[j], start[j + 1]):
                i = truth[pair]
                union = truth_areas[i] + prediction_areas[j] - shared[pair]
                if taken[i] or 100 * shared[pair] < percents[t] * union:
                    continue
                iou = shared[pair] / union
                if iou >= best_iou:  # of equals the last, as pycocotools does
                    best, best_iou = i, iou
            if best >= 0:
                taken[best] = True
                hits[t, rank] = True
    return hits
