"""Test-time views of an image: turned, mirrored, enlarged; and the way back for what was found.

Maps are brought back to the image's pixels, their vectors turned; instances are brought back as
crops and boxes: exactly for turns and mirrors, resampled for scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.instances import Instances
from somaseg.masks.flat import Flat, Size, offsets_of
from somaseg.models.base import Gray, Maps
from somaseg.models.dense import resize_maps


@dataclass(frozen=True)
class View:
    """Mirrored left to right or not, then turned, then enlarged or reduced.

    Attributes:
        turns: right angles, counter-clockwise, 0 … 3.
        mirrored: whether left and right change places.
        scale: view pixels per image pixel, 0.5 … 2.
    """

    turns: int = 0
    mirrored: bool = False
    scale: float = 1.0

    def image(self, gray: Gray) -> Gray:
        """Show the view of an image (h, w) or (h, w, channels): float32 (h', w') or the like."""
        if self.mirrored:
            gray = gray[:, ::-1]
        turned = np.ascontiguousarray(np.rot90(gray, self.turns))
        if self.scale == 1:
            return turned
        way = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(turned, self._scaled(turned.shape)[::-1], interpolation=way)
        return np.asarray(resized, np.float32)

    def shape(self, size: Size) -> Size:
        """(height, width) of the view of an image of ``size`` (h, w)."""
        return self._scaled(self._turned(size))

    def undo_maps(self, maps: Maps, size: Size, vectors: Sequence[tuple[int, int]] = ()) -> Maps:
        """Bring maps of the view back onto the image, vectors' directions too.

        Args:
            maps: float32 (c, h', w'), predicted on :meth:`image`'s output.
            size: (h, w) of the image.
            vectors: pairs of channels (dy, dx). Their lengths stay: they do not count pixels.

        Returns:
            float32 (c, h, w).
        """
        turned = self._turned(size)
        if self.scale != 1:
            maps = resize_maps(maps, turned, (maps.shape[1], maps.shape[2]))
        maps = np.rot90(maps, -self.turns, axes=(1, 2)).copy()
        for y, x in vectors:
            # One turn of the image carries (dy, dx) to (−dx, dy): undo as many.
            for _ in range(self.turns % 4):
                maps[y], maps[x] = maps[x].copy(), -maps[y]
            if self.mirrored:
                maps[x] = -maps[x]
        if self.mirrored:
            maps = maps[:, :, ::-1]
        return np.ascontiguousarray(maps)

    def undo_instances(self, found: Instances, size: Size) -> Instances:
        """Bring instances of the view back onto the image; rows without a pixel there are left out.

        Args:
            found: soft or hard, predicted on :meth:`image`'s output.
            size: (h, w) of the image.
        """
        turned = self._turned(size)
        if self.scale != 1:
            found = resample(found, turned)
        if self.turns % 4 or self.mirrored:
            boxes = _turned_boxes(found.boxes, turned, self.turns % 4, self.mirrored)
            pixels = np.empty_like(found.pixels)
            _turn(found.boxes, found.pixels, found.offsets, self.turns % 4, self.mirrored, pixels)
            found = found.replace(size=size, boxes=boxes, pixels=pixels)
        return found

    def _turned(self, size: Size) -> Size:
        """(height, width) of the image after mirror and turns."""
        return (size[1], size[0]) if self.turns % 2 else (size[0], size[1])

    def _scaled(self, size: tuple[int, ...]) -> Size:
        return max(round(size[0] * self.scale), 1), max(round(size[1] * self.scale), 1)


_FLIPS = (View(), View(mirrored=True), View(2, mirrored=True), View(2))
SCALES = (1.0, 0.8, 1.25)
"""Of the views ``scales``."""

VIEWS: dict[str, tuple[View, ...]] = {
    "none": (View(),),
    "flips": _FLIPS,
    "all": tuple(View(turns, mirrored) for mirrored in (False, True) for turns in range(4)),
    "scales": tuple(View(scale=scale) for scale in SCALES),
    "flips+scales": tuple(
        View(flip.turns, flip.mirrored, scale) for scale in SCALES for flip in _FLIPS
    ),
}
"""Named sets of views: as it is; the two flips and their product; all eight symmetries of the
square; three scales; the flips at each scale."""


def _turned_boxes(
    boxes: npt.NDArray[np.int32], size: Size, turns: int, mirrored: bool
) -> npt.NDArray[np.int32]:
    """Undo turns, then the mirror, of boxes on a view of ``size``."""
    height, width = size
    x0, y0, x1, y1 = boxes.T
    if turns == 1:
        x0, y0, x1, y1 = height - y1, x0, height - y0, x1
    elif turns == 2:
        x0, y0, x1, y1 = width - x1, height - y1, width - x0, height - y0
    elif turns == 3:
        x0, y0, x1, y1 = y0, width - x1, y1, width - x0
    if mirrored:
        across = height if turns % 2 else width
        x0, x1 = across - x1, across - x0
    return np.ascontiguousarray(np.stack([x0, y0, x1, y1], axis=1), np.int32)


@njit(cache=True, nogil=True)
def _turn(boxes, pixels, offsets, turns, mirrored, out):  # type: ignore[no-untyped-def]
    """Undo turns, then the mirror, of each crop; it stays at its offset."""
    for i in range(boxes.shape[0]):
        h, w = boxes[i, 3] - boxes[i, 1], boxes[i, 2] - boxes[i, 0]
        crop = pixels[offsets[i] : offsets[i + 1]].reshape((h, w))
        height, width = (w, h) if turns % 2 else (h, w)
        new = out[offsets[i] : offsets[i + 1]].reshape((height, width))
        for y in range(height):
            for x in range(width):
                u = width - 1 - x if mirrored else x
                if turns == 0:
                    new[y, x] = crop[y, u]
                elif turns == 1:
                    new[y, x] = crop[h - 1 - u, y]
                elif turns == 2:
                    new[y, x] = crop[h - 1 - y, w - 1 - u]
                else:
                    new[y, x] = crop[u, w - 1 - y]


def resample(found: Instances, size: Size) -> Instances:
    """Bring instances onto the pixels of an image enlarged or reduced to ``size``.

    Bilinear; hard masks are cut at a half. Rows without a pixel there are left out.
    """
    return found.replace(size=size, **_resampled(found, size)._asdict()).tightened()[0]


def _resampled(found: Instances, size: Size) -> Flat:
    """Crops on the pixels of an image of another size, bilinear; hard masks are cut at a half."""
    factors = np.array([found.size[1] / size[1], found.size[0] / size[0]])
    # Pixels whose centre lies less than a pixel beyond the crop get a share of it.
    low = np.floor((found.boxes[:, :2] - 0.5) / factors - 0.5) + 1
    high = np.ceil((found.boxes[:, 2:] + 0.5) / factors - 0.5)
    limits = np.array([size[1], size[0]])
    low = np.clip(low, 0, limits - 1)
    high = np.clip(high, low + 1, limits)
    boxes = np.concatenate([low, high], axis=1).astype(np.int32)
    offsets = offsets_of(boxes)
    pixels = np.empty(int(offsets[-1]), np.uint8)
    _resample(*found.flat, found.size, factors, boxes, offsets, pixels)
    return Flat(boxes, pixels, offsets)


@njit(cache=True, nogil=True)
def _resample(boxes, pixels, offsets, size, factors, new_boxes, new_offsets, out):  # type: ignore[no-untyped-def]
    """Bilinear; outside of its crop a mask is 0, outside of the image as at its border.

    Rounded: values of hard masks are 1 from a half.
    """
    for i in range(boxes.shape[0]):
        h, w = boxes[i, 3] - boxes[i, 1], boxes[i, 2] - boxes[i, 0]
        crop = pixels[offsets[i] : offsets[i + 1]].reshape((h, w))
        k = new_offsets[i]
        for y in range(new_boxes[i, 1], new_boxes[i, 3]):
            v = min(max((y + 0.5) * factors[1] - 0.5, 0.0), size[0] - 1.0) - boxes[i, 1]
            top = int(np.floor(v))
            fy = v - top
            for x in range(new_boxes[i, 0], new_boxes[i, 2]):
                u = min(max((x + 0.5) * factors[0] - 0.5, 0.0), size[1] - 1.0) - boxes[i, 0]
                left = int(np.floor(u))
                fx = u - left
                value = 0.0
                if 0 <= top < h:
                    if 0 <= left < w:
                        value += crop[top, left] * (1 - fx) * (1 - fy)
                    if 0 <= left + 1 < w:
                        value += crop[top, left + 1] * fx * (1 - fy)
                if 0 <= top + 1 < h:
                    if 0 <= left < w:
                        value += crop[top + 1, left] * (1 - fx) * fy
                    if 0 <= left + 1 < w:
                        value += crop[top + 1, left + 1] * fx * fy
                out[k] = np.uint8(value + 0.5)
                k += 1
