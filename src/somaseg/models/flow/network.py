"""What all networks that predict flows share: examples, losses and decoding."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn import functional

from somaseg.data.augment import Crop
from somaseg.instances import Instances
from somaseg.masks.labels import crops_to_labels, labels_to_crops
from somaseg.masks.pieces import split_pieces
from somaseg.models.base import Batch, Dense, Maps, Network
from somaseg.models.config import ModelInfo
from somaseg.models.dense import cell_means, soften
from somaseg.models.flow.config import FlowDecoding
from somaseg.models.flow.decode import STEPS, decode_flows, resize_labels
from somaseg.models.flow.targets import label_flows
from somaseg.models.flow.tiling import network_size, resize_bilinear

FLOW_UNIT = 5.0
"""The network's output for a flow of length one (Cellpose's factor)."""
MARGIN = 48
"""Network pixels around a crop whose labels are known to its targets."""


class FlowNetwork(Dense, Network):
    """Flows (dy, dx), the logit of being in a cell, and a logit per class.

    Maps: channels 0, 1 flows in network units (5 = unit length), 2 the cell logit, 3… classes.

    Attributes:
        net: images (b, channels, h, w) to maps (b, 3 + classes, h / stride, w / stride).
        diameter: of cells in network pixels.
    """

    vectors: ClassVar = ((0, 1),)
    config: FlowDecoding
    net: nn.Module
    diameter: float

    def __init__(self, config: FlowDecoding, info: ModelInfo) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.info = info

    @property
    def scale(self) -> float:
        """Network pixels per image pixel: brings the cells to the network's diameter."""
        return self.diameter / (self.config.image_diameter or self.info.diameter)

    def planes(self, instances: Instances) -> npt.NDArray[np.int32]:
        """One plane: of overlapping cells the smallest owns the pixel."""
        return instances.to_labels("smallest_first")[None]

    def example(self, crop: Crop) -> dict[str, Any]:
        """Image, flows, foreground and classes of a crop."""
        labels, m = crop.planes[0], crop.margin
        side = labels.shape[0] - 2 * m
        inner = (slice(m, m + side), slice(m, m + side))
        classes = np.append(np.int16(-1), crop.classes)[labels[inner]]
        return {
            "image": crop.channels,
            "flows": label_flows(each_piece(labels))[:, *inner],
            "foreground": (labels[inner] > 0).astype(np.float32),
            "classes": classes.astype(np.int64),
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """½·MSE of the flows, binary cross-entropy of the foreground, cross-entropy of classes."""
        out = self.net(batch["image"]).float()
        losses = {
            "flow": 0.5
            * self.config.flow_weight
            * functional.mse_loss(out[:, :2], FLOW_UNIT * batch["flows"]),
            "cell": functional.binary_cross_entropy_with_logits(out[:, 2], batch["foreground"]),
        }
        classes = batch["classes"]
        if len(self.names) > 1:
            # Mean over the pixels of known class; a crop without any has none to learn from.
            total = functional.cross_entropy(out[:, 3:], classes, ignore_index=-1, reduction="sum")
            known = (classes >= 0).sum().clamp(min=1)
            losses["class"] = self.config.class_weight * total / known
        return losses

    def outputs(self) -> list[str]:
        """Flows, cell logit, and the logit of each class."""
        return ["flow y, 5 = one pixel", "flow x, 5 = one pixel", "logit: cell", *self.names]

    def decode(self, maps: Maps) -> Instances:
        """Follow the flows of the pixels that may be cell."""
        config = self.config
        probability = sigmoid(maps[2])
        if config.resample:
            decoded = decode_flows(
                maps[:2] / FLOW_UNIT,
                probability > config.probability,
                max_error=config.max_flow_error,
                min_area=config.min_area,
                # A cell of many pixels takes many steps to cross.
                steps=config.niter or max(STEPS, round(STEPS / self.scale)),
                exact=config.niter is not None,
                unit_steps=config.unit_steps,
            )
        else:
            size = maps.shape[1:]
            small = resize_bilinear(maps[:3], network_size(size, self.scale))
            decoded = resize_labels(
                decode_flows(
                    small[:2] / FLOW_UNIT,
                    sigmoid(small[2]) > config.probability,
                    max_error=config.max_flow_error,
                    min_area=1,
                    steps=config.niter or STEPS,
                    exact=config.niter is not None,
                    unit_steps=config.unit_steps,
                ),
                (size[0], size[1]),
                config.min_area,
            )
        means = cell_means(decoded.labels, np.concatenate([probability[None], maps[3:]]))
        # A sure cell is bright in probability, and its flow is that of its own shape.
        scores = means[:, 0] * np.exp(-decoded.errors)
        return soften(
            decoded.labels, probability, scores, best_class(means[:, 1:], self.names), self.names
        )


def each_piece(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Number the connected pieces of each label; int32 (h, w).

    A crop that reaches over the image's edge has mirrored cells with the numbers of the real ones.
    Heat enters a cell at one pixel, so a second piece of it would have no flow.
    """
    pieces = split_pieces(*labels_to_crops(labels)[0])[0]
    size = (labels.shape[0], labels.shape[1])
    return crops_to_labels(*pieces, size, np.arange(len(pieces.boxes)))


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probability of a logit."""
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def best_class(logits: npt.NDArray[np.float32], names: Sequence[str]) -> npt.NDArray[np.int16]:
    """Class of each cell by its mean logits (n, classes); −1 where there are no classes."""
    if not names:
        return np.full(len(logits), -1, np.int16)
    return logits.argmax(axis=1).astype(np.int16)
