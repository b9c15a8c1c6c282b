"""The second pass of region families: every member draws the fused cells again."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from somaseg.decide.fuse import checked_weights
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.paste import fuse as weighted_means


@runtime_checkable
class MaskHead(Protocol):
    """A model that draws masks in given boxes."""

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102

    def predict_masks(  # noqa: D102
        self,
        image: npt.NDArray[Any],
        boxes: npt.NDArray[np.float32],
        classes: npt.NDArray[np.integer],
        scores: npt.NDArray[np.float32],
    ) -> Instances: ...


def second_pass(
    models: Sequence[MaskHead],
    image: npt.NDArray[Any],
    fused: Instances,
    weights: Sequence[float] | None = None,
) -> Instances:
    """Run each member's mask head on the fused boxes and average what they draw.

    A fused box is better than the box that a member proposed, and all members draw the same cells:
    nothing needs matching.

    Args:
        models: members that draw masks in given boxes (the two-stage family).
        image: as for ``predict``.
        fused: instances of the image; their masks only give the boxes, around what is above a
            half.
        weights: of the models; equal by default.

    Returns:
        Soft instances, a row for each of ``fused``, with its class; scores are the mean of those
        that the models return (times their guess of the mask's IoU, if they make one).

    Raises:
        SomasegError: no model, a class that a model lacks, or instances of unknown class where a
            model has several.
    """
    if not models:
        raise SomasegError("second pass: no member draws masks in given boxes")
    share = checked_weights(weights, len(models))
    if not len(fused):
        return fused
    boxes = fused.boxes.copy()
    tight, rows = fused.binary(keep_empty=True).tightened()
    boxes[rows] = tight.boxes
    drawn = []
    for model in models:
        classes = _classes_for(model, fused)
        masks = model.predict_masks(image, boxes.astype(np.float32), classes, fused.scores)
        if len(masks) != len(fused) or masks.size != fused.size:
            raise ValueError(f"predict_masks gave {masks} for {fused}")
        drawn.append(masks.with_classes(fused.classes, fused.names))
    together = Instances.concat(drawn)
    groups = np.tile(np.arange(len(fused)), len(models))
    flat = weighted_means(*together.flat, groups, np.repeat(share, len(fused)))
    scores = np.average([masks.scores for masks in drawn], axis=0, weights=share)
    return Instances.from_flat(fused.size, flat, scores, fused.classes, fused.names, soft=True)


def _classes_for(model: MaskHead, fused: Instances) -> npt.NDArray[np.int16]:
    """Classes of the instances as the model numbers them."""
    if len(model.names) == 1 and (fused.classes < 0).all():
        return np.zeros(len(fused), np.int16)
    if (fused.classes < 0).any():
        raise SomasegError(
            "second pass: mask heads draw a cell of a known class, but "
            f"{int((fused.classes < 0).sum())} of {len(fused)} fused ones have none"
        )
    return fused.rename(model.names).classes
