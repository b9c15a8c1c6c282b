"""What a model learns from its training data without weights."""

from collections.abc import Sequence

import numpy as np

from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.models.config import ModelInfo


def learn_info(samples: Sequence[Sample], channels: Sequence[str] = ()) -> ModelInfo:
    """Class names, the median cell diameter and whether images have one class each.

    The diameter is the median over classes of each class's median, so that a class of many cells
    does not decide alone; a cell's diameter is that of a circle of its area.

    Args:
        samples: annotated images.
        channels: of them, that are learned from (:attr:`somaseg.data.axes.Choice.inputs`).

    Raises:
        SomasegError: there is no cell to learn from.
    """
    found = [sample.annotated() for sample in samples]
    if not any(len(instances) for instances in found):
        raise SomasegError("no annotated cell to train on; check the data set with `data check`")
    areas = np.concatenate([instances.areas for instances in found])
    classes = np.concatenate([instances.classes for instances in found])
    diameters = [
        2 * np.sqrt(np.median(areas[classes == label]) / np.pi) for label in np.unique(classes)
    ]
    return ModelInfo(
        names=found[0].names,
        diameter=float(np.median(diameters)),
        one_class=len(found[0].names) > 1 and all(s.image_class is not None for s in samples),
        channels=tuple(channels),
    )
