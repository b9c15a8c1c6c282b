"""Run a network over an image as Cellpose does: in small tiles, blended where they overlap.

A network that averages over what it sees, as Cellpose's style does, or whose positions are learned,
as a vision transformer's, wants tiles of the size of its training crops. Every step here is that of
the package (``core.run_net`` of 3.1 and 4.2): with ``zeros``, the same network gives the same maps.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from somaseg.models.base import Gray, Maps
from somaseg.models.device import predicting

Run = Callable[[Tensor], Tensor]

PADDING = 16
"""Half of it is added at each edge; sides are padded to a multiple of it, or to the smallest."""
BATCH = 8
"""Tiles that go through the network at once."""


def run_tiled(
    network: Run,
    gray: Gray,
    scale: float,
    *,
    tile: int = 224,
    smallest: int = 0,
    overlap: float = 0.1,
    flip: bool = False,
    zeros: bool = False,
    device: torch.device | None = None,
) -> Maps:
    """Run a network on an enlarged or reduced image, tile by tile.

    Args:
        network: (b, n, t, t') to (b, c, t, t').
        gray: float32 (h, w), n = 1, or (h, w, n).
        scale: network pixels per image pixel.
        tile: largest side of a tile, in network pixels.
        smallest: sides are padded to at least this, in network pixels.
        overlap: of neighbouring tiles, as a share of the tile.
        flip: tiles overlap by half, and every other one is flipped; its flows, the first two maps,
            are turned back.
        zeros: pad with zeros, as the package does; else by mirroring, as training crops are.
        device: where the network is.

    Returns:
        float32 (c, h', w') on network pixels; h' is h · scale, rounded down.
    """
    h, w = network_size(gray.shape, scale)
    if (h, w) != gray.shape[:2]:
        gray = cv2.resize(gray, (w, h), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    (top, bottom), (left, right) = _padding(h, smallest), _padding(w, smallest)
    mode: Literal["constant", "symmetric"] = "constant" if zeros else "symmetric"
    planes = gray[None] if gray.ndim == 2 else np.moveaxis(gray, -1, 0)
    padded = np.pad(planes, ((0, 0), (top, bottom), (left, right)), mode)
    if flip:
        # Half-overlapping tiles are always whole ones.
        more = [(0, max(tile - side, 0)) for side in padded.shape[1:]]
        padded = np.pad(padded, [(0, 0), *more], mode)
    size = (padded.shape[1], padded.shape[2])
    # Odd columns are flipped upside down, odd rows left to right.
    places = [
        (y, x, flip and column % 2 == 1, flip and row % 2 == 1)
        for row, y in enumerate(_starts(size[0], tile, overlap, flip))
        for column, x in enumerate(_starts(size[1], tile, overlap, flip))
    ]
    height, width = min(tile, size[0]), min(tile, size[1])
    window = taper(height, width)
    total: Maps | None = None
    weight = np.zeros(size, np.float32)
    for at in range(0, len(places), BATCH):
        batch = places[at : at + BATCH]
        parts = np.stack(
            [_flip(padded[:, y : y + height, x : x + width], up, over) for y, x, up, over in batch]
        )
        with predicting(device or torch.device("cpu")):
            out = network(torch.from_numpy(parts).to(device)).float().cpu().numpy()
        if total is None:
            total = np.zeros((out.shape[1], *size), np.float32)
        for maps, (y, x, up, over) in zip(out, batch, strict=True):
            part = _flip(maps, up, over)
            if flip:
                part[0] *= -1 if up else 1
                part[1] *= -1 if over else 1
            total[:, y : y + height, x : x + width] += part * window
            weight[y : y + height, x : x + width] += window
    assert total is not None
    total /= weight
    return np.ascontiguousarray(total[:, top : top + h, left : left + w])


def network_size(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    """Return the sides (h', w') of an image in network pixels, rounded down as Cellpose does."""
    return max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)


def resize_bilinear(maps: Maps, size: tuple[int, int]) -> Maps:
    """Resize maps (c, h', w') to (c, *size)."""
    if maps.shape[1:] == size:
        return maps
    # One channel at a time: OpenCV takes at most four at once for some operations.
    return np.stack([cv2.resize(m, size[::-1], interpolation=cv2.INTER_LINEAR) for m in maps])


def taper(height: int, width: int, sigma: float = 7.5) -> npt.NDArray[np.float32]:
    """Weights of a tile: 1 within, falling off over the last 20 or so pixels to its edges."""
    side = max(224, height, width)
    from_middle = np.abs(np.arange(side) - (side - 1) / 2)
    fall = 1 / (1 + np.exp((from_middle - (side / 2 - 20)) / sigma))
    y, x = side // 2 - height // 2, side // 2 - width // 2
    return np.outer(fall[y : y + height], fall[x : x + width]).astype(np.float32)


def _padding(side: int, smallest: int) -> tuple[int, int]:
    """Pixels to add before and after a side."""
    extra = max(smallest - side - PADDING, 0) if side < smallest else -side % PADDING
    return PADDING // 2 + extra // 2, PADDING // 2 + extra - extra // 2


def _starts(side: int, tile: int, overlap: float, flip: bool) -> Iterator[int]:
    """Yield where tiles begin along a side."""
    if flip:
        count = max(2, int(np.ceil(2 * side / tile)))
    else:
        count = 1 if side <= tile else int(np.ceil((1 + 2 * overlap) * side / tile))
    yield from np.linspace(0, side - min(tile, side), count).astype(int).tolist()


def _flip(array: npt.NDArray[np.float32], up: bool, over: bool) -> npt.NDArray[np.float32]:
    """Flip the last two axes: upside down, left to right."""
    array = array[..., ::-1, :] if up else array
    return array[..., ::-1] if over else array
