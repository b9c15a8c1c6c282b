"""A U-Net decoder on any encoder pyramid (Ronneberger et al. 2015, arXiv:1505.04597)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from somaseg.models.nn.encoders import Encoder


class ConvNormAct(nn.Sequential):
    """3×3 convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class UpBlock(nn.Module):
    """Upsample to the skip's size, concatenate, two convolutions."""

    def __init__(self, below: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvNormAct(below + skip, outputs), ConvNormAct(outputs, outputs)
        )

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(b, below, h, w) and (b, skip, H, W) to (b, outputs, H, W)."""
        below = functional.interpolate(below, size=skip.shape[-2:], mode="nearest")
        out: Tensor = self.convs(torch.cat([below, skip], 1))
        return out


class UNet(nn.Module):
    """Encoder pyramid, decoder, one 1×1 head.

    The output has the stride of the encoder's finest level (2 for most encoders): cells are
    enlarged before they enter, so a finer output would cost half of the time and add nothing.

    Args:
        encoder: the pyramid.
        decoder: channels of each decoder level, coarse to fine; one fewer than pyramid levels.
        outputs: channels of the output map.
    """

    def __init__(self, encoder: Encoder, decoder: Sequence[int], outputs: int) -> None:
        super().__init__()
        levels = len(encoder.channels)
        if len(decoder) != levels - 1:
            raise ValueError(f"{levels} encoder levels need {levels - 1} decoder widths")
        self.encoder = encoder
        self.stride = encoder.strides[0]
        self.multiple = encoder.strides[-1]
        below = encoder.channels[-1]
        self.blocks = nn.ModuleList()
        for skip, width in zip(encoder.channels[-2::-1], decoder, strict=True):
            self.blocks.append(UpBlock(below, skip, width))
            below = width
        self.head = nn.Conv2d(below, outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Images (b, c, h, w) to maps (b, outputs, h / stride, w / stride)."""
        *skips, features = self.encoder(image)
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            features = block(features, skip)
        out: Tensor = self.head(features)
        return out
