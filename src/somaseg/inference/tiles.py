"""Maps of images too large for one pass: overlapping tiles, blended."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from somaseg.models.base import Gray, Maps


def tiled_maps(
    run: Callable[[Gray], Maps], gray: Gray, tile: int = 1024, overlap: int = 128
) -> Maps:
    """Compute maps tile by tile; where tiles overlap, the one further from its edge weighs more.

    Args:
        run: maps (c, h, w) of an image (h, w).
        gray: float32 (h, w).
        tile: side of a tile in image pixels; an image not larger is run whole.
        overlap: of neighbouring tiles, in pixels; wider than a cell and than the network's view
            keeps the seams invisible.

    Returns:
        float32 (c, h, w).

    Raises:
        ValueError: the overlap leaves no progress from tile to tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap {overlap} must be less than the tile, {tile}")
    h, w = gray.shape
    if max(h, w) <= tile:
        return run(gray)
    total: Maps | None = None
    weight = np.zeros((h, w), np.float32)
    for rows in spans(h, tile, overlap):
        for columns in spans(w, tile, overlap):
            part = run(np.ascontiguousarray(gray[rows, columns]))
            window = np.outer(ramp(rows, h, overlap), ramp(columns, w, overlap))
            if total is None:
                total = np.zeros((len(part), h, w), np.float32)
            total[:, rows, columns] += part * window
            weight[rows, columns] += window
    assert total is not None
    total /= weight
    return total


def spans(length: int, tile: int, overlap: int) -> Iterator[slice]:
    """Cut a side into tiles of equal size that overlap by at least ``overlap``."""
    if length <= tile:
        yield slice(0, length)
        return
    count = -(-(length - overlap) // (tile - overlap))
    for i in range(count):
        start = round(i * (length - tile) / (count - 1))
        yield slice(start, start + tile)


def ramp(span: slice, length: int, overlap: int) -> npt.NDArray[np.float32]:
    """Weights along a tile: rising over the overlap from each inner edge, else 1."""
    weights = np.ones(span.stop - span.start, np.float32)
    # Never 0, so that a pixel seen by one tile alone keeps its value.
    rise = (np.arange(overlap, dtype=np.float32) + 1) / (overlap + 1)
    rise = rise[: len(weights)]
    if span.start > 0:
        weights[: len(rise)] *= rise
    if span.stop < length:
        weights[-len(rise) :] *= rise[::-1]
    return weights
