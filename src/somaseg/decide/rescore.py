"""Learn how good a mask is from its score, shape and neighbours, and score it by that.

A gradient-boosted regression (XGBoost) of each raw mask's IoU with the truth, from what
:mod:`somaseg.decide.features` says of it. A model's own score tells how sure it is that there is a
cell; how well the cell is drawn, and whether a mask's size and shape are plausible beside the
others, it need not know. Mask Scoring R-CNN (arXiv:1903.00241) learns the same inside the network.

An image must be scored by a regression that has not seen its truth. So for out-of-fold predictions
there is one for each fold, learned on the others; and once more inside of these for the nested
estimate, where settings are tuned on images whose scores must not know of the fold left out.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError

from somaseg.data.types import Dataset
from somaseg.decide.features import FEATURES, Features, Whole, instance_features
from somaseg.decide.settings import Settle, dump_settings, parse_settings
from somaseg.decide.tune import deal
from somaseg.errors import SomasegError
from somaseg.files import atomic_path, check_regular
from somaseg.instances import Instances
from somaseg.masks.overlap import iou_pairs
from somaseg.masks.parallel import map_images
from somaseg.models.trees import read_booster

PARAMETERS: Mapping[str, Any] = {
    "objective": "reg:logistic",  # an IoU lies between 0 and 1
    "eta": 0.05,
    "max_depth": 3,
    "min_child_weight": 5.0,
    "subsample": 0.7,
    "colsample_bytree": 0.7,
    "seed": 0,
    "nthread": 1,  # sums in another order give another model
}
ROUNDS = 150
_ATTRIBUTE = "somaseg"
FORMAT = 1
"""Version of what the file holds besides the trees."""


class _Notes(BaseModel):
    """What the file holds besides the trees."""

    format: Literal[1]
    names: tuple[str, ...]
    one_class: bool
    medians: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    settle: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Rescorer:
    """A learned mask IoU.

    Attributes:
        booster: the ``xgboost.Booster``.
        names: class names.
        one_class: whether an image's class is that of the vote over all its instances.
        medians: median annotated area of each class, in pixels.
        settings: tuned for the scores that this gives.
    """

    booster: Any
    names: tuple[str, ...]
    one_class: bool
    medians: dict[str, float]
    settings: Settle | None = None

    def __call__(self, raw: Instances, whole: Whole | None = None) -> Instances:
        """The same raw instances, with the IoU that is expected of each as its score.

        Args:
            raw: raw instances of one image, or of a part with what lies around it.
            whole: the image, if they are a part of it.
        """
        if not len(raw):
            return raw
        rows = describe(raw, self.names, self.medians, self.one_class, whole)
        return raw.with_scores(np.clip(self._predict(rows), 0, 1))

    def _predict(self, rows: Features) -> npt.NDArray[np.float32]:
        columns = _columns(self.names)
        return self.booster.predict(_xgboost().DMatrix(rows, feature_names=columns))

    def save(self, path: str | Path) -> None:
        """Write an XGBoost model as JSON; what else belongs to it is an attribute of the model.

        Args:
            path: ends in ``.json``.
        """
        notes = {
            "format": FORMAT,
            "names": self.names,
            "one_class": self.one_class,
            "medians": self.medians,
            "settle": self.settings and dump_settings(self.settings),
        }
        self.booster.set_attr(**{_ATTRIBUTE: json.dumps(notes)})
        with atomic_path(path) as temporary:
            self.booster.save_model(temporary)

    @classmethod
    def load(cls, path: str | Path) -> "Rescorer":
        """Read what :meth:`save` wrote.

        Raises:
            SomasegError: not such a file, or XGBoost is not installed.
        """
        try:
            data = check_regular(path).read_bytes()
        except (SomasegError, OSError):
            data = b""
        return cls.of_bytes(data, str(path))

    @classmethod
    def of_bytes(cls, data: bytes, path: str) -> "Rescorer":
        """Make one of what the file holds; ``path`` begins the errors, which are as there."""
        _xgboost(path)
        # XGBoost trusts what it reads, and ends the process where that is no model.
        try:
            learner = json.loads(data)["learner"]
            notes = json.loads(learner["attributes"].get(_ATTRIBUTE) or "null")
            features = list(learner["feature_names"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())[:100]
            raise SomasegError(f"{path}: not a whole XGBoost model ({reason})") from error
        try:
            known = _Notes.model_validate(notes)
        except ValidationError as error:
            raise SomasegError(
                f"{path}: no rescoring of this somaseg; make it again with `somaseg tune --rescore`"
            ) from error
        names = known.names
        if features != _columns(names):
            raise SomasegError(
                f"{path}: learned from other features than this somaseg computes; make it again "
                "with `somaseg tune --rescore`"
            )
        booster = read_booster(data, path, len(features))
        settings = None
        if known.settle is not None:
            try:
                settings = parse_settings(known.settle, names)
            except SomasegError as error:
                raise SomasegError(f"{path}: {error}") from error
        return cls(booster, names, known.one_class, known.medians, settings)


def describe(
    raw: Instances,
    names: Sequence[str],
    medians: Mapping[str, float],
    one_class: bool,
    whole: Whole | None = None,
) -> Features:
    """Features of each raw instance and, in the same row, of its class.

    Args:
        raw: raw instances of one image.
        names: class names of the model.
        medians: median annotated area of each class, in pixels.
        one_class: whether the class is that of the image.
        whole: the image, if they are a part of it.

    Returns:
        float32 (n, m): ``FEATURES``; logarithm of the area by the class's median; share of the
        image's scores that its class has; for each class whether it is that.
    """
    whole = whole or Whole.of([raw])
    classes = raw.classes.astype(np.int64)
    if one_class:
        classes = np.full(len(raw), whole.elected, np.int64)
    own = np.array([names.index(name) for name in raw.names] + [-1], np.int64)[classes]
    rows = instance_features(raw, whole)
    typical = np.array([medians.get(name, 0) for name in names] + [0.0])[own]
    relative = np.where(typical > 0, np.log1p(raw.areas) - np.log1p(typical), 0)
    share = whole.votes[classes] / max(whole.votes.sum(), 1e-9)
    each = own[:, None] == np.arange(len(names))
    return np.column_stack([rows, relative, share, each]).astype(np.float32)


def _columns(names: Iterable[str]) -> list[str]:
    return [*FEATURES, "area_by_class", "class_share", *(f"class {name}" for name in names)]


def true_iou(raw: Instances, truth: Instances) -> npt.NDArray[np.float64]:
    """Largest IoU of each raw mask, at a half, with any truth: float64 (n,)."""
    out = np.zeros(len(raw))
    i, _, iou = iou_pairs(raw, truth)
    np.maximum.at(out, i, iou)
    return out


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions with learned scores, none from a regression that knew the image.

    Attributes:
        raw: by image; each scored by what was learned on the other folds.
        without: by fold, the other folds' images, scored by what was learned without that fold as
            well: what ``tune`` needs for its nested estimate.
        rescorer: learned on all images, for new ones.
    """

    raw: dict[str, Instances]
    without: dict[int, dict[str, Instances]]
    rescorer: Rescorer


