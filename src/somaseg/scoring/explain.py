"""Where the competition's score is lost, and what mending each kind of fault would give.

At a threshold t an image loses 1 − s(t) = (FP + FN) / (TP + FP + FN). Each unmatched truth and each
unmatched prediction thus costs the same, and giving each one cause splits the loss exactly:

- **boundary**: a truth and a prediction that belong together (IoU above 0.1, best of those left
  over) but overlap too little for t.
- **merged**: a truth more than half covered by a prediction that belongs to another truth or covers
  several; and that prediction with its own truth, if they would match once the covered truths were
  cut out of it.
- **split**: a prediction more than half inside a truth that has another prediction or several such
  pieces (duplicates too); and that truth with its own prediction, if they would match once the
  pieces were joined to it.
- **missed**: any other truth. **spurious**: any other prediction.

A cell with a wrong boundary costs twice (FP + FN), and mending faults changes the denominator, so
shares of the loss are not what mending would *give*. That is computed apart, by counting again:

- perfect **boundaries**: each boundary pair becomes a hit.
- perfect **detection**: what is missed is found and what is spurious is gone; cells found anew are
  drawn as well as the others of their image (which amounts to leaving them out of the count).
- perfect **separation**: pairs that merging or splitting spoilt become hits; swallowed cells are
  found, drawn as well as the others; pieces are joined.

The idea of such oracles: Hoiem et al. 2012; TIDE, Bolya et al. 2020 (arXiv:2008.08115), which has
the 0.1 as well. Merged and split are ours: they are what separates methods for cells. For merged
and split the areas are exact if predictions share no pixel, as in a submission.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.scoring.comparison import Comparison
from somaseg.scoring.match import THRESHOLDS, Floats, Ints, Overlaps

CAUSES: tuple[str, ...] = ("missed", "spurious", "merged", "split", "boundary")
REMEDIES: tuple[str, ...] = ("detection", "separation", "boundaries")

#: Below this IoU (percent) a truth and a prediction have nothing to do with each other.
RELATED = 10

#: Codes in :class:`ImageCauses`; ``CAUSES[code - 1]`` is the name.
HIT, MISSED, SPURIOUS, MERGED, SPLIT, BOUNDARY = range(6)


@dataclass(frozen=True, eq=False)
class ImageCauses:
    """What became of each truth and prediction of one image at T thresholds.

    Attributes:
        truth, prediction: int8 (T, n), (T, m): 0 hit, else 1 + the index into ``CAUSES``.
        separable: int64 (T,): truths with a prediction of their own that merging or splitting
            alone keeps from matching.
    """

    truth: npt.NDArray[np.int8]
    prediction: npt.NDArray[np.int8]
    separable: Ints

    @property
    def truth_counts(self) -> Ints:
        """How many truths of each code, int64 (T, 6)."""
        return _tally(self.truth)

    @property
    def prediction_counts(self) -> Ints:
        """How many predictions of each code, int64 (T, 6)."""
        return _tally(self.prediction)


@dataclass(frozen=True, eq=False)
class Losses:
    """Where the score of a class (or of all images) goes: means over its images.

    Attributes:
        score: s(t), float64 (T,).
        lost: for each of ``CAUSES`` the share of the score lost to it, float64 (T,). All of them
            and ``score`` add up to 1.
        perfect: for each of ``REMEDIES`` the score that it would give, float64 (T,).
    """

    score: Floats
    lost: dict[str, Floats]
    perfect: dict[str, Floats]

    def to_json(self) -> dict[str, Any]:
        """Plain values: means over the thresholds, and the value at each threshold."""
        return {
            "score": float(self.score.mean()),
            "lost": {cause: float(share.mean()) for cause, share in self.lost.items()},
            "perfect": {what: float(score.mean()) for what, score in self.perfect.items()},
            "by_threshold": {
                "score": self.score.tolist(),
                "lost": {cause: share.tolist() for cause, share in self.lost.items()},
                "perfect": {what: score.tolist() for what, score in self.perfect.items()},
            },
        }


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where the score is lost, over all images and by class."""

    thresholds: tuple[int, ...]
    total: Losses
    classes: dict[str, Losses]

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        return {
            "thresholds": [percent / 100 for percent in self.thresholds],
            "total": self.total.to_json(),
            "by_class": {name: losses.to_json() for name, losses in self.classes.items()},
        }


def explain_score(
    comparison: Comparison,
    thresholds: tuple[int, ...] = THRESHOLDS,
) -> Explanation:
    """Find where the score of a data set is lost (matching one to one)."""
    images, groups = comparison.apply(lambda image: image_losses(image, thresholds))
    return Explanation(
        thresholds, _mean(images), {name: _mean(members) for name, members in groups.items()}
    )


def image_causes(overlaps: Overlaps, thresholds: tuple[int, ...] = THRESHOLDS) -> ImageCauses:
    """Give each truth and each prediction of an image its cause, at each threshold."""
    by_iou = np.argsort(-overlaps.iou, kind="stable")
    return ImageCauses(
        *_causes(
            *(overlaps.truth[by_iou], overlaps.prediction[by_iou], overlaps.shared[by_iou]),
            *(overlaps.truth_areas, overlaps.prediction_areas),
            *(np.asarray(thresholds, np.int64), overlaps.matches(thresholds)),
        )
    )


