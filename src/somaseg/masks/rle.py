"""Run-length encodings: the competition's text here, COCO counts and polygons beside it.

Competition: ``"start length start length …"``, starts from 1, pixels numbered along the rows.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.errors import SomasegError
from somaseg.masks import runs as _runs
from somaseg.masks.coco import (
    coco_counts_to_crop,
    compress_counts,
    crop_to_coco_counts,
    crops_to_counts,
    decompress_counts,
)
from somaseg.masks.flat import Boxes, Flat, Ints, Pixels, Size, as_flat, from_crops
from somaseg.masks.polygons import polygon_to_crop

__all__ = [
    "coco_counts_to_crop",
    "compress_counts",
    "crop_to_coco_counts",
    "crop_to_runs",
    "crops_to_counts",
    "crops_to_texts",
    "decompress_counts",
    "find_faults",
    "parse_runs",
    "polygon_to_crop",
    "runs_to_crop",
    "runs_to_crops",
    "runs_to_text",
]

Runs = str | npt.NDArray[np.integer]
"""The runs of one mask: text, or an integer array (k, 2) of starts from 1 and lengths."""

_TOO_LARGE = 1 << 59  # larger numbers are read as this: outside of any image


@njit(cache=True, nogil=True)
def _parse(text, bounds, numbers, number_bounds, faults, at):  # type: ignore[no-untyped-def]
    m = 0
    for i in range(bounds.size - 1):
        p, stop = bounds[i], bounds[i + 1]
        first = m
        while p < stop:
            if text[p] == 32 or 9 <= text[p] <= 13:
                p += 1
                continue
            negative = text[p] == 45  # "-"
            if negative:
                p += 1
            digits = p
            value = 0
            while p < stop and 48 <= text[p] <= 57:
                value = min(value * 10 + (text[p] - 48), _TOO_LARGE)
                p += 1
            if p == digits or (p < stop and text[p] != 32 and not 9 <= text[p] <= 13):
                faults[i] = _runs.NOT_A_NUMBER
                at[i] = m - first
                m = first
                break
            numbers[m] = -value if negative else value
            m += 1
        if (m - first) % 2 == 1:
            faults[i] = _runs.ODD
            at[i] = m - first
            m = first
        number_bounds[i + 1] = m


@njit(cache=True, nogil=True)
def _write(runs, bounds, text, text_bounds):  # type: ignore[no-untyped-def]
    p = 0
    for i in range(bounds.size - 1):
        for k in range(bounds[i], bounds[i + 1]):
            for c in range(2):
                value = runs[k, c] + 1 - c
                digits, rest = 1, value // 10
                while rest > 0:
                    digits += 1
                    rest //= 10
                for d in range(digits):
                    text[p + digits - 1 - d] = 48 + value % 10
                    value //= 10
                text[p + digits] = 32
                p += digits + 1
        text_bounds[i + 1] = p


class _Read:
    """The runs of n masks (0-based, (m, 2)), their bounds and the fault of each mask."""

    def __init__(self, masks: Sequence[Runs]) -> None:
        n = len(masks)
        self.texts = [m if isinstance(m, str) else _array_text(m, i) for i, m in enumerate(masks)]
        self.faults = np.zeros(n, np.int64)
        self.at = np.zeros(n, np.int64)
        # Other characters become one "?" each: the places stay, and "?" is no number.
        text = np.frombuffer("".join(self.texts).encode("ascii", "replace"), np.uint8)
        text_bounds = np.zeros(n + 1, np.int64)
        np.cumsum([len(text) for text in self.texts], out=text_bounds[1:])
        numbers = np.empty(len(text) // 2 + n + 1, np.int64)
        number_bounds = np.zeros(n + 1, np.int64)
        _parse(text, text_bounds, numbers, number_bounds, self.faults, self.at)
        self.runs = numbers[: number_bounds[-1]].reshape(-1, 2)
        self.runs[:, 0] -= 1
        self.bounds = number_bounds // 2

    def check(self, size: Size) -> None:
        """Find faults; sort the runs of masks where they are in disorder."""
        _runs.check(self.runs, self.bounds, size[0] * size[1], self.faults, self.at)
        for i in np.flatnonzero(self.faults == _runs.UNSORTED):
            a, b = self.bounds[i], self.bounds[i + 1]
            runs = self.runs[a:b]
            runs[:] = runs[np.argsort(runs[:, 0], kind="stable")]
            early = np.flatnonzero(runs[1:, 0] < runs[:-1, 0] + runs[:-1, 1])
            self.faults[i] = _runs.OVERLAPPING if len(early) else 0
            self.at[i] = a + early[0] + 1 if len(early) else 0

    def reason(self, i: int, size: Size) -> str:
        """What is wrong with mask ``i``, in words."""
        fault, at = self.faults[i], int(self.at[i])
        if fault == _runs.NOT_A_NUMBER:
            word = _words(self.texts[i])[at]
            return f"{word[:20]!r} (number {at + 1}) is not a whole number"
        if fault == _runs.ODD:
            return f"{at} numbers, an odd count; runs are pairs of start and length"
        if fault == _runs.EMPTY:
            return "the mask is empty"
        start, length = int(self.runs[at, 0]) + 1, int(self.runs[at, 1])
        run = f"run {start} {length}"
        if fault == _runs.BAD_START:
            return f"{run}: starts count from 1"
        if fault == _runs.BAD_LENGTH:
            return f"{run}: a length is at least 1"
        if fault == _runs.OUTSIDE:
            height, width = size
            return (
                f"{run} ends outside the image, which has {height * width} pixels "
                f"({width} x {height})"
            )
        before = f"{int(self.runs[at - 1, 0]) + 1} {int(self.runs[at - 1, 1])}"
        return f"{run} overlaps run {before} of the same mask"


def _array_text(runs: npt.NDArray[np.integer], i: int) -> str:
    try:
        array = np.asarray(runs)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.shape[1:] != (2,) or (array.dtype.kind not in "iu" and array.size):
        raise SomasegError(
            f"mask {i}: runs are text or an integer array (k, 2) of starts and lengths, "
            f"not {array.dtype} {array.shape}"
        )
    return runs_to_text(array)


def _words(text: str) -> list[str]:
    """Split at the blanks that ``_parse`` knows; ``str.split`` knows more."""
    return re.split(r"[ \t-\r]+", text.strip(" \t\n\v\f\r"))


def find_faults(masks: Sequence[Runs], size: Size) -> dict[int, str]:
    """What is wrong with the masks of one image: row -> reason; nothing if all are sound.

    Faults are: not a number, an odd count, an empty mask, a start below 1, a length below 1, a
    run that leaves the image, runs of one mask that overlap. Runs in disorder are fine.
    """
    read = _Read(masks)
    read.check(size)
    return {int(i): read.reason(int(i), size) for i in np.flatnonzero(read.faults)}


def parse_runs(text: str) -> Ints:
    """Numbers of one competition string as int64 (k, 2): start from 1, length.

    An empty string gives (0, 2). Whether the runs fit an image is checked by
    ``runs_to_crop`` and ``find_faults``.

    Raises:
        SomasegError: something in it is no whole number, or their count is odd.
    """
    read = _Read([text])
    if read.faults[0]:
        raise SomasegError(read.reason(0, (0, 0)))
    read.runs[:, 0] += 1
    return read.runs


def runs_to_text(runs: npt.NDArray[np.integer]) -> str:
    """Competition string of runs (k, 2), starts from 1."""
    return " ".join(map(str, np.asarray(runs).ravel().tolist()))


def runs_to_crops(masks: Sequence[Runs], size: Size) -> Flat:
    """Decode all masks of one image of ``size`` (height, width); the boxes are tight.

    Raises:
        SomasegError: a mask is faulty (see ``find_faults``); names the first one and the fault.
    """
    read = _Read(masks)
    read.check(size)
    bad = np.flatnonzero(read.faults)
    if len(bad):
        others = f" (and {len(bad) - 1} more faulty masks)" if len(bad) > 1 else ""
        raise SomasegError(f"mask {bad[0]}: {read.reason(int(bad[0]), size)}{others}")
    return _runs.decode(read.runs, read.bounds, size)


def crops_to_texts(boxes: Boxes, pixels: Pixels, offsets: Ints, size: Size) -> list[str]:
    """Competition strings of n masks: runs sorted and as long as can be."""
    runs, bounds = _runs.encode(as_flat(boxes, pixels, offsets), size)
    digits = len(str(size[0] * size[1]))
    text = np.empty(2 * (digits + 1) * len(runs), np.uint8)
    text_bounds = np.zeros(len(bounds), np.int64)
    _write(runs, bounds, text, text_bounds)
    whole = text[: text_bounds[-1]].tobytes().decode("ascii")
    ends = text_bounds.tolist()
    return [whole[a : max(a, b - 1)] for a, b in itertools.pairwise(ends)]


def runs_to_crop(runs: Runs, size: Size) -> tuple[Boxes, Pixels]:
    """Tight box int32 (4,) and crop uint8 (h, w) of one mask.

    Raises:
        SomasegError: the mask is faulty (see ``find_faults``).
    """
    for reason in find_faults([runs], size).values():
        raise SomasegError(reason)
    boxes, pixels, _ = runs_to_crops([runs], size)
    x0, y0, x1, y1 = boxes[0]
    return boxes[0], pixels.reshape(y1 - y0, x1 - x0)


def crop_to_runs(crop: npt.NDArray, box: npt.ArrayLike, size: Size) -> Ints:
    """Runs int64 (k, 2), starts from 1, of one crop (h, w) at ``box`` x0 y0 x1 y1."""
    runs, _ = _runs.encode(from_crops(np.asarray(box).reshape(1, 4), [crop != 0]), size)
    runs[:, 0] += 1
    return runs
