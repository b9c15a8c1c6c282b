"""Tune the settings of each class on out-of-fold predictions.

Each image is scored under every setting of a grid; the best setting for a set of images is read
off their tables. For the nested estimate this is done again for each fold, without its images: not
even the grid has seen them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter

from somaseg.data.types import Dataset
from somaseg.evaluation import THRESHOLDS
from somaseg.instances import Instances
from somaseg.masks.overlap import shared_pixels
from somaseg.masks.parallel import map_images
from somaseg.masks.resolve import OrderName
from somaseg.settle.apply import settle, vote
from somaseg.settle.settings import UNKNOWN, Settle, SettleSettings, default_settings

Floats = npt.NDArray[np.float64]

SCORES = tuple(round(0.025 * k, 3) for k in range(39))
MASK_THRESHOLDS = tuple(round(0.3 + 0.05 * k, 2) for k in range(11))
AREA_SHARES = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Smallest areas that are tried, as shares of the class's median annotated area."""
COARSE_SCORES = tuple(round(0.05 * k, 2) for k in range(20))
"""Those tried where masks overlap: there each costs a settling."""
NMS_IOUS = (0.1, 0.3, 0.5)
ORDERS: tuple[OrderName, ...] = ("smallest_first", "score")


@dataclass(frozen=True)
class Grid:
    """The settings that are tried for one class; the axes of its table, in this order."""

    masks: tuple[tuple[float, float, OrderName], ...]
    """(mask threshold, NMS IoU, order) of each entry; thresholds rise."""
    scores: tuple[float, ...]
    areas: tuple[int, ...]
    overlapping: bool
    """Whether raw masks share pixels, so that those kept depend on those dropped."""

    def settings(self, index: tuple[int, ...]) -> SettleSettings:
        """Settings at a place of the table."""
        mask_threshold, nms_iou, order = self.masks[index[0]]
        return SettleSettings(
            score=self.scores[index[1]],
            mask_threshold=mask_threshold,
            nms_iou=nms_iou,
            min_area=self.areas[index[2]],
            order=order,
        )

    @property
    def default(self) -> tuple[int, int, int]:
        """Place of the default settings."""
        default = SettleSettings()
        mask = (default.mask_threshold, default.nms_iou, default.order)
        return (
            self.masks.index(mask),
            self.scores.index(default.score),
            self.areas.index(default.min_area),
        )

    @property
    def size(self) -> int:
        """Number of settings."""
        return len(self.masks) * len(self.scores) * len(self.areas)


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Attributes:
        settings: best by class over all images: what new images are settled with.
        nested: settings by fold, tuned on the other folds' images.
        curves: by class and setting, (value, score) pairs through the best setting.
        tried: number of settings, over all classes.
    """

    settings: Settle
    nested: dict[int, Settle]
    curves: dict[str, dict[str, list[tuple[float, float]]]]
    tried: int


def tune(
    raw: Mapping[str, Instances], dataset: Dataset, folds: Mapping[str, int], one_class: bool
) -> Tuned:
    """Find the settings of each class that score best.

    Where images have one class, the classes are tuned apart, each on the images that are *voted*
    to be of it, as they will be for new images. Else all classes share one setting.

    Args:
        raw: raw out-of-fold predictions by image id.
        dataset: the annotated images.
        folds: fold of each image.
        one_class: whether images have one class.
    """
    names = list(default_settings(dataset.names))
    groups: dict[str, list[str]] = {name: [] for name in names} if one_class else {"": []}
    for name, instances in raw.items():
        label = vote(instances) if one_class else -1
        groups[dataset.names[label] if label >= 0 else next(iter(groups))].append(name)
    settings = default_settings(dataset.names)
    nested = {fold: dict(settings) for fold in sorted(set(folds.values()))}
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    tried = 0
    for group, ids in groups.items():
        if not ids:
            continue
        targets = [group] if one_class else names
        grid, tables = _tables(ids, raw, dataset)
        best = best_index(tables, grid.default)
        settings |= dict.fromkeys(targets, grid.settings(best))
        curves[group or "all classes"] = _curves(tables.mean(0), grid, best)
        tried += grid.size
        for fold, chosen in nested.items():
            # The grid too comes from the other folds: it knows how large their cells are.
            others = [i for i in ids if folds[i] != fold]
            if others:
                grid, tables = _tables(others, raw, dataset)
                chosen |= dict.fromkeys(targets, grid.settings(best_index(tables, grid.default)))
    return Tuned(settings, nested, curves, tried)


def _tables(ids: list[str], raw: Mapping[str, Instances], dataset: Dataset) -> tuple[Grid, Floats]:
    """Make the grid of some images and score each of them: (images, masks, scores, areas)."""
    truths = {i: dataset[i].annotated() for i in ids}
    grid = make_grid([raw[i] for i in ids], list(truths.values()))
    return grid, np.stack(map_images(lambda i: score_table(raw[i], truths[i], grid), ids))


def make_grid(raw: list[Instances], truths: list[Instances]) -> Grid:
    """Make the grid for the images of a class; NMS and order are tried only where masks overlap."""
    areas = np.concatenate([t.areas for t in truths])
    median = float(np.median(areas)) if len(areas) else 100.0
    overlapping = any(len(shared_pixels(one)[0]) for one in raw)
    default = SettleSettings()
    masks = [
        (threshold, nms, order)
        for nms in (NMS_IOUS if overlapping else (default.nms_iou,))
        for order in (ORDERS if overlapping else (default.order,))
        for threshold in MASK_THRESHOLDS
    ]
    shares = {max(1, round(share * median)) for share in AREA_SHARES}
    smallest = sorted({*shares, default.min_area})
    scores = COARSE_SCORES if overlapping else SCORES
    return Grid(tuple(masks), scores, tuple(smallest), overlapping)


def score_table(raw: Instances, truth: Instances, grid: Grid) -> Floats:
    """Score one image under every setting of a grid.

    Final masks share no pixel, so a truth has at most one above IoU 0.5, and the number of hits
    at a threshold is the number of masks that pass it with any truth. Smallest areas are applied
    to the final masks alone; settling applies them before overlaps are resolved, too.

    Returns:
        float64 (masks, scores, areas) of the grid.
    """
    out = np.zeros((len(grid.masks), len(grid.scores), len(grid.areas)))
    names = (*raw.names, UNKNOWN)
    for m, (mask_threshold, nms_iou, order) in enumerate(grid.masks):
        loosest = SettleSettings(
            score=0, mask_threshold=mask_threshold, nms_iou=nms_iou, min_area=1, order=order
        )
        settings = dict.fromkeys(names, loosest)
        # Where no masks overlap, each stays what it is whichever others are dropped.
        floors = [(k, k + 1) for k in range(len(grid.scores))] if grid.overlapping else [(0, None)]
        for first, last in floors:
            final = settle(raw[raw.scores >= grid.scores[first]], settings)
            cuts = np.array(grid.scores[first:last])
            out[m, first:last] = _score_cuts(final, truth, cuts, grid.areas)
    return out


def _score_cuts(final: Instances, truth: Instances, cuts: Floats, areas: tuple[int, ...]) -> Floats:
    """Score final masks with every lowest score and smallest area: float64 (cuts, areas)."""
    level = passed(final, truth)
    out = np.zeros((len(cuts), len(areas)))
    for a, smallest in enumerate(areas):
        large = final.areas >= smallest
        by_score = np.argsort(-final.scores[large], kind="stable")
        scores, levels = final.scores[large][by_score], level[large][by_score]
        # Masks at or above each cut, and how many of the best k pass each threshold.
        kept = np.searchsorted(-scores, -cuts.astype(np.float32), side="right")
        passes = levels[:, None] > np.arange(len(THRESHOLDS))
        hits = np.vstack([np.zeros(len(THRESHOLDS), int), np.cumsum(passes, axis=0)])[kept]
        union = len(truth) + kept[:, None] - hits
        # No truth and no prediction is a full score.
        out[:, a] = np.divide(hits, union, out=np.ones(hits.shape), where=union > 0).mean(1)
    return out


def passed(final: Instances, truth: Instances) -> npt.NDArray[np.int64]:
    """Number of IoU thresholds that each final mask passes with any truth, int64 (n,)."""
    level = np.zeros(len(final), np.int64)
    i, j, shared = shared_pixels(final, truth)
    union = final.areas[i] + truth.areas[j] - shared
    of_pair = (100 * shared[:, None] > np.array(THRESHOLDS) * union[:, None]).sum(1)
    np.maximum.at(level, i, of_pair)
    return level


def best_index(tables: Floats, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return the place of the setting to choose: surely better than the default, on a plateau.

    A table of a few images has sharp chance peaks. So each setting is judged together with its
    neighbours in mask threshold, score and area, and by the lower end of its gain: the mean over
    the images of its gain over the default settings, less one standard error of that mean. With
    few images, or images that disagree, this stays at the default.

    Args:
        tables: float64 (images, masks, scores, areas).
        default: place of the default settings.
    """
    folded = tables.reshape(len(tables), -1, len(MASK_THRESHOLDS), *tables.shape[2:])
    smooth = uniform_filter(folded, size=(1, 1, 3, 5, 3), mode="nearest").reshape(tables.shape)
    gain = smooth - smooth[:, *default][:, None, None, None]
    error = gain.std(axis=0, ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    sure = gain.mean(0) - np.where(gain.any(axis=0), error, 0)
    return tuple(int(k) for k in np.unravel_index(sure.argmax(), sure.shape))


def _curves(
    mean: Floats, grid: Grid, best: tuple[int, ...]
) -> dict[str, list[tuple[float, float]]]:
    m, s, a = best
    count = len(MASK_THRESHOLDS)
    first = m - m % count
    return {
        "score": list(zip(grid.scores, mean[m, :, a].tolist(), strict=True)),
        "mask_threshold": list(
            zip(MASK_THRESHOLDS, mean[first : first + count, s, a].tolist(), strict=True)
        ),
        "min_area": list(zip(map(float, grid.areas), mean[m, s].tolist(), strict=True)),
    }
