"""Training crops: one warp for image and labels, then changes of brightness and noise.

A crop depends on (seed, index) alone, never on what was drawn before. So a training that resumes
sees the crops it would have seen, and several worker processes see each crop once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from somaseg.data.augment_settings import AugmentSettings
from somaseg.data.images import Levels, normalise, stretch, to_gray
from somaseg.data.prepared import Prepared, PreparedImages
from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances

Planes = Callable[[Instances], npt.NDArray[np.int32]]
Prepare = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Crop:
    """One training crop.

    Attributes:
        image: float32 (size, size), 0 and 1 at the image's low and high percentile; of several
            channels (c, size, size), each by itself.
        planes: int32 (k, s, s), label planes: value i + 1 is row i of ``classes``. On a grid of
            one pixel per ``stride`` image pixels, with ``margin`` of its pixels around the crop,
            so that a cell cut by the crop's edge still has its centre.
        margin: of the planes, in their pixels.
        classes: int16 (n,), class of each cell of the *image*; −1 unknown.
    """

    image: npt.NDArray[np.float32]
    planes: npt.NDArray[np.int32]
    margin: int
    classes: npt.NDArray[np.int16]

    @property
    def channels(self) -> npt.NDArray[np.float32]:
        """The image as networks take it, (c, size, size)."""
        return self.image if self.image.ndim == 3 else self.image[None]


class CropSampler:
    """Draws crops from annotated images, balanced by class.

    Args:
        samples: annotated images; read and prepared once, here.
        planes: turns an image's instances into label planes (the family's choice: one disjoint
            plane, or as many as overlapping cells need).
        size: side of a crop in network pixels.
        scale: network pixels per image pixel before jitter.
        stride: image pixels of the crop per label pixel.
        margin: of the label planes, in label pixels.
        settings: the augmentation.
        seed: of everything drawn.
        cache: folder for prepared images that are too many for the memory
            (:mod:`somaseg.data.prepared`); processes share it.
        cache_key: tells ``planes`` and ``prepare`` of different families apart there.
        prepare: makes an image float32 between its levels, by default :func:`prepare_image`.
        channels: that ``prepare`` gives.

    Raises:
        SomasegError: no image has annotations.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        planes: Planes,
        *,
        size: int,
        scale: float,
        stride: int = 1,
        margin: int = 0,
        settings: AugmentSettings | None = None,
        seed: int = 0,
        cache: Path | None = None,
        cache_key: str = "",
        prepare: Prepare | None = None,
        channels: int = 1,
    ) -> None:
        self.size, self.scale, self.stride, self.margin = size, scale, stride, margin
        self.settings = settings or AugmentSettings()
        self.seed = seed
        if not samples:
            raise SomasegError(
                "no annotated image to train on; check the data set with `data check`"
            )
        gray = prepare or prepare_image
        self.images = PreparedImages(
            samples, lambda s: _prepare(s, planes, gray), cache, cache_key, channels
        )
        groups: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            groups.setdefault(sample.image_class or "", []).append(i)
        self.groups = [groups[name] for name in sorted(groups)]

    def draw(self, index: int) -> Crop:
        """Cut crop number ``index``."""
        rng = np.random.default_rng((self.seed, index))
        group = self.groups[rng.integers(len(self.groups))]
        source = self.images[group[rng.integers(len(group))]]
        to_image = self._placement(rng, source)
        shift = self._elastic(rng)
        side = self.size // self.stride
        channels = [
            # Dyes and lamps differ apart: each channel has a light of its own.
            _change_light(rng, channel, self.settings)
            for channel in _warp(
                source.image.reshape(-1, *source.image.shape[-2:]),
                *(to_image, self.size, 1, 0, shift, cv2.INTER_LINEAR),
            )
        ]
        planes = _warp(
            source.planes, to_image, side, self.stride, self.margin, shift, cv2.INTER_NEAREST
        )
        return Crop(
            np.stack(channels) if len(channels) > 1 else channels[0],
            np.stack([plane.astype(np.int32) for plane in planes]),
            self.margin,
            source.classes,
        )

    def _placement(self, rng: np.random.Generator, source: Prepared) -> npt.NDArray[np.float64]:
        """Draw the affine map (2, 3) from crop pixels (x, y, 1) to image pixels (x, y)."""
        jitter = self.settings.scale ** rng.uniform(-1, 1)
        scale = 1 / (self.scale * jitter)
        angle = rng.uniform(0, 2 * np.pi) if self.settings.rotate else np.pi / 2 * rng.integers(4)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
        if rng.random() < 0.5:
            turn[:, 0] *= -1
        h, w = source.image.shape[-2:]
        if len(source.centres) and rng.random() < self.settings.on_cells:
            # The cell lies anywhere in the middle of the crop, not always at its very centre.
            cell = source.centres[rng.integers(len(source.centres))]
            middle = cell + rng.uniform(-0.35, 0.35, 2) * self.size * scale
        else:
            middle = rng.uniform(0, 1, 2) * (w, h)
        # Keep the crop inside the image as far as it fits: mirrored borders teach little.
        reach = np.minimum(self.size * scale / 2, np.array([w, h]) / 2)
        middle = np.clip(middle, reach, np.array([w, h]) - reach)
        corner = middle - 0.5 - turn @ np.full(2, (self.size - 1) / 2)
        return np.column_stack([turn, corner])

    def _elastic(self, rng: np.random.Generator) -> npt.NDArray[np.float32] | None:
        """Draw a smooth displacement (5, 5, 2) in crop pixels, to be enlarged over the crop."""
        if self.settings.elastic == 0:
            return None
        return rng.normal(0, self.settings.elastic, (5, 5, 2)).astype(np.float32)


