"""Scores of predictions, and where they are lost.

One way in: :func:`compare` computes the overlaps of every image with its prediction once; each
score is counted from them: :func:`competition_score` (the metric by which somaseg decides),
:func:`coco_score`, :func:`panoptic_score`, :func:`explain_score`, or all by :func:`evaluate`.
"""

from somaseg.evaluation.coco import CocoScore, coco_score
from somaseg.evaluation.comparison import Comparison, compare
from somaseg.evaluation.competition import CompetitionScore, competition_score
from somaseg.evaluation.explain import Explanation, explain_score
from somaseg.evaluation.match import THRESHOLDS, Matching, Overlaps
from somaseg.evaluation.panoptic import PanopticScore, panoptic_score
from somaseg.evaluation.scores import Evaluation, evaluate

__all__ = [
    "THRESHOLDS",
    "CocoScore",
    "Comparison",
    "CompetitionScore",
    "Evaluation",
    "Explanation",
    "Matching",
    "Overlaps",
    "PanopticScore",
    "coco_score",
    "compare",
    "competition_score",
    "evaluate",
    "explain_score",
    "panoptic_score",
]
