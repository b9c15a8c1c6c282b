"""All scores of a set of predictions in one object."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from somaseg.data.types import Dataset
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.scoring.coco import CocoScore, coco_score
from somaseg.scoring.comparison import Comparison, compare
from somaseg.scoring.competition import CompetitionScore, competition_score
from somaseg.scoring.explain import Explanation, explain_score
from somaseg.scoring.inputs import read_predictions, read_truth
from somaseg.scoring.match import Matching
from somaseg.scoring.panoptic import PanopticScore, panoptic_score


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Every score of a comparison.

    Attributes:
        competition: the competition's metric: the score by which somaseg decides.
        coco: COCO AP; none if it is undefined (``notes`` say why).
        panoptic: pooled precision, recall, F1, accuracy and panoptic quality.
        explanation: where the score is lost, if asked for.
        notes: what the user should know, one line each.
    """

    competition: CompetitionScore
    coco: CocoScore | None
    panoptic: PanopticScore
    explanation: Explanation | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``.

        ``map``, ``by_class``, ``images`` and more of the competition's metric lie at the top;
        ``coco_ap`` is class-aware, ``coco_ap_agnostic`` takes all cells as one class; details
        under ``coco``, ``panoptic`` and ``explain``.
        """
        half = next((row for row in self.panoptic.rows if row.threshold == 0.5), None)
        return {
            **self.competition.to_json(),
            "coco_ap": self.coco and self.coco.ap,
            "coco_ap_agnostic": self.coco and float(self.coco.agnostic.precision.mean()),
            "f1_50": half and half.f1,
            "pq_50": half and half.panoptic_quality,
            "coco": self.coco and self.coco.to_json(),
            "panoptic": self.panoptic.to_json(),
            "explain": self.explanation and self.explanation.to_json(),
            "notes": list(self.notes),
        }


def evaluate(
    comparison: Comparison,
    matching: Matching = "maximum",
    weights: Mapping[str, float] | None = None,
    with_explanation: bool = False,
) -> Evaluation:
    """Compute every score.

    Args:
        comparison: from :func:`somaseg.scoring.compare`.
        matching: how the competition's metric counts hits (see ``Overlaps.counts``); all other
            scores match one to one.
        weights: weight of each class (see ``competition_score``).
        with_explanation: also find where the score is lost.

    Raises:
        SomasegError: ``weights`` does not fit the classes.
    """
    notes = list(comparison.notes)
    coco = None
    try:
        coco = coco_score(comparison)
        if coco is None:
            notes.append("no truth in any image: COCO AP is undefined")
    except SomasegError as error:
        notes.append(str(error))
    return Evaluation(
        competition=competition_score(comparison, matching=matching, weights=weights),
        coco=coco,
        panoptic=panoptic_score(comparison),
        explanation=explain_score(comparison) if with_explanation else None,
        notes=tuple(notes),
    )


def score(
    truth: Dataset | str | Path, predictions: Mapping[str, Instances] | str | Path
) -> Evaluation:
    """Score predictions; ``.competition.map`` is the score by which somaseg decides.

    Args:
        truth: annotated images, or where they are.
        predictions: hard instances by image id, or where they are.

    Raises:
        SomasegError: nothing readable, no annotated image, or predictions of other images.
    """
    source = "predictions"
    if not isinstance(predictions, Mapping):
        source = str(predictions)
    if not isinstance(truth, Dataset):
        truth = read_truth(truth, None if isinstance(predictions, Mapping) else predictions)
    if not isinstance(predictions, Mapping):
        predictions = read_predictions(predictions, truth)
    return evaluate(compare(truth, predictions, source))
