"""The flat form of n cropped masks: three arrays, of always the same dtype and layout.

boxes:   int32 (n, 4), x0 y0 x1 y1, half open, in pixels
pixels:  uint8 (sum of the box areas,), the crops row by row, one after the other
offsets: int64 (n + 1,), crop i is ``pixels[offsets[i]:offsets[i + 1]]``

The kernels take a row of a crop as a slice and count within it: numba then knows that no index is
negative, and the innermost loops are vectorised. That makes them two to three times as fast.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from somaseg.limits import check_masks

Bools = npt.NDArray[np.bool_]
Boxes = npt.NDArray[np.int32]
Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Size = tuple[int, int]


class Flat(NamedTuple):
    """The three arrays of n cropped masks."""

    boxes: Boxes
    pixels: Pixels
    offsets: Ints


class Masks(Protocol):
    """What the functions that take two sets of masks need of them (``Instances`` has it)."""

    @property
    def boxes(self) -> Boxes: ...  # noqa: D102

    @property
    def pixels(self) -> Pixels: ...  # noqa: D102

    @property
    def offsets(self) -> Ints: ...  # noqa: D102

    @property
    def soft(self) -> bool: ...  # noqa: D102


def solid(values: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """``values`` as an aligned, contiguous, writable array; copied only if it is not one yet.

    numba compiles a kernel anew for each other layout, and for read-only arrays.
    """
    return np.require(values, dtype, ["C", "A", "W"])


def as_flat(boxes: npt.ArrayLike, pixels: npt.ArrayLike, offsets: npt.ArrayLike) -> Flat:
    """Bring the arrays to the one layout that the kernels are compiled for (see ``solid``)."""
    return Flat(
        solid(boxes, np.int32).reshape(-1, 4),
        solid(pixels, np.uint8),
        solid(offsets, np.int64),
    )


def offsets_of(boxes: Boxes) -> Ints:
    """Offsets int64 (n + 1,) of crops that fill ``boxes`` (n, 4)."""
    sides = boxes.astype(np.int64)
    offsets = np.zeros(len(boxes) + 1, np.int64)
    np.cumsum((sides[:, 2] - sides[:, 0]) * (sides[:, 3] - sides[:, 1]), out=offsets[1:])
    check_masks(int(offsets[-1]))
    return offsets


def from_crops(boxes: npt.ArrayLike, crops: Sequence[npt.NDArray]) -> Flat:
    """Join crops (2-D, uint8 or bool) that fill ``boxes`` (n, 4).

    Raises:
        ValueError: boxes or crops are not of integers, or a crop has not the shape of its box.
    """
    boxes = np.asarray(boxes)
    if boxes.size and boxes.dtype.kind not in "iu":
        raise ValueError(f"boxes are whole pixels, x0 y0 x1 y1, not {boxes.dtype}; round them")
    boxes = boxes.astype(np.int32).reshape(-1, 4)
    if len(boxes) != len(crops):
        raise ValueError(f"{len(boxes)} boxes but {len(crops)} crops; give one crop for each box")
    for i, (crop, (x0, y0, x1, y1)) in enumerate(zip(crops, boxes.tolist(), strict=True)):
        if crop.dtype not in (np.uint8, np.bool_):
            raise ValueError(f"crop {i} is {crop.dtype}; crops are uint8 or bool")
        if crop.shape != (y1 - y0, x1 - x0):
            raise ValueError(
                f"crop {i} has shape {crop.shape} but its box {x0, y0, x1, y1} needs "
                f"{y1 - y0, x1 - x0}"
            )
    flat = [crop.view(np.uint8).ravel() for crop in map(np.ascontiguousarray, crops)]
    pixels = np.concatenate(flat) if flat else np.zeros(0, np.uint8)
    return Flat(boxes, pixels, offsets_of(boxes))


def cut_of(soft: bool) -> int:
    """Smallest pixel value that is inside: 1 of hard masks; 128, above a half, of soft ones."""
    return 128 if soft else 1
