"""Scores of predictions, and where they are lost.

One way in: :func:`compare` computes the overlaps of every image with its prediction once; each
score is counted from them: :func:`competition_score` (the metric by which somaseg decides),
:func:`coco_score`, :func:`panoptic_score`, :func:`explain_score`, or all by :func:`evaluate`.
"""

from somaseg.scoring.coco import CocoScore, coco_score
from somaseg.scoring.comparison import Comparison, compare
from somaseg.scoring.competition import CompetitionScore, competition_score
from somaseg.scoring.explain import Explanation, explain_score
from somaseg.scoring.match import THRESHOLDS, Matching, Overlaps
from somaseg.scoring.panoptic import PanopticScore, panoptic_score
from somaseg.scoring.scores import Evaluation, evaluate

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
