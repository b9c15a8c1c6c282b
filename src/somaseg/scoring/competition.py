"""The competition's metric: TP / (TP + FP + FN), averaged over IoU thresholds and over images.

For each image and each t in 0.50, 0.55, …, 0.95 a prediction hits a truth if their IoU is above t;
s(t) = TP / (TP + FP + FN). The image's score is the mean over t, the data set's the mean over
images: an image with five cells weighs as much as one with five hundred. Neither class nor
confidence plays a part. (Data Science Bowl 2018; Sartorius Cell Instance Segmentation 2021.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from somaseg.errors import SomasegError
from somaseg.scoring.comparison import Comparison
from somaseg.scoring.match import THRESHOLDS, Counts, Floats, Matching, Overlaps


@dataclass(frozen=True, eq=False)
class ImageScore:
    """The score of one image.

    Attributes:
        id, image_class: the image.
        truths, predictions: how many of each.
        counts: hits, false positives and false negatives at each threshold.
        accuracy: TP / (TP + FP + FN) at each threshold, float64 (T,).
    """

    id: str
    image_class: str | None
    truths: int
    predictions: int
    counts: Counts
    accuracy: Floats

    @property
    def score(self) -> float:
        """The mean over the thresholds."""
        return float(self.accuracy.mean())


@dataclass(frozen=True, eq=False)
class ClassScore:
    """The score of one class: the mean over its images (see ``Comparison.groups``).

    Attributes:
        images, truths, predictions: how many of each.
        accuracy: mean over the images at each threshold, float64 (T,).
    """

    images: int
    truths: int
    predictions: int
    accuracy: Floats

    @property
    def score(self) -> float:
        """The mean over the thresholds."""
        return float(self.accuracy.mean())


@dataclass(frozen=True, eq=False)
class CompetitionScore:
    """The competition's metric on a data set.

    Attributes:
        thresholds: IoU thresholds, percent.
        matching: how hits were counted.
        images: score of each image.
        classes: score of each class.
        weights: weight of each class, if given.
    """

    thresholds: tuple[int, ...]
    matching: Matching
    images: tuple[ImageScore, ...]
    classes: dict[str, ClassScore]
    weights: dict[str, float] | None = None

    @property
    def map(self) -> float:
        """The mean over all images."""
        return float(np.mean([image.score for image in self.images]))

    @property
    def accuracy(self) -> Floats:
        """The mean over all images at each threshold, float64 (T,)."""
        return np.mean([image.accuracy for image in self.images], axis=0)

    @property
    def by_class(self) -> dict[str, float]:
        """Score of each class."""
        return {name: scored.score for name, scored in self.classes.items()}

    @property
    def weighted(self) -> float | None:
        """The classes' scores averaged with ``weights``; none without them."""
        if self.weights is None:
            return None
        total = sum(self.weights.values())
        by_class = self.by_class
        return sum(weight * by_class[name] for name, weight in self.weights.items()) / total

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        return {
            "map": self.map,
            "by_class": self.by_class,
            "weighted": self.weighted,
            "weights": self.weights,
            "images": {image.id: image.score for image in self.images},
            "thresholds": [percent / 100 for percent in self.thresholds],
            "accuracy": self.accuracy.tolist(),
            "accuracy_by_class": {
                name: scored.accuracy.tolist() for name, scored in self.classes.items()
            },
            "matching": self.matching,
        }


def score_image(
    overlaps: Overlaps,
    thresholds: tuple[int, ...] = THRESHOLDS,
    matching: Matching = "maximum",
) -> ImageScore:
    """Score one image."""
    counts = overlaps.counts(thresholds, matching)
    truths, predictions = len(overlaps.truth_areas), len(overlaps.prediction_areas)
    accuracy = counts.accuracy
    if truths or predictions:
        accuracy[counts.hits == 0] = 0  # also where "kaggle" counts nothing at all
    return ImageScore(overlaps.id, overlaps.image_class, truths, predictions, counts, accuracy)


def competition_score(
    comparison: Comparison,
    thresholds: tuple[int, ...] = THRESHOLDS,
    matching: Matching = "maximum",
    weights: Mapping[str, float] | None = None,
) -> CompetitionScore:
    """Score a data set, in total and by class.

    Args:
        comparison: from :func:`somaseg.scoring.compare`.
        thresholds: whole percents, rising.
        matching: ``maximum`` (one to one) or ``kaggle`` (see ``Overlaps.counts``).
        weights: weight of each class, by name, for :attr:`CompetitionScore.weighted`; for instance
            the numbers of images of the full data set, where this one has another mix.

    Raises:
        SomasegError: ``weights`` does not fit the classes.
    """
    images, groups = comparison.apply(lambda image: score_image(image, thresholds, matching))
    classes = {name: _mean(members) for name, members in groups.items()}
    if weights is not None:
        check_weights(weights, tuple(classes))
    return CompetitionScore(
        thresholds, matching, tuple(images), classes, None if weights is None else dict(weights)
    )


def check_weights(weights: Mapping[str, float], names: Sequence[str]) -> None:
    """Refuse class weights that do not fit the classes ``names``.

    Raises:
        SomasegError: a class is unknown or lacks its weight, or a weight is not positive.
    """
    for name, weight in weights.items():
        if name not in names:
            known = ", ".join(names) or "none"
            raise SomasegError(f"weights: no scored image of class {name!r}; classes: {known}")
        if not 0 < weight < float("inf"):
            raise SomasegError(f"weights: {name}={weight:g}; give a number above 0")
    missing = [name for name in names if name not in weights]
    if missing:
        raise SomasegError(f"weights: class {missing[0]!r} has none; give one for every class")


def _mean(images: Sequence[ImageScore]) -> ClassScore:
    return ClassScore(
        images=len(images),
        truths=sum(image.truths for image in images),
        predictions=sum(image.predictions for image in images),
        accuracy=np.mean([image.accuracy for image in images], axis=0),
    )
