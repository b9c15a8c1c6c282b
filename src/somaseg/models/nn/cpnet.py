"""Cellpose's network: a residual U-Net whose decoder is told the style of the image.

Source: Stringer, Wang, Michaelos, Pachitariu, "Cellpose: a generalist algorithm for cellular
segmentation", Nature Methods 18 (2021). Every convolution comes after batch normalisation and ReLU.
Going down, each level has two residual blocks of two convolutions; levels are joined by 2×2 max
pooling. The style is the mean over the image of the coarsest features, of unit length; going up,
it shifts the features of every convolution but the first of a level. Skips are added, not
concatenated. Weights of Cellpose 1 to 3 fit (:mod:`somaseg.models.flow.checkpoint`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from somaseg.models.config import WIDTHS

IN_CHANNELS = 2
"""The cells' channel and, in stains that have one, the nuclei's."""
FIELDS = 3
"""Outputs that Cellpose has: flow dy, dx and the cell logit."""


class CPNet(nn.Module):
    """Flows, cell probability and classes of every pixel, at the image's own resolution.

    Args:
        classes: outputs of a second head, beside Cellpose's three; may be 0.
        widths: channels of the levels, fine to coarse.

    Attributes:
        stride: image pixels per output pixel, 1.
        multiple: sides of an image must be multiples of it.
    """

    def __init__(self, classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.stride = 1
        self.multiple = 2 ** (len(widths) - 1)
        inputs = (IN_CHANNELS, *widths[:-1])
        self.down = nn.ModuleList(DownBlock(a, b) for a, b in zip(inputs, widths, strict=True))
        # The coarsest features pass through an upward block of their own, at their own size.
        below = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(
            UpBlock(a, b, widths[-1]) for a, b in zip(below, widths, strict=True)
        )
        self.head = NormConv(widths[0], FIELDS, 1)
        self.class_head = NormConv(widths[0], classes, 1) if classes else None

    def forward(self, image: Tensor) -> Tensor:
        """Images (b, 1 or 2, h, w) to maps (b, 3 + classes, h, w).

        A gray image is the cells' channel; the nuclei's is then 0, as in Cellpose.
        """
        if image.shape[1] < IN_CHANNELS:
            image = torch.cat([image, torch.zeros_like(image)], 1)
        levels: list[Tensor] = []
        for block in self.down:
            levels.append(block(functional.max_pool2d(levels[-1], 2) if levels else image))
        style = functional.normalize(levels[-1].mean((2, 3)))
        features = self.up[-1](levels[-1], levels[-1], style)
        for block, skip in zip(self.up[-2::-1], levels[-2::-1], strict=True):
            features = functional.interpolate(features, scale_factor=2, mode="nearest")
            features = block(features, skip, style)
        if self.class_head is None:
            return self.head(features)
        return torch.cat([self.head(features), self.class_head(features)], 1)


class DownBlock(nn.Module):
    """Two residual blocks of two convolutions; the first changes the number of channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = NormConv(inputs, outputs, 1, relu=False)
        self.convs = nn.ModuleList(
            NormConv(inputs if i == 0 else outputs, outputs, 3) for i in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) to (b, outputs, h, w)."""
        x = self.project(x) + self.convs[1](self.convs[0](x))
        out: Tensor = x + self.convs[3](self.convs[2](x))
        return out


class UpBlock(nn.Module):
    """Two residual blocks; the skip is added inside the first, the style before convolutions."""

    def __init__(self, inputs: int, outputs: int, style: int) -> None:
        super().__init__()
        self.project = NormConv(inputs, outputs, 1, relu=False)
        self.convs = nn.ModuleList(
            [NormConv(inputs, outputs, 3), *(StyledConv(outputs, style) for _ in range(3))]
        )

    def forward(self, below: Tensor, skip: Tensor, style: Tensor) -> Tensor:
        """(b, inputs, h, w), (b, outputs, h, w) and (b, style) to (b, outputs, h, w)."""
        x = self.project(below) + self.convs[1](self.convs[0](below) + skip, style)
        out: Tensor = x + self.convs[3](self.convs[2](x, style), style)
        return out


class StyledConv(nn.Module):
    """A convolution of features that are shifted, channel by channel, by the style."""

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.shift = nn.Linear(style, channels)
        self.conv = NormConv(channels, channels, 3)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(b, channels, h, w) and (b, style) to (b, channels, h, w)."""
        out: Tensor = self.conv(x + self.shift(style)[:, :, None, None])
        return out


class NormConv(nn.Module):
    """Batch normalisation, ReLU if wanted, convolution that keeps the size."""

    def __init__(self, inputs: int, outputs: int, size: int, relu: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs, momentum=0.05)
        self.relu = relu
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) to (b, outputs, h, w)."""
        x = self.norm(x)
        out: Tensor = self.conv(functional.relu(x, inplace=True) if self.relu else x)
        return out
