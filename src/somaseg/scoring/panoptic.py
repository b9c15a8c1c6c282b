"""Detection scores over all cells of a data set: precision, recall, F1, accuracy and PQ.

Here hits, false positives and false negatives of all images are *pooled*, so that each cell weighs
the same (the competition averages over images). The names are those of StarDist's ``matching``
(Schmidt et al. 2018, arXiv:1806.03535) and of panoptic quality (Kirillov et al. 2019,
arXiv:1801.00868): PQ = Σ IoU of the hits / (TP + FP/2 + FN/2) = SQ · F1. As in the competition a
hit has an IoU *above* the threshold; StarDist also takes one that equals it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from somaseg.scoring.comparison import Comparison
from somaseg.scoring.match import THRESHOLDS, Counts, Floats, Overlaps


@dataclass(frozen=True)
class Detection:
    """Pooled scores at one IoU threshold. Ratios without a denominator are 0, as in StarDist.

    Attributes:
        threshold: IoU above which a prediction hits, as a share.
        hits, false_positives, false_negatives: over all images.
        precision: hits / predictions.
        recall: hits / truths.
        f1: their harmonic mean.
        accuracy: TP / (TP + FP + FN), StarDist's "average precision".
        segmentation_quality: mean IoU of the hits.
        panoptic_quality: segmentation quality × F1.
    """

    threshold: float
    hits: int
    false_positives: int
    false_negatives: int
    precision: float
    recall: float
    f1: float
    accuracy: float
    segmentation_quality: float
    panoptic_quality: float


@dataclass(frozen=True)
class PanopticScore:
    """Pooled detection scores of a data set.

    Attributes:
        rows: one :class:`Detection` a threshold.
        classes: the same by class (see ``Comparison.groups``).
    """

    rows: tuple[Detection, ...]
    classes: dict[str, tuple[Detection, ...]]

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "by_class": {
                name: [asdict(row) for row in rows] for name, rows in self.classes.items()
            },
        }


def panoptic_score(
    comparison: Comparison, thresholds: tuple[int, ...] = THRESHOLDS
) -> PanopticScore:
    """Pooled scores at each threshold (whole percents, rising), in total and by class."""
    images, groups = comparison.apply(lambda image: _hits(image, thresholds))
    return PanopticScore(
        rows=_rows(images, thresholds),
        classes={name: _rows(members, thresholds) for name, members in groups.items()},
    )


def _hits(image: Overlaps, thresholds: tuple[int, ...]) -> tuple[Counts, Floats]:
    """Counts of one image, and the summed IoU of its hits at each threshold."""
    # A pair is a match where its truth's partner is its prediction.
    matched = image.matches(thresholds)[:, image.truth] == image.prediction
    hits = np.count_nonzero(matched, axis=1)
    counts = Counts(hits, len(image.prediction_areas) - hits, len(image.truth_areas) - hits)
    return counts, matched @ image.iou


def _rows(
    images: Sequence[tuple[Counts, Floats]], thresholds: tuple[int, ...]
) -> tuple[Detection, ...]:
    pooled = Counts(*np.zeros((3, len(thresholds)), np.int64))
    total_iou = np.zeros(len(thresholds))
    for counts, of_hits in images:
        pooled += counts
        total_iou += of_hits
    return tuple(
        _detection(
            percent / 100,
            int(pooled.hits[t]),
            int(pooled.false_positives[t]),
            int(pooled.false_negatives[t]),
            float(total_iou[t]),
        )
        for t, percent in enumerate(thresholds)
    )


def _detection(threshold: float, tp: int, fp: int, fn: int, total_iou: float) -> Detection:
    def ratio(part: float, whole: float) -> float:
        return part / whole if whole else 0.0

    return Detection(
        threshold=threshold,
        hits=tp,
        false_positives=fp,
        false_negatives=fn,
        precision=ratio(tp, tp + fp),
        recall=ratio(tp, tp + fn),
        f1=ratio(2 * tp, 2 * tp + fp + fn),
        accuracy=ratio(tp, tp + fp + fn),
        segmentation_quality=ratio(total_iou, tp),
        panoptic_quality=ratio(total_iou, tp + (fp + fn) / 2),
    )
