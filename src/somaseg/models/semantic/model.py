"""The semantic family's model: network, losses, maps and decoding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from somaseg.data.augment import Crop
from somaseg.instances import Instances
from somaseg.models.base import Batch, Dense, Gray, Maps, Network
from somaseg.models.config import ModelInfo
from somaseg.models.dense import cell_means, run_scaled_each, soften
from somaseg.models.semantic.config import SemanticConfig
from somaseg.models.semantic.networks import build_network, is_pretrained
from somaseg.models.semantic.targets import semantic_targets
from somaseg.models.watershed import watershed_instances

RARE = -2.0
"""The first logit of every target."""


class SemanticModel(Dense, Network):
    """Logits of each pixel: foreground, borders and depth if asked for, and one per class.

    Maps: the channels that ``channels`` names, then the classes.

    Attributes:
        channels: targets that the network learns, in the order of its output.
    """

    # Depth is a share of the whole cell's: the crop's margin lets a cut cell be seen whole.
    label_margin = 24

    def __init__(self, config: SemanticConfig, info: ModelInfo) -> None:
        nn.Module.__init__(self)
        self.config: SemanticConfig = config
        self.info = info
        self.channels = (
            "foreground",
            *(("touching", "outline") if config.border else ()),
            *(("depth",) if config.seeds else ()),
        )
        self.net = build_network(config, len(self.channels) + len(info.names), info.inputs)
        # All targets are rare; without this the first hundred steps are spent on learning it.
        nn.init.constant_(self.net.head.bias[: len(self.channels)], RARE)
        self.label_stride = self.net.stride
        self.multiple = self.net.multiple
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def scale(self) -> float:
        """Network pixels per image pixel: brings cells to the config's diameter."""
        return self.config.diameter / self.info.diameter

    def train(self, mode: bool = True) -> "SemanticModel":
        """Switch to training; a pretrained encoder's batch statistics may stay as they were."""
        super().train(mode)
        if mode and self.config.freeze_norm and is_pretrained(self.config):
            for module in self.net.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def planes(self, instances: Instances) -> npt.NDArray[np.int32]:
        """One plane: of overlapping cells the smallest owns the pixel."""
        return instances.to_labels("smallest_first")[None]

    def example(self, crop: Crop) -> dict[str, Any]:
        """Image, targets, weights and classes of a crop."""
        labels, m = crop.planes[0], crop.margin
        inner = (slice(m, labels.shape[0] - m), slice(m, labels.shape[1] - m))
        targets = semantic_targets(labels)
        classes = np.append(np.int16(-1), crop.classes)[labels[inner]]
        return {
            "image": crop.channels,
            "targets": np.stack([getattr(targets, name)[inner] for name in self.channels]),
            "weights": 1 + np.float32(self.config.touching_weight) * targets.touching[inner],
            "classes": classes.astype(np.int64),
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Binary cross-entropy of each channel, soft Dice of all but depth, and the classes'.

        The binary cross-entropy is a mean weighted by where cells touch; depth, a share, is
        learned by it as well.
        """
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        out = self.net(image).float()
        targets, weights = batch["targets"], batch["weights"][:, None]
        logits = out[:, : len(self.channels)]
        error = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        means = (error * weights).sum((0, 2, 3)) / weights.sum()
        losses = dict(zip(self.channels, means.unbind(), strict=True))
        overlap = soft_dice(torch.sigmoid(logits), targets)
        for name, dice in zip(self.channels, overlap.unbind(), strict=True):
            if name != "depth" and self.config.dice_weight:
                losses[f"{name}_dice"] = self.config.dice_weight * (1 - dice)
        classes = batch["classes"]
        if len(self.names) > 1:
            # Mean over the pixels of known class; a crop without any has none to learn from.
            total = functional.cross_entropy(
                out[:, len(self.channels) :], classes, ignore_index=-1, reduction="sum"
            )
            known = (classes >= 0).sum().clamp(min=1)
            losses["class"] = self.config.class_weight * total / known
        return losses

    def core(self) -> tuple[nn.Module, tuple[int, int, int, int]]:
        """The whole network."""
        side = 2 * self.multiple
        return self.net, (1, self.info.inputs, side, side)

    def maps(self, gray: Gray) -> Maps:
        """Logits: float32 (channels + classes, h, w)."""
        return self.maps_each([gray])[0]

    def maps_each(self, grays: Sequence[Gray]) -> list[Maps]:
        """Logits of images of one shape, which go through the network at once."""
        return run_scaled_each(self.net, grays, self.scale, self.multiple, self.run)

    def outputs(self) -> list[str]:
        """Logits of the targets and of the classes."""
        return [*(f"logit: {name}" for name in self.channels), *self.names]

    def decode(self, maps: Maps) -> Instances:
        """Seeds and watershed where the network tells cells apart, else connected components."""
        logits = maps[: len(self.channels)]
        by_name = dict(zip(self.channels, 1 / (1 + np.exp(-logits)), strict=True))
        foreground = by_name["foreground"]
        found = watershed_instances(
            foreground,
            by_name.get("touching"),
            by_name.get("depth"),
            foreground_threshold=self.config.probability,
            prominence=self.config.prominence if len(self.channels) > 1 else None,
            min_area=self.config.min_area,
        )
        votes = cell_means(found.labels, maps[len(self.channels) :])
        classes = votes.argmax(axis=1).astype(np.int16)
        return soften(found.labels, foreground, found.scores, classes, self.names)


def soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Soft Dice overlap of each channel over a batch, 0..1.

    Args:
        probability: (b, c, h, w), 0..1.
        target: as large, 0..1.

    Returns:
        (c,); 1 pixel is added to both parts, so that nothing found where nothing is scores 1.
    """
    both = (probability * target).sum((0, 2, 3))
    total = probability.sum((0, 2, 3)) + target.sum((0, 2, 3))
    return (2 * both + 1) / (total + 1)
