"""What dense families share: running a network over a scaled image, and soft masks."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor, nn

from somaseg.instances import Instances
from somaseg.models.base import Gray, Maps
from somaseg.models.device import predicting


def run_scaled(
    network: nn.Module,
    gray: Gray,
    scale: float,
    multiple: int,
    run: Callable[[Tensor], Tensor] | None = None,
) -> Maps:
    """Run a network on an enlarged or reduced image; return its maps on the image's own pixels.

    Args:
        network: (b, n, h', w') to (b, c, h' / s, w' / s) for any stride s.
        gray: float32 (h, w), n = 1, or (h, w, n).
        scale: network pixels per image pixel.
        multiple: the network's sides are padded, by mirroring, to multiples of it.
        run: what runs in its place, if anything.

    Returns:
        float32 (c, h, w).
    """
    return run_scaled_each(network, [gray], scale, multiple, run)[0]


def run_scaled_each(
    network: nn.Module,
    grays: Sequence[Gray],
    scale: float,
    multiple: int,
    run: Callable[[Tensor], Tensor] | None = None,
) -> list[Maps]:
    """Run a network on images of one shape at once; else as :func:`run_scaled`."""
    enlarged = [enlarge(gray, scale, multiple) for gray in grays]
    padded = np.stack([image for image, _ in enlarged])
    height, width = enlarged[0][1]
    device = next(network.parameters()).device
    with predicting(device):
        image = as_batch(padded).to(device).to(memory_format=torch.channels_last)
        out = (run or network)(image).float().cpu().numpy()
    # Crop the padding at the maps' own stride, then bring what is left to the image's pixels.
    extent = (height * out.shape[2] / padded.shape[1], width * out.shape[3] / padded.shape[2])
    sizes = [(gray.shape[0], gray.shape[1]) for gray in grays]
    return [resize_maps(maps, size, extent) for maps, size in zip(out, sizes, strict=True)]


def as_batch(images: npt.NDArray[np.float32]) -> Tensor:
    """Prepared images (b, h, w) or (b, h, w, n) as networks take them: (b, 1 or n, h, w)."""
    batch = torch.from_numpy(images)
    return batch[:, None] if batch.ndim == 3 else batch.permute(0, 3, 1, 2)


def enlarge(gray: Gray, scale: float, multiple: int) -> tuple[Gray, tuple[int, int]]:
    """Enlarge or reduce an image, and pad it at the bottom and the right by mirroring.

    Args:
        gray: float32 (h, w) or (h, w, n).
        scale: pixels of the result per pixel of the image.
        multiple: the result's sides are multiples of it.

    Returns:
        the image (h', w') or (h', w', n), and the height and width of the part of it that is no
        padding.
    """
    h, w = gray.shape[:2]
    height, width = max(round(h * scale), 1), max(round(w * scale), 1)
    shrinks = scale < 1
    resized = cv2.resize(
        gray, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    bottom, right = -height % multiple, -width % multiple
    padded = cv2.copyMakeBorder(resized, 0, bottom, 0, right, cv2.BORDER_REFLECT)
    return padded.astype(np.float32, copy=False), (height, width)


def resize_maps(maps: Maps, size: tuple[int, int], extent: tuple[float, float]) -> Maps:
    """Resample maps (c, h', w') bilinearly to ``size``; ``extent`` is the part of them it covers.

    The extent may be fractional: a padded border must not move the pixels by parts of one.
    """
    step_y, step_x = extent[0] / size[0], extent[1] / size[1]
    to_maps = np.array([[step_x, 0, step_x / 2 - 0.5], [0, step_y, step_y / 2 - 0.5]], np.float64)
    out = np.empty((len(maps), *size), np.float32)
    for channel, target in zip(maps, out, strict=True):
        cv2.warpAffine(
            channel,
            to_maps,
            size[::-1],
            target,
            cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            cv2.BORDER_REPLICATE,
        )
    return out


def soften(
    labels: npt.NDArray[np.int32],
    probability: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int16],
    names: Sequence[str],
) -> Instances:
    """Make soft instances of labels 1..n, each pixel with its cell probability.

    Args:
        labels: int32 (h, w) with all of 1..n.
        probability: float32 (h, w), 0..1.
        scores: float32 (n,).
        classes: int16 (n,).
        names: class names.
    """
    hard = Instances.from_labels(labels, scores=scores, classes=classes, names=tuple(names))
    levels = np.clip(probability * 255 + 0.5, 1, 255).astype(np.uint8)
    pixels = _levels(hard.boxes, hard.pixels, hard.offsets, levels)
    return hard.replace(pixels=pixels, soft=True)


def cell_means(
    labels: npt.NDArray[np.int32], maps: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Mean of each map over each cell.

    Args:
        labels: int32 (h, w), cells 1..n.
        maps: float32 (c, h, w).

    Returns:
        float32 (n, c).
    """
    flat = labels.ravel()
    n = int(flat.max(initial=0))
    area = np.maximum(np.bincount(flat, minlength=n + 1)[1:], 1)
    sums = [np.bincount(flat, weights=m.ravel(), minlength=n + 1)[1:] / area for m in maps]
    return np.stack(sums, axis=1).astype(np.float32).reshape(n, len(maps))


@njit(cache=True, nogil=True)
def _levels(
    boxes: np.ndarray, pixels: np.ndarray, offsets: np.ndarray, levels: np.ndarray
) -> np.ndarray:
    out = np.zeros_like(pixels)
    for i in range(len(boxes)):
        at = offsets[i]
        for y in range(boxes[i, 1], boxes[i, 3]):
            for x in range(boxes[i, 0], boxes[i, 2]):
                if pixels[at]:
                    out[at] = levels[y, x]
                at += 1
    return out
