"""Lay small masks back on the image, each into a crop of its own: never a full plane."""

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.masks.flat import Flat, offsets_of

Floats = npt.NDArray[np.float32]


def paste(masks: Floats, boxes: Floats, size: tuple[int, int], aligned: bool = True) -> Flat:
    """Resample masks from their boxes to the pixels of the image, bilinearly.

    Args:
        masks: float32 (n, s, s), probabilities.
        boxes: float32 (n, 4), in pixels of the image.
        size: (height, width) of the image.
        aligned: pixel centres at half integers, boxes as they are. False repeats torchvision's
            ``paste_masks_in_image``, which first rounds the boxes to integers.

    Returns:
        Boxes, pixels (probability times 255) and offsets of the crops, as in `Instances`. A crop
        holds every pixel that its mask reaches: half a mask cell beyond the box, cut at the
        image's edge.
    """
    places = boxes.astype(np.float64)
    side = masks.shape[1]
    if not aligned:
        places = _rounded(places, side)
    reach = (places[:, 2:] - places[:, :2]) / (2 * side)
    limits = np.array([size[1], size[0]])
    # A pixel is reached if its centre (.5) is; at least one is kept, inside the image.
    low = np.clip(np.floor(places[:, :2] - reach + 0.5), 0, limits - 1)
    high = np.clip(np.ceil(places[:, 2:] + reach - 0.5), low + 1, limits)
    crops = np.concatenate([low, high], 1).astype(np.int32)
    offsets = offsets_of(crops)
    pixels = np.empty(int(offsets[-1]), np.uint8)
    _paste(np.ascontiguousarray(masks, np.float32), places, crops, offsets, pixels)
    return Flat(crops, pixels, offsets)


def _rounded(boxes: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """Return the boxes that torchvision's integer paste amounts to.

    It pads the mask by one cell, enlarges the box alike, truncates it to integers and fills it,
    both ends included.
    """
    scale = np.float32((side + 2) / side)
    single = boxes.astype(np.float32)  # the truncation depends on the last bit
    half = (single[:, 2:] - single[:, :2]) * np.float32(0.5) * scale
    centre = (single[:, 2:] + single[:, :2]) * np.float32(0.5)
    low, high = np.trunc(centre - half), np.trunc(centre + half)
    extent = np.maximum(high - low + 1, 1).astype(np.float64)
    ring = extent / (side + 2)
    return np.concatenate([low + ring, low + extent - ring], 1)


@njit(cache=True, nogil=True)
def _paste(masks, places, crops, offsets, pixels):  # type: ignore[no-untyped-def]
    side = masks.shape[1]
    for i in range(len(masks)):
        x0, y0, x1, y1 = places[i]
        step_x = side / max(x1 - x0, 1e-6)
        step_y = side / max(y1 - y0, 1e-6)
        k = offsets[i]
        for y in range(crops[i, 1], crops[i, 3]):
            v = (y + 0.5 - y0) * step_y - 0.5
            top = int(np.floor(v))
            fy = v - top
            for x in range(crops[i, 0], crops[i, 2]):
                u = (x + 0.5 - x0) * step_x - 0.5
                left = int(np.floor(u))
                fx = u - left
                value = 0.0
                if 0 <= top < side:
                    if 0 <= left < side:
                        value += masks[i, top, left] * (1 - fx) * (1 - fy)
                    if 0 <= left + 1 < side:
                        value += masks[i, top, left + 1] * fx * (1 - fy)
                if 0 <= top + 1 < side:
                    if 0 <= left < side:
                        value += masks[i, top + 1, left] * (1 - fx) * fy
                    if 0 <= left + 1 < side:
                        value += masks[i, top + 1, left + 1] * fx * fy
                pixels[k] = np.uint8(min(max(value, 0.0), 1.0) * 255 + 0.5)
                k += 1
