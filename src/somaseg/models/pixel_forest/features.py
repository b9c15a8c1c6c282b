"""What the forest sees of each pixel: filters at several scales, and a frozen network's features.

All lie on one grid of every second pixel of the working image, so that the encoder's first level
needs no enlarging; its deeper ones are brought to the grid bilinearly.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from skimage.feature import (
    multiscale_basic_features,
    structure_tensor,
    structure_tensor_eigenvalues,
)
from torch import Tensor, nn

from somaseg.models.base import Gray, Maps
from somaseg.models.dense import resize_maps
from somaseg.models.nn.encoders import Encoder

STRIDE = 2
"""Working pixels a step of the features' grid."""

FILTERS = ("mean", "edge", "hessian_high", "hessian_low", "structure_high", "structure_low")
"""What :func:`filter_image` computes at each scale."""


class PixelFeatures(nn.Module):
    """Features of each pixel of a working image.

    Args:
        encoder: each channel of each of its levels is a feature; it is frozen.
        sigmas: of the filters, in pixels of the grid.
    """

    def __init__(self, encoder: Encoder, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.sigmas = tuple(sigmas)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    @property
    def names(self) -> list[str]:
        """Name of each feature, in their order."""
        filters = [f"{name}_{sigma:g}" for sigma in self.sigmas for name in FILTERS]
        levels = zip(self.encoder.strides, self.encoder.channels, strict=True)
        return ["gray", *filters, *(f"level{s}_{c}" for s, count in levels for c in range(count))]

    def forward(self, image: Tensor) -> Tensor:
        """Turn a working image (1, 1, h, w) into features (1, f, h / 2, w / 2), float32."""
        gray = image[0, 0].cpu().numpy()
        size = (gray.shape[0] // STRIDE, gray.shape[1] // STRIDE)
        reduced = cv2.resize(gray, size[::-1], interpolation=cv2.INTER_AREA)
        filtered = filter_image(reduced.astype(np.float32, copy=False), self.sigmas)
        levels = [
            resize_maps(level[0].float().cpu().numpy(), size, level.shape[2:])
            for level in self.encoder(image.contiguous(memory_format=torch.channels_last))
        ]
        return torch.from_numpy(np.concatenate([filtered, *levels]))[None]


def filter_image(gray: Gray, sigmas: Sequence[float]) -> Maps:
    """Gray values, and at each scale their mean, edges, curvature and structure.

    Args:
        gray: float32 (h, w).
        sigmas: scales, in pixels.

    Returns:
        float32 (1 + 6 · scales, h, w): the gray values; then for each sigma their Gaussian mean,
        its Sobel magnitude, the eigenvalues of its Hessian, and the eigenvalues of the structure
        tensor (products of gradients, averaged over sigma), the higher before the lower.
    """
    out = [gray[None]]
    for sigma in sigmas:
        basic = multiscale_basic_features(
            gray, sigma_min=sigma, sigma_max=sigma, num_sigma=1, workers=1
        )
        out.append(np.moveaxis(basic, -1, 0))
        out.append(structure_tensor_eigenvalues(structure_tensor(gray, sigma, mode="nearest")))
    return np.concatenate(out, dtype=np.float32)
