"""The flow family's model: network, losses, maps and decoding."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from somaseg.data.augment import Crop
from somaseg.instances import Instances
from somaseg.models.base import Batch, Dense, Gray, Maps, ModelInfo, Network
from somaseg.models.dense import cell_means, run_scaled, soften
from somaseg.models.flow.config import FlowConfig
from somaseg.models.flow.decode import decode_flows
from somaseg.models.flow.targets import label_flows
from somaseg.nn.encoders import Encoder
from somaseg.nn.unet import UNet

FLOW_UNIT = 5.0
"""The network's output for a flow of length one (Cellpose's factor)."""


class FlowModel(Dense, Network):
    """Flows (dy, dx), the logit of being in a cell, and a logit per class.

    Maps: channels 0, 1 flows in network units (5 = unit length), 2 the cell logit, 3… classes.
    """

    vectors: ClassVar = ((0, 1),)
    label_stride = 2
    label_margin = 24

    def __init__(self, config: FlowConfig, info: ModelInfo) -> None:
        nn.Module.__init__(self)
        self.config: FlowConfig = config
        self.info = info
        encoder = Encoder(config.encoder, config.pretrained)
        self.net = UNet(encoder, config.decoder, 3 + len(info.names))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def scale(self) -> float:
        """Network pixels per image pixel: brings cells to the config's diameter."""
        return self.config.diameter / self.info.diameter

    def train(self, mode: bool = True) -> "FlowModel":
        """Switch to training; the encoder's batch statistics may stay as they were."""
        super().train(mode)
        if self.config.freeze_norm and mode:
            for module in self.net.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

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
            "image": crop.image[None],
            "flows": label_flows(labels)[:, *inner],
            "foreground": (labels[inner] > 0).astype(np.float32),
            "classes": classes.astype(np.int64),
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """½·MSE of the flows, binary cross-entropy of the foreground, cross-entropy of classes."""
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        out = self.net(image).float()
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

    def maps(self, gray: Gray) -> Maps:
        """Flows in network units, cell logit, class logits: float32 (3 + classes, h, w)."""
        return run_scaled(self.net, gray, self.scale, self.net.multiple)

    def decode(self, maps: Maps) -> Instances:
        """Follow the flows of the pixels that may be cell."""
        probability = 1 / (1 + np.exp(-maps[2]))
        decoded = decode_flows(
            maps[:2] / FLOW_UNIT,
            probability > self.config.probability,
            max_error=self.config.max_flow_error,
            min_area=self.config.min_area,
        )
        means = cell_means(decoded.labels, np.concatenate([probability[None], maps[3:]]))
        # A sure cell is bright in probability, and its flow is that of its own shape.
        scores = means[:, 0] * np.exp(-decoded.errors)
        classes = means[:, 1:].argmax(axis=1).astype(np.int16)
        return soften(decoded.labels, probability, scores, classes, self.names)