def rescore_out_of_fold(
    raw: Mapping[str, Instances], dataset: Dataset, folds: Mapping[str, int], one_class: bool
) -> OutOfFold:
    """Learn to rescore, and rescore the predictions that it is learned from.

    Args:
        raw: raw out-of-fold predictions by image id.
        dataset: the annotated images.
        folds: fold of each image; images all of one fold are dealt, as ``tune`` deals them.
        one_class: whether images have one class.

    Raises:
        SomasegError: XGBoost is not installed, or there is too little to learn from.
    """
    folds, _ = deal(raw, dataset, folds)
    lesson = _Lesson(raw, dataset, one_class)
    out: dict[str, Instances] = {}
    without: dict[int, dict[str, Instances]] = {}
    for fold in sorted(set(folds.values())):
        others = [name for name in raw if folds[name] != fold]
        inner, _ = deal(others, dataset, folds)
        if len(set(inner.values())) < 2:
            raise SomasegError(
                "rescoring: predictions of too few images; three, or three groups, are needed to "
                "learn on one, tune on another and score the third"
            )
        learned = lesson.learn(others)
        out |= {name: learned(raw[name]) for name in raw if folds[name] == fold}
        without[fold] = {}
        for k in sorted(set(inner.values())):
            learned = lesson.learn([name for name in others if inner[name] != k])
            without[fold] |= {name: learned(raw[name]) for name in others if inner[name] == k}
    return OutOfFold({name: out[name] for name in raw}, without, lesson.learn(list(raw)))


class _Lesson:
    """Features and true IoUs of all images, computed once, and what was learned from subsets."""

    def __init__(self, raw: Mapping[str, Instances], dataset: Dataset, one_class: bool) -> None:
        self._names, self._one_class = dataset.names, one_class
        self._raw = raw
        self._truth = {name: dataset[name].annotated() for name in raw}
        targets = map_images(lambda name: true_iou(raw[name], self._truth[name]), raw)
        self._targets = dict(zip(raw, targets, strict=True))
        self._learned: dict[frozenset[str], Rescorer] = {}

    def learn(self, ids: Collection[str]) -> Rescorer:
        """Learn from some images."""
        key = frozenset(ids)
        if key not in self._learned:
            self._learned[key] = self._fit([name for name in self._raw if name in key])
        return self._learned[key]

    def _fit(self, ids: Sequence[str]) -> Rescorer:
        xgboost = _xgboost()
        medians = self._medians(ids)
        rows = map_images(
            lambda name: describe(self._raw[name], self._names, medians, self._one_class), ids
        )
        targets = np.concatenate([np.zeros(0), *(self._targets[name] for name in ids)])
        if not targets.any():
            raise SomasegError(
                "rescoring: no raw prediction of the images to learn from overlaps a cell"
            )
        # An image weighs as much as another in the score, whether it has ten cells or a thousand.
        weights = np.concatenate([np.full(len(r), 1 / max(len(r), 1)) for r in rows])
        matrix = xgboost.DMatrix(
            np.concatenate(rows),
            targets,
            weight=weights * len(weights) / weights.sum(),
            feature_names=_columns(self._names),
            nthread=1,
        )
        booster = xgboost.train(dict(PARAMETERS), matrix, ROUNDS)
        return Rescorer(booster, self._names, self._one_class, medians)

    def _medians(self, ids: Iterable[str]) -> dict[str, float]:
        truths = [self._truth[name] for name in ids]
        areas = np.concatenate([truth.areas for truth in truths])
        classes = np.concatenate([truth.classes for truth in truths])
        return {
            name: float(np.median(areas[classes == k]))
            for k, name in enumerate(self._names)
            if (classes == k).any()
        }


def _xgboost(path: str = "rescoring") -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise SomasegError(
            f"{path}: needs XGBoost, which is not installed; pip install 'somaseg[xgboost]'"
        ) from error
    return xgboost
