"""The settings that are tried for one class: six axes, each a short list of values.

Areas are taken from a ladder of round numbers, those that suit the sizes of the annotated cells. So
the grids of different folds consist of the same values and differ in their ends at most.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from somaseg.decide.settings import SettleSettings
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.overlap import shared_pixels
from somaseg.masks.resolve import OrderName

AXES = ("order", "nms_iou", "mask_threshold", "score", "min_area", "max_area")
"""Fields of :class:`SettleSettings`: the axes of a table of scores, in this order."""
SEARCHED = (*AXES, "offset")
"""All settings that are tuned; the offset by itself, before the others."""

ORDERS: tuple[OrderName, ...] = ("smallest_first", "score", "largest_first")
NMS_IOUS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
MASK_THRESHOLDS = tuple(round(0.3 + 0.05 * k, 2) for k in range(11))
SCORES = tuple(round(0.025 * k, 3) for k in range(39))
_STEPS = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
LADDER = tuple(sorted({step * 10**k // 10 for k in range(7) for step in _STEPS}))
"""Areas in pixels."""
SMALLEST = (0.1, 0.5)
"""The range of smallest areas that are tried, as shares of the median annotated area."""
LARGEST = (1.0, 1.5, 2.5)
"""Largest areas that are tried, as multiples of the 99th percentile of the annotated areas."""


@dataclass(frozen=True)
class SettingGrid:
    """Values along each of ``AXES``; numbers rise, no largest area comes last."""

    order: tuple[OrderName, ...]
    nms_iou: tuple[float, ...]
    mask_threshold: tuple[float, ...]
    score: tuple[float, ...]
    min_area: tuple[int, ...]
    max_area: tuple[int | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values along each axis."""
        return tuple(len(getattr(self, name)) for name in AXES)

    @property
    def size(self) -> int:
        """Number of settings."""
        return prod(self.shape)

    def settings(self, index: Sequence[int]) -> SettleSettings:
        """Settings at a place of the table."""
        return SettleSettings(
            **{name: getattr(self, name)[k] for name, k in zip(AXES, index, strict=True)}
        )

    @property
    def default(self) -> tuple[int, ...]:
        """Place of the default settings."""
        settings = SettleSettings()
        return tuple(getattr(self, name).index(getattr(settings, name)) for name in AXES)

    def places_in(self, other: "SettingGrid") -> tuple[np.ndarray, ...]:
        """Where this grid's values lie in a grid that has them all: an index of its tables."""
        return np.ix_(
            *([getattr(other, name).index(x) for x in getattr(self, name)] for name in AXES)
        )


def make_grid(
    raw: Sequence[Instances], truths: Sequence[Instances], search: Collection[str] = AXES
) -> SettingGrid:
    """Make the grid for the images of a class.

    Mask thresholds are tried where masks are soft, suppression and order where they overlap.

    Args:
        raw: raw predictions.
        truths: annotated cells, whose sizes tell which areas are worth trying.
        search: which settings are tried; the others have their default value.

    Raises:
        SomasegError: there is no such setting.
    """
    unknown = sorted(set(search) - set(SEARCHED))
    if unknown:
        raise SomasegError(f"no setting {unknown[0]!r} to tune; there are {', '.join(SEARCHED)}")
    areas = np.concatenate([truth.areas for truth in truths]) if truths else np.zeros(0)
    axes: dict[str, Any] = {
        "order": ORDERS,
        "nms_iou": NMS_IOUS,
        "mask_threshold": MASK_THRESHOLDS,
        "score": SCORES,
        "min_area": _smallest(areas),
        "max_area": _largest(areas),
    }
    left = set(search)
    if not any(one.soft for one in raw):
        left -= {"mask_threshold"}
    # Masks that share no pixel at the lowest threshold share none at any.
    if not any(len(shared_pixels(one.binary(MASK_THRESHOLDS[0], True))[0]) for one in raw):
        left -= {"nms_iou", "order"}
    default = SettleSettings()
    axes = {name: axes[name] if name in left else (getattr(default, name),) for name in AXES}
    # Where cells are tiny, the default smallest area may be above a largest one.
    axes["max_area"] = tuple(x for x in axes["max_area"] if x is None or x >= axes["min_area"][-1])
    return SettingGrid(**axes)


def union(grids: Sequence[SettingGrid]) -> SettingGrid:
    """The grid that has the values of all; its size may be larger than that of all together."""
    first = {name: tuple(getattr(grid, name) for grid in grids) for name in AXES}
    merged: dict[str, Any] = {name: tuple(sorted(set().union(*first[name]))) for name in AXES[1:-1]}
    orders = set().union(*first["order"])
    merged["order"] = tuple(order for order in ORDERS if order in orders)
    limits = set().union(*first["max_area"])
    merged["max_area"] = (*sorted(limits - {None}), *({None} & limits))
    return SettingGrid(**merged)


def _smallest(areas: np.ndarray) -> tuple[int, ...]:
    default = SettleSettings().min_area
    if not len(areas):
        return (1, default)
    low, high = (share * float(np.median(areas)) for share in SMALLEST)
    return tuple(sorted({1, default, *(area for area in LADDER if low <= area <= high)}))


def _largest(areas: np.ndarray) -> tuple[int | None, ...]:
    if not len(areas):
        return (None,)
    top = float(np.percentile(areas, 99))
    steps = (bisect_left(LADDER, multiple * top) for multiple in LARGEST)
    return (*sorted({LADDER[min(step, len(LADDER) - 1)] for step in steps}), None)
