"""Checks of what instances are made of; every fault is one line that says what to do."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from somaseg.errors import SomasegError
from somaseg.masks.flat import Boxes, Flat, Size, offsets_of, solid


def checked_array(
    name: str, values: npt.ArrayLike, dtype: Any, kinds: str, ndim: int
) -> npt.NDArray:
    """``values`` in the one layout that the kernels know, if their kind can be kept."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in kinds:
        raise SomasegError(f"instances: {name} must be {np.dtype(dtype)}, not {array.dtype}")
    if array.ndim != ndim:
        raise SomasegError(f"instances: {name} must have {ndim} dimensions, not {array.ndim}")
    if array.dtype != dtype and array.dtype.kind in "iu" and dtype != np.float32 and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise SomasegError(f"instances: {name} do not fit {np.dtype(dtype)}")
    return solid(array, dtype)


def checked_size(size: Size) -> Size:
    """``size`` as two whole numbers, not negative."""
    height, width = (int(side) for side in size)
    if height < 0 or width < 0:
        raise SomasegError(f"instances: the image size {size} is negative")
    if max(height, width) > np.iinfo(np.int32).max:
        raise SomasegError(f"instances: a side of the image size {size} is beyond 2147483647")
    return height, width


def checked_boxes(boxes: npt.ArrayLike, size: Size) -> Boxes:
    """``boxes`` as int32 (n, 4), each at least a pixel large and inside the image."""
    array: Boxes = checked_array("boxes", boxes, np.int32, "iu", 2)
    if array.shape[1] != 4:
        raise SomasegError(f"instances: boxes are (n, 4), not {array.shape}")
    height, width = size
    x0, y0, x1, y1 = array.T
    bad = (x0 < 0) | (y0 < 0) | (x1 <= x0) | (y1 <= y0) | (x1 > width) | (y1 > height)
    if bad.any():
        i = int(bad.argmax())
        numbers = " ".join(map(str, array[i].tolist()))
        raise SomasegError(
            f"instances: box {i} (x0 y0 x1 y1 = {numbers}) is empty or leaves the image of "
            f"{width} x {height}"
        )
    return array


def checked_flat(flat: Flat, size: Size, soft: bool) -> Flat:
    """``flat`` with sound boxes, offsets that follow from them, and pixels 0/1 unless soft."""
    boxes = checked_boxes(flat.boxes, size)
    offsets = checked_array("offsets", flat.offsets, np.int64, "iu", 1)
    pixels = checked_array("pixels", flat.pixels, np.uint8, "ub", 1)
    expected = offsets_of(boxes)
    if not np.array_equal(offsets, expected):
        raise SomasegError(
            f"instances: offsets of {len(boxes)} boxes are {len(expected)} numbers, "
            "the running sums of the box areas"
        )
    if len(pixels) != expected[-1]:
        raise SomasegError(f"instances: {len(pixels)} pixels, but the boxes cover {expected[-1]}")
    if not soft and pixels.max(initial=0) > 1:
        raise SomasegError(
            "instances: pixels of hard masks are 0 or 1; for probabilities give soft=True"
        )
    return Flat(boxes, pixels, offsets)


def checked_scores(scores: npt.ArrayLike, n: int) -> npt.NDArray[np.float32]:
    """``scores`` as float32 (n,), all of them numbers."""
    array = checked_array("scores", scores, np.float32, "fiub", 1)
    if len(array) != n:
        raise SomasegError(f"instances: {len(array)} scores for {n} boxes")
    if np.isnan(array).any():
        raise SomasegError(f"instances: score {int(np.isnan(array).argmax())} is not a number")
    return array


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` as a tuple, none twice."""
    if isinstance(names, str):
        raise SomasegError(f"instances: names are a list of names, not the text {names!r}")
    names = tuple(names)
    if len(set(names)) < len(names):
        raise SomasegError(f"instances: a class name occurs twice in {names}")
    return names


def checked_classes(
    classes: npt.ArrayLike, n: int, names: tuple[str, ...]
) -> npt.NDArray[np.int16]:
    """``classes`` as int16 (n,), each an index into ``names`` or -1."""
    array = checked_array("classes", classes, np.int16, "iu", 1)
    if len(array) != n:
        raise SomasegError(f"instances: {len(array)} classes for {n} boxes")
    if n and (array.min() < -1 or array.max() >= len(names)):
        raise SomasegError(
            f"instances: classes {array.min()} … {array.max()} do not index the {len(names)} "
            f"names {names}; -1 is unknown"
        )
    return array
