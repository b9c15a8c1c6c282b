"""COCO run-length counts: column by column, zeros first; and their compressed text.

Format: pycocotools' ``maskApi``. Counts alternate between outside and inside, beginning with
outside (which may be 0). In the text every count from the fourth on is written as its difference
to the count two before; numbers go five bits a character from the low end, bit 32 says that more
follow, the top bit of the last five is the sign, and 48 is added to make the character printable.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.errors import SomasegError
from somaseg.masks import runs as _runs
from somaseg.masks.flat import Boxes, Flat, Ints, Pixels, Size, as_flat, from_crops, solid

Counts = str | bytes | Sequence[int] | npt.NDArray[np.integer]


@njit(cache=True, nogil=True)
def _compress(counts, bounds, text, text_bounds):  # type: ignore[no-untyped-def]
    p = 0
    for i in range(bounds.size - 1):
        for k in range(bounds[i], bounds[i + 1]):
            value = counts[k]
            if k - bounds[i] > 2:
                value -= counts[k - 2]
            more = True
            while more:
                low = value & 31
                value >>= 5
                more = value != (-1 if low & 16 else 0)
                text[p] = (low | 32 if more else low) + 48
                p += 1
        text_bounds[i + 1] = p


@njit(cache=True, nogil=True)
def _decompress(text, counts):  # type: ignore[no-untyped-def]
    """Number of counts, or -1 - place of the character that cannot be."""
    p = m = 0
    while p < text.size:
        value, shift = np.int64(0), 0
        more = True
        while more:
            if p == text.size or text[p] < 48 or text[p] > 111 or shift > 55:
                return -1 - p
            low = np.int64(text[p]) - 48
            value |= (low & 31) << shift
            shift += 5
            more = (low & 32) != 0
            p += 1
            if not more and low & 16:
                value |= np.int64(-1) << shift
        if m > 2:
            value += counts[m - 2]
        counts[m] = value
        m += 1
    return m


@njit(cache=True, nogil=True)
def _inside(counts, total, runs):  # type: ignore[no-untyped-def]
    """Runs of the pixels inside; return how many, or -1 if the counts do not fit ``total``."""
    place, m = 0, 0
    for k in range(counts.size):
        if counts[k] < 0 or counts[k] > total - place:
            return -1
        if k % 2 == 1 and counts[k] > 0:
            runs[m, 0], runs[m, 1] = place, counts[k]
            m += 1
        place += counts[k]
    return m if place == total else -1


@njit(cache=True, nogil=True)
def _gaps(runs, bounds, total, counts, count_bounds):  # type: ignore[no-untyped-def]
    m = 0
    for i in range(bounds.size - 1):
        end = 0
        for k in range(bounds[i], bounds[i + 1]):
            counts[m] = runs[k, 0] - end
            counts[m + 1] = runs[k, 1]
            end = runs[k, 0] + runs[k, 1]
            m += 2
        if end < total:
            counts[m] = total - end
            m += 1
        count_bounds[i + 1] = m


def decompress_counts(text: str | bytes) -> Ints:
    """Counts int64 (k,) of COCO's compressed text.

    Raises:
        SomasegError: the text holds a character that cannot be, or ends within a number.
    """
    raw = text.encode("utf-8") if isinstance(text, str) else bytes(text)
    counts = np.empty(len(raw), np.int64)
    m = _decompress(np.frombuffer(raw, np.uint8), counts)
    if m < 0:
        place = -1 - m
        what = (
            "end within a number"
            if place == len(raw)
            else f"have an impossible character at {place + 1}"
        )
        raise SomasegError(f"the compressed counts {what}; is the text whole?")
    return counts[:m].copy()


def compress_counts(counts: Sequence[int] | npt.NDArray[np.integer]) -> str:
    """COCO's compressed text of counts."""
    array = solid(counts, np.int64)
    return _texts(array, np.array([0, len(array)], np.int64))[0]


def coco_counts_to_crop(counts: Counts, size: Size) -> tuple[Boxes, Pixels]:
    """Tight box int32 (4,) and crop uint8 (h, w) of one mask from its counts, text or numbers.

    Raises:
        SomasegError: the text is broken, a count is negative, the counts do not sum up to the
            image, or the mask is empty.
    """
    if isinstance(counts, str | bytes):
        counts = decompress_counts(counts)
    try:
        array = np.asarray(counts)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise SomasegError("the counts are not a list of whole numbers")
    height, width = size
    runs = np.empty((len(array) // 2, 2), np.int64)
    m = _inside(solid(array, np.int64), height * width, runs)
    if m < 0:
        if (array < 0).any():
            raise SomasegError(f"the counts hold a negative number ({array.min()})")
        total = sum(array.tolist())  # of Python: never too large
        raise SomasegError(
            f"the counts sum up to {total} pixels but the image has {height * width} "
            f"({width} x {height})"
        )
    if m == 0:
        raise SomasegError("the mask is empty")
    boxes, pixels, _ = _runs.decode(runs[:m], np.array([0, m], np.int64), size, columns=True)
    x0, y0, x1, y1 = boxes[0].tolist()
    return boxes[0], pixels.reshape(y1 - y0, x1 - x0)


def crops_to_counts(boxes: Boxes, pixels: Pixels, offsets: Ints, size: Size) -> list[str]:
    """Compressed COCO counts of n masks in an image of ``size`` (height, width)."""
    return _texts(*_counts(as_flat(boxes, pixels, offsets), size))


def crop_to_coco_counts(crop: npt.NDArray, box: npt.ArrayLike, size: Size) -> Ints:
    """Plain COCO counts int64 (k,) of one crop (h, w) at ``box`` x0 y0 x1 y1."""
    return _counts(from_crops(np.asarray(box).reshape(1, 4), [crop != 0]), size)[0]


def _counts(flat: Flat, size: Size) -> tuple[Ints, Ints]:
    runs, bounds = _runs.encode(flat, size, columns=True)
    counts = np.empty(2 * len(runs) + len(bounds), np.int64)
    count_bounds = np.zeros(len(bounds), np.int64)
    _gaps(runs, bounds, size[0] * size[1], counts, count_bounds)
    return counts[: count_bounds[-1]].copy(), count_bounds


def _texts(counts: Ints, bounds: Ints) -> list[str]:
    text = np.empty(13 * len(counts), np.uint8)  # 64 bits are 13 characters at most
    text_bounds = np.zeros(len(bounds), np.int64)
    _compress(counts, bounds, text, text_bounds)
    whole = text[: text_bounds[-1]].tobytes().decode("ascii")
    ends = text_bounds.tolist()
    return [whole[a:b] for a, b in itertools.pairwise(ends)]
