"""An attention residual U-Net, from scratch.

Attention gate: Oktay et al. 2018, arXiv:1804.03999, the original variant: the skip is brought to
the gating signal's size by a 2×2 convolution of stride 2, and the attention is upsampled to the
skip. No batch normalisation inside the gate, and the gated skip is α·x itself (the authors' code
adds a 1×1 convolution after it, the paper does not). Residual unit: He et al. 2016,
arXiv:1603.05027, full pre-activation: twice (batch normalisation, ReLU, 3×3 convolution), with a
1×1 projection as the shortcut where the channels change.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class AttentionGate(nn.Module):
    """α = σ(ψᵀ ReLU(W_x x + W_g g + b) + b_ψ); the skip becomes α·x.

    Args:
        skip: channels of the skip x.
        gating: channels of the gating signal g, of half the skip's height and width.
    """

    def __init__(self, skip: int, gating: int) -> None:
        super().__init__()
        inner = max(skip // 2, 1)
        self.skip = nn.Conv2d(skip, inner, 2, stride=2, bias=False)
        self.gating = nn.Conv2d(gating, inner, 1)
        self.score = nn.Conv2d(inner, 1, 1)

    def attention(self, x: Tensor, g: Tensor) -> Tensor:
        """Skip (b, skip, h, w) and gate (b, gating, h / 2, w / 2) to α in 0..1 (b, 1, h, w)."""
        score = self.score(torch.relu(self.skip(x) + self.gating(g)))
        return functional.interpolate(
            torch.sigmoid(score), size=x.shape[-2:], mode="bilinear", align_corners=False
        )

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """The gated skip, (b, skip, h, w)."""
        return self.attention(x, g) * x


class ResidualUnit(nn.Module):
    """x + two (batch normalisation, ReLU, 3×3 convolution); a 1×1 shortcut changes channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        self.shortcut = (
            nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) to (b, outputs, h, w)."""
        out: Tensor = self.shortcut(x) + self.branch(x)
        return out


class AttentionUNet(nn.Module):
    """A U-Net of residual units whose skips go through attention gates.

    Args:
        widths: channels of each level, fine to coarse; each level has half the resolution.
        outputs: channels of the output map, which has the image's resolution.
        in_channels: of the image.
    """

    def __init__(self, widths: Sequence[int], outputs: int, in_channels: int = 1) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"an attention U-Net needs two widths or more, not {len(widths)}")
        self.stride = 1
        self.multiple = 2 ** (len(widths) - 1)
        # A convolution first: a pre-activation would cut off half of the gray values.
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            ResidualUnit(below, width)
            for below, width in zip((widths[0], *widths[:-1]), widths, strict=True)
        )
        pairs = list(zip(widths[-2::-1], widths[:0:-1], strict=True))
        self.gates = nn.ModuleList(AttentionGate(skip, gating) for skip, gating in pairs)
        self.up = nn.ModuleList(ResidualUnit(skip + below, skip) for skip, below in pairs)
        self.last = nn.Sequential(nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.head = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Images (b, c, h, w) to maps (b, outputs, h, w); sides are multiples of `multiple`."""
        features = self.stem(image)
        skips = []
        for level, unit in enumerate(self.down):
            if level:
                features = functional.max_pool2d(features, 2)
            features = unit(features)
            skips.append(features)
        skips.pop()
        for gate, unit in zip(self.gates, self.up, strict=True):
            skip = skips.pop()
            above = functional.interpolate(features, size=skip.shape[-2:], mode="nearest")
            features = unit(torch.cat([gate(skip, features), above], 1))
        out: Tensor = self.head(self.last(features))
        return out
