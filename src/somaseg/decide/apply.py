"""From raw instances to final ones: thresholds, sizes, duplicates, overlaps."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from somaseg.data.types import Dataset
from somaseg.decide.offset import shifted
from somaseg.decide.settings import UNKNOWN, Settle, SettleSettings
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.overlap import iou_pairs
from somaseg.masks.parallel import map_images
from somaseg.masks.resolve import nms_from_pairs


def settle(raw: Instances, settings: Settle, *, one_class: bool = False) -> Instances:
    """Make the final instances of an image: hard masks that share no pixel.

    In this order: the image's class is voted, if images have one; low scores go; masks are moved
    by the annotations' offset; probabilities become masks; too small and too large ones go; of two
    that overlap much the lower score goes; each shared pixel goes to the first in order; each mask
    keeps its largest piece, its holes are filled where nobody else is, and what has become too
    small goes.

    Args:
        raw: scored instances, soft or hard.
        settings: by class name. In an image of several classes, thresholds are those of each
            instance's class, a pair is a duplicate by the lower of both limits, and the order is
            that of the most frequent class.
        one_class: all instances of the image get the class that has most of the scores.

    Raises:
        SomasegError: a class without settings.
    """
    if one_class and len(raw):
        raw = raw.with_classes(np.full(len(raw), vote(raw), np.int16))
    if not len(raw):
        return raw.binary()
    of_row = _by_row(raw, settings)
    # The class of each row indexes these; −1, the unknown class, is the last.
    labels = raw.classes
    kept = raw.scores >= np.array([s.score for s in of_row], np.float32)[labels]
    raw, labels = raw[kept], labels[kept]
    raw = shifted(raw, np.array([s.offset for s in of_row])[labels])
    hard = raw.binary(np.array([s.mask_threshold for s in of_row])[labels], keep_empty=True)
    smallest = np.array([s.min_area for s in of_row])[labels]
    largest = np.array([s.max_area or np.iinfo(np.int64).max for s in of_row])[labels]
    fits = (hard.areas >= smallest) & (hard.areas <= largest)
    hard, labels = hard[fits], labels[fits]
    if not len(hard):
        return hard
    limit = np.array([s.nms_iou for s in of_row])[labels]
    i, j, iou = iou_pairs(hard)
    # Each pair has its own limit: shifted by it, all have the limit 0.
    over = iou - np.minimum(limit[i], limit[j])
    kept = nms_from_pairs(hard.order("score"), i, j, over, 0.0)
    hard, labels = hard[kept], labels[kept]
    values, counts = np.unique(labels, return_counts=True)
    order = of_row[values[counts.argmax()]].order
    final, _ = hard.disjoint(order, largest_piece=True, fill_holes=True)
    return final[final.areas >= np.array([s.min_area for s in of_row])[final.classes]]


def settle_all(
    raw: Mapping[str, Instances], settings: Mapping[str, Settle], one_class: bool
) -> dict[str, Instances]:
    """Settle raw predictions; settings are given for each image id."""
    ids = list(raw)
    done = map_images(lambda i: settle(raw[i], settings[i], one_class=one_class), ids)
    return dict(zip(ids, done, strict=True))


def has_one_class(dataset: Dataset) -> bool:
    """Whether there are several classes, and each image has cells of one of them."""
    return len(dataset.names) > 1 and all(sample.image_class for sample in dataset)


def vote(raw: Instances) -> int:
    """Return the class that has most of the scores; −1 without any of known class."""
    known = raw.classes >= 0
    if not known.any():
        return -1
    weights = np.bincount(raw.classes[known], weights=raw.scores[known].astype(np.float64))
    return int(weights.argmax())


def _by_row(raw: Instances, settings: Settle) -> npt.NDArray[np.object_]:
    """Settings by class index, those of the unknown class last, where index −1 finds them."""
    missing = [
        raw.names[k] for k in np.unique(raw.classes) if k >= 0 and raw.names[k] not in settings
    ]
    if missing:
        raise SomasegError(
            f"no settings for class {missing[0]!r}; there are for {', '.join(settings)}"
        )
    spare = settings.get(UNKNOWN, SettleSettings())
    out = np.empty(len(raw.names) + 1, object)
    out[:] = [*(settings.get(name, spare) for name in raw.names), spare]
    return out