def image_losses(overlaps: Overlaps, thresholds: tuple[int, ...] = THRESHOLDS) -> Losses:
    """Where the score of one image is lost."""
    causes = image_causes(overlaps, thresholds)
    truths, predictions = causes.truth_counts, causes.prediction_counts
    hits = truths[:, HIT]
    faults = truths[:, 1:] + predictions[:, 1:]  # (T, causes)
    wrong = faults.sum(axis=1)
    missed, spurious, merged, split, boundary = faults.T
    return Losses(
        score=_ratio(hits, hits + wrong),
        lost={
            cause: 1 - _ratio(hits + wrong - fault, hits + wrong)
            for cause, fault in zip(CAUSES, faults.T, strict=True)
        },
        perfect={
            "detection": _ratio(hits, hits + wrong - missed - spurious),
            "separation": _ratio(
                hits + causes.separable, hits + causes.separable + wrong - merged - split
            ),
            "boundaries": _ratio(hits + boundary // 2, hits + wrong - boundary // 2),
        },
    )


def _ratio(part: Ints, whole: Ints) -> Floats:
    """Part / whole; 1 where nothing is left to be wrong."""
    return np.divide(part, whole, out=np.ones(len(whole)), where=whole > 0)


def _tally(codes: npt.NDArray[np.int8]) -> Ints:
    return np.stack([np.count_nonzero(codes == code, axis=1) for code in range(6)], axis=1)


def _mean(images: Sequence[Losses]) -> Losses:
    return Losses(
        score=np.mean([image.score for image in images], axis=0),
        lost={c: np.mean([image.lost[c] for image in images], axis=0) for c in CAUSES},
        perfect={r: np.mean([image.perfect[r] for image in images], axis=0) for r in REMEDIES},
    )


@njit(cache=True, nogil=True)
def _causes(truth, prediction, shared, truth_areas, prediction_areas, percents, matched):  # type: ignore[no-untyped-def]
    """Codes of the truths and predictions; pairs come sorted by falling IoU."""
    n_thresholds, n_truths = matched.shape
    n_predictions = len(prediction_areas)
    truth_codes = np.empty((n_thresholds, n_truths), np.int8)
    prediction_codes = np.empty((n_thresholds, n_predictions), np.int8)
    separable = np.zeros(n_thresholds, np.int64)
    for t in range(n_thresholds):
        # Partners: the hits, then the best related pairs of those left over.
        partner = matched[t].copy()
        owner = np.full(n_predictions, -1, np.int32)
        for i in range(n_truths):
            if partner[i] >= 0:
                owner[partner[i]] = i
        own_shared = np.zeros(n_truths, np.int64)  # pixels a truth shares with its partner
        for pair in range(len(truth)):
            i, j = truth[pair], prediction[pair]
            union = truth_areas[i] + prediction_areas[j] - shared[pair]
            if partner[i] < 0 and owner[j] < 0 and 100 * shared[pair] > RELATED * union:
                partner[i], owner[j] = j, i
            if partner[i] == j:
                own_shared[i] = shared[pair]

        # Truths swallowed by each prediction, pieces inside each truth.
        swallowed = np.zeros(n_predictions, np.int64)
        swallowed_shared = np.zeros(n_predictions, np.int64)
        pieces = np.zeros(n_truths, np.int64)
        pieces_shared = np.zeros(n_truths, np.int64)
        pieces_area = np.zeros(n_truths, np.int64)
        for pair in range(len(truth)):
            i, j = truth[pair], prediction[pair]
            if partner[i] < 0 and 2 * shared[pair] > truth_areas[i]:
                swallowed[j] += 1
                swallowed_shared[j] += shared[pair]
            if owner[j] < 0 and 2 * shared[pair] > prediction_areas[j]:
                pieces[i] += 1
                pieces_shared[i] += shared[pair]
                pieces_area[i] += prediction_areas[j]

        codes, other_codes = truth_codes[t], prediction_codes[t]
        codes[:] = MISSED
        other_codes[:] = SPURIOUS
        # Those without a partner.
        for pair in range(len(truth)):
            i, j = truth[pair], prediction[pair]
            is_piece = owner[j] < 0 and 2 * shared[pair] > prediction_areas[j]
            if is_piece and (partner[i] >= 0 or pieces[i] > 1):
                other_codes[j] = SPLIT
                if partner[i] < 0:
                    codes[i] = SPLIT
        for pair in range(len(truth)):
            i, j = truth[pair], prediction[pair]
            is_swallowed = partner[i] < 0 and 2 * shared[pair] > truth_areas[i]
            if is_swallowed and (owner[j] >= 0 or swallowed[j] > 1):
                codes[i] = MERGED
                if owner[j] < 0:
                    other_codes[j] = MERGED
        # Those with one.
        for i in range(n_truths):
            j = partner[i]
            if j < 0:
                continue
            if matched[t, i] >= 0:
                code = HIT
            else:
                code = BOUNDARY
                both = truth_areas[i] + prediction_areas[j]
                if swallowed[j] > 0:
                    union = both - own_shared[i] - swallowed_shared[j]
                    if 100 * own_shared[i] > percents[t] * union:
                        code = MERGED
                if code == BOUNDARY and pieces[i] > 0:
                    joined = min(own_shared[i] + pieces_shared[i], truth_areas[i])
                    if 100 * joined > percents[t] * (both + pieces_area[i] - joined):
                        code = SPLIT
                if code != BOUNDARY:
                    separable[t] += 1
            codes[i] = code
            other_codes[j] = code
    return truth_codes, prediction_codes, separable
