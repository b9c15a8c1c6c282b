"""Label images to crops and back."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.masks.flat import Boxes, Flat, Ints, Pixels, Size, as_flat, offsets_of, solid

Labels = npt.NDArray[np.int32]


@njit(cache=True, nogil=True)
def _label_boxes(labels, boxes):  # type: ignore[no-untyped-def]
    """Boxes of labels 1 … n; x1 = 0 where a label does not occur."""
    height, width = labels.shape
    boxes[:, 0], boxes[:, 1] = width, height
    boxes[:, 2], boxes[:, 3] = 0, 0
    for y in range(height):
        row = labels[y]
        x = 0
        while x < width:
            label, first = row[x], x
            while x < width and row[x] == label:
                x += 1
            if label > 0:
                i = label - 1
                boxes[i, 0] = min(boxes[i, 0], first)
                boxes[i, 1] = min(boxes[i, 1], y)
                boxes[i, 2] = max(boxes[i, 2], x)
                boxes[i, 3] = y + 1


@njit(cache=True, nogil=True)
def _cut_out(labels, values, boxes, offsets, pixels):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        p, value = offsets[i], values[i]
        for y in range(boxes[i, 1], boxes[i, 3]):
            row = labels[y, boxes[i, 0] : boxes[i, 2]]
            out = pixels[p : p + row.size]
            for k in range(row.size):
                out[k] = row[k] == value
            p += row.size


@njit(cache=True, nogil=True)
def _paint(boxes, pixels, offsets, order, cut, planes, labels):  # type: ignore[no-untyped-def]
    """Paint the rows of ``order`` on their plane of labels (k, h, w); later ones paint over."""
    for i in order:
        p, label = offsets[i], np.int32(i + 1)
        for y in range(boxes[i, 1], boxes[i, 3]):
            out = labels[planes[i], y, boxes[i, 0] : boxes[i, 2]]
            row = pixels[p : p + out.size]
            for k in range(out.size):
                out[k] = label if row[k] >= cut else out[k]
            p += out.size


@njit(cache=True, nogil=True)
def _colour(i, j, starts, n):  # type: ignore[no-untyped-def]
    """First-fit colours of a graph: ``j[starts[i]:starts[i + 1]]`` are the neighbours of i."""
    colours = np.full(n, -1, np.int32)
    last_use = np.full(n + 1, -1, np.int64)
    for row in i:
        for k in range(starts[row], starts[row + 1]):
            if colours[j[k]] >= 0:
                last_use[colours[j[k]]] = row
        colour = 0
        while last_use[colour] == row:
            colour += 1
        colours[row] = colour
    return colours


def labels_to_crops(labels: npt.NDArray[np.integer]) -> tuple[Flat, Ints]:
    """Crops of the labels other than 0 of an image (h, w), and the labels, sorted, int64 (n,).

    Raises:
        ValueError: the image is not 2-D of integers, or has negative labels.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise ValueError(f"labels are integers (h, w), not {labels.dtype} {labels.shape}")
    if labels.size and labels.min() < 0:
        raise ValueError(f"labels are not negative, but one is {labels.min()}")
    values = None
    if labels.size and labels.max() > 2 * labels.size:  # wide numbers: no table of that size
        values, places = np.unique(labels, return_inverse=True)
        labels = places.reshape(labels.shape) + (values[0] != 0)
        values = values[values != 0]
    image = solid(labels, np.int32)
    boxes = np.zeros((int(image.max(initial=0)), 4), np.int32)
    _label_boxes(image, boxes)
    present = np.flatnonzero(boxes[:, 2])
    boxes = boxes[present]
    offsets = offsets_of(boxes)
    pixels = pixels_of_labels(image, boxes, offsets, present + 1)
    found = present + 1 if values is None else values.astype(np.int64)
    return Flat(boxes, pixels, offsets), found


def pixels_of_labels(
    labels: Labels, boxes: Boxes, offsets: Ints, values: Ints | None = None
) -> Pixels:
    """Pixels 0/1 of n crops: where the label image has the label of the crop.

    Args:
        labels: int32 (h, w)
        boxes: int32 (n, 4) of the crops
        offsets: int64 (n + 1,) of the crops
        values: (n,) label of each crop; row + 1 by default
    """
    if values is None:
        values = np.arange(1, len(boxes) + 1)
    pixels = np.empty(offsets[-1], np.uint8)
    _cut_out(labels, values.astype(np.int32), boxes, offsets, pixels)
    return pixels


def crops_to_labels(
    boxes: Boxes, pixels: Pixels, offsets: Ints, size: Size, order: Ints, cut: int = 1
) -> Labels:
    """Label image int32 (h, w): row + 1; of rows that share a pixel the first in order has it.

    Args:
        order: int64 rows, the first one first; rows that are not in it are left out
        cut: pixels of at least this value are inside
    """
    labels = np.zeros((1, *size), np.int32)
    rows = np.ascontiguousarray(np.asarray(order, np.int64)[::-1])
    planes = np.zeros(len(boxes), np.int32)
    _paint(*as_flat(boxes, pixels, offsets), rows, np.uint8(cut), planes, labels)
    return labels[0]


def crops_to_layers(
    boxes: Boxes,
    pixels: Pixels,
    offsets: Ints,
    size: Size,
    pairs: Sequence[npt.NDArray[np.integer]],
    cut: int = 1,
) -> npt.NDArray[np.int32]:
    """Label planes int32 (k, h, w), row + 1, such that masks of a plane share no pixel.

    Args:
        pairs: rows i and j of the masks that share pixels (``overlap.intersections``)
        cut: pixels of at least this value are inside
    """
    n = len(boxes)
    one, two = (np.asarray(side, np.int64) for side in pairs[:2])
    source, target = np.concatenate([one, two]), np.concatenate([two, one])
    by_source = np.argsort(source, kind="stable")
    degrees = np.bincount(source, minlength=n)
    starts = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    # Masks with the most partners choose first: that keeps the number of planes low.
    order = np.argsort(-degrees, kind="stable")
    planes = _colour(order, target[by_source], starts, n)
    labels = np.zeros((int(planes.max(initial=0)) + 1, *size), np.int32)
    _paint(*as_flat(boxes, pixels, offsets), order, np.uint8(cut), planes, labels)
    return labels
