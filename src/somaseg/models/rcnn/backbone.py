"""Encoder and feature pyramid (Lin et al. 2017, arXiv:1612.03144), and pooling from it."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import timm
import torch
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, box_area, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from somaseg.errors import SomasegError
from somaseg.models.nn.encoders import Encoder
from somaseg.models.rcnn.config import RCNNConfig


class Pyramid(nn.Module):
    """Images to feature maps of equal width, one a stride.

    Attributes:
        strides: network pixels a step, finest first, the RPN's extra level included.
        multiple: images must be padded to a multiple of it.
        channels: of images; gray ones are repeated three times.
    """

    def __init__(self, config: RCNNConfig, pretrained: str, channels: int = 3) -> None:
        super().__init__()
        finest, coarsest = config.strides[0], config.strides[-1]
        self.encoder = Encoder(
            config.backbone, pretrained, channels, depth=coarsest.bit_length() - 1
        )
        # Micrographs are normalised to 0..1; the weights expect what they were trained on.
        expects = timm.get_pretrained_cfg(config.backbone)
        mean, std = (expects.mean, expects.std) if expects else ((0.5,) * 3, (0.5,) * 3)
        # Further channels have those of red, green and blue again, as their weights.
        mean, std = (
            tuple(of_rgb[k % 3] for k in range(channels))
            for of_rgb in (config.mean or mean, config.std or std)
        )
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        if config.stride_in_1x1:
            self._stride_in_1x1(config.backbone)
        self._freeze(config.frozen_stages)
        if config.norm == "frozen":
            freeze_batch_norm_2d(self.encoder.network)
        self.channels = channels
        self.skipped = self.encoder.strides.index(finest)
        self.fpn = FeaturePyramidNetwork(
            list(self.encoder.channels[self.skipped :]),
            config.fpn_channels,
            LastLevelMaxPool() if config.pool_level else None,
            norm_layer=normalisation(config.head_norm),
        )
        self.strides = (*config.strides, 2 * coarsest) if config.pool_level else config.strides
        # What lies beyond the image: black, or what normalisation makes zero.
        self.multiple = coarsest if config.padding == "mean" else self.strides[-1]
        beyond = (
            self.get_buffer("mean") if config.padding == "mean" else torch.zeros(channels, 1, 1)
        )
        self.register_buffer("beyond", beyond.clone(), persistent=False)

    def _stride_in_1x1(self, name: str) -> None:
        """Begin stages with a strided 1×1 convolution, as Caffe's ResNets (arXiv:1512.03385)."""
        blocks = [
            m
            for m in self.encoder.network.modules()
            if isinstance(m, timm.models.resnet.Bottleneck) and m.conv2.stride == (2, 2)
        ]
        if not blocks:
            raise SomasegError(f"stride_in_1x1: {name} is no ResNet of bottlenecks; leave it out")
        for block in blocks:
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)

    def _freeze(self, stages: int) -> None:
        """Keep the weights of everything up to and including the given number of stages."""
        if stages == 0:
            return
        network = self.encoder.network
        names = [name for name, _ in network.named_modules()]
        last = network.feature_info.module_name()[stages - 1]  # type: ignore[union-attr,operator]
        end = max(i for i, n in enumerate(names) if n == last or n.startswith(f"{last}."))
        for name in names[1 : end + 1]:
            for weights in network.get_submodule(name).parameters(recurse=False):
                weights.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (b, channels, h, w) in 0..1, h and w multiples, to levels (b, c, h / s, w / s)."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        features = self.encoder((images - mean) / std)[self.skipped :]
        named = OrderedDict((str(i), level) for i, level in enumerate(features))
        return list(self.fpn(named).values())


def normalisation(name: str) -> Callable[..., nn.Module] | None:
    """Return the ``norm_layer`` of ``head_norm``: groups of 32 channels at most, batch, or none."""
    if name == "none":
        return None
    return _group_norm if name == "group" else nn.BatchNorm2d


def _group_norm(channels: int) -> nn.GroupNorm:
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class PyramidPool(nn.Module):
    """RoIAlign of each box on the level that fits its size (arXiv:1612.03144, eq. 1).

    torchvision's ``MultiScaleRoIAlign`` with the half-pixel shift as an option and the strides
    given instead of guessed from the first batch.

    Args:
        config: strides, ``aligned``, ``roi_canonical`` and ``roi_sampling`` count.
        size: side of the pooled map.
    """

    def __init__(self, config: RCNNConfig, size: int) -> None:
        super().__init__()
        self.strides, self.size = config.strides, size
        self.aligned, self.canonical = config.aligned, config.roi_canonical
        self.sampling = config.roi_sampling or -1  # torchvision's word for adaptive

    def levels(self, boxes: Tensor) -> Tensor:
        """Choose a level for boxes (n, 4): int64 (n,)."""
        finest = self.strides[0].bit_length() - 1
        level = torch.floor(4 + torch.log2(box_area(boxes).sqrt() / self.canonical) + 1e-6)
        return (level - finest).clamp(0, len(self.strides) - 1).long()

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Levels (b, c, h, w) and boxes (n_i, 4) of each image to (sum n_i, c, size, size)."""
        rois = torch.cat(
            [torch.cat([b.new_full((len(b), 1), i), b], 1) for i, b in enumerate(boxes)]
        )
        level = self.levels(rois[:, 1:])
        out = features[0].new_zeros(len(rois), features[0].shape[1], self.size, self.size)
        for i, stride in enumerate(self.strides):
            rows = (level == i).nonzero()[:, 0]
            if len(rows):
                pooled = roi_align(
                    features[i], rois[rows], self.size, 1 / stride, self.sampling, self.aligned
                )
                out = out.index_copy(0, rows, pooled.to(out.dtype))
        return out