def prepare_image(
    image: npt.NDArray[np.generic], levels: Levels | None = None, channels: int = 1
) -> npt.NDArray[np.float32]:
    """Gray float32 (h, w) with 0 and 1 at the 1st and 99th percentile, clipped to −1 … 2.

    Args:
        image: (h, w) or (h, w, 3); of several channels (h, w, channels).
        levels: the two percentiles, if it is a part of a larger image: those of the whole; of
            several channels, those of each.
        channels: that a model sees. One is gray, whatever the image is; of several each has its own
            percentiles, and the result is (h, w, channels).

    Raises:
        SomasegError: an image of another number of channels.
    """
    if channels > 1:
        found = image.shape[2] if image.ndim == 3 else 1
        if found != channels:
            raise SomasegError(f"an image of {found} channels; the model looks at {channels}")
        pairs: Any = levels or [None] * channels
        planes = [prepare_image(image[..., k], pairs[k]) for k in range(channels)]
        return np.stack(planes, -1)
    gray = to_gray(image)
    scaled = normalise(gray) if levels is None else stretch(gray, *levels)  # type: ignore[arg-type]
    return np.clip(scaled, -1, 2)


def _prepare(sample: Sample, planes: Planes, prepare: Prepare) -> npt.NDArray[np.float32]:
    """Channels and label planes, float32 (c + k, h, w)."""
    # OpenCV warps no int32; float32 holds label numbers exactly up to 16 million.
    labels = planes(sample.annotated()).astype(np.float32)
    image = prepare(sample.image())
    return np.concatenate([image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0), labels])


def _warp(
    planes: npt.NDArray[np.float32],
    to_image: npt.NDArray[np.float64],
    side: int,
    stride: int,
    margin: int,
    shift: npt.NDArray[np.float32] | None,
    interpolation: int,
) -> list[npt.NDArray[np.float32]]:
    """Sample planes (k, h, w) on the crop's grid: ``side + 2 margin`` pixels, ``stride`` apart."""
    count = side + 2 * margin
    # The centre of a label pixel lies in the middle of the image pixels that it stands for.
    grid = (np.arange(count, dtype=np.float64) - margin) * stride + (stride - 1) / 2
    if shift is None:
        crop_x, crop_y = np.meshgrid(grid, grid)
    else:
        size = side * stride
        where = ((grid + 0.5) / size * shift.shape[0] - 0.5).astype(np.float32)
        map_x, map_y = np.meshgrid(where, where)
        moved = cv2.remap(shift, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        crop_x = grid[None, :] + moved[..., 0]
        crop_y = grid[:, None] + moved[..., 1]
    x = to_image[0, 0] * crop_x + to_image[0, 1] * crop_y + to_image[0, 2]
    y = to_image[1, 0] * crop_x + to_image[1, 1] * crop_y + to_image[1, 2]
    x, y = x.astype(np.float32), y.astype(np.float32)
    return [
        cv2.remap(plane, x, y, interpolation, borderMode=cv2.BORDER_REFLECT_101).astype(
            np.float32, copy=False
        )
        for plane in planes
    ]


def _change_light(
    rng: np.random.Generator, image: npt.NDArray[np.float32], settings: AugmentSettings
) -> npt.NDArray[np.float32]:
    """Change gamma, contrast, brightness, sharpness and noise of a crop."""
    gamma = (1 + settings.gamma) ** rng.uniform(-1, 1)
    image = np.sign(image) * np.abs(image) ** np.float32(gamma)
    contrast = 1 + settings.contrast * rng.uniform(-1, 1)
    middle = image.mean()
    image = (image - middle) * np.float32(contrast) + middle
    image = image + np.float32(settings.brightness * rng.uniform(-1, 1))
    if settings.blur and rng.random() < 0.2:
        sigma = rng.uniform(0.2, 1) * settings.blur
        image = cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32, copy=False)
    if settings.noise and rng.random() < 0.5:
        deviation = np.float32(rng.uniform(0, settings.noise))
        image = image + deviation * rng.standard_normal(image.shape, dtype=np.float32)
    return np.ascontiguousarray(image, dtype=np.float32)
