"""Who owns a shared pixel, and which of two masks of one cell stays.

An order is one of the names below or an array of rows, the first one first (as ``np.argsort``
gives it; for an array of ranks, ``np.argsort(ranks)``).
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.masks import overlap, paste, pieces
from somaseg.masks.flat import Bools, Boxes, Flat, Ints, Masks, Pixels, Size, as_flat, cut_of, solid
from somaseg.masks.labels import crops_to_labels, pixels_of_labels

OrderName = Literal["smallest_first", "largest_first", "score"]
Order = OrderName | npt.NDArray[np.integer]


@njit(cache=True, nogil=True)
def _claim(labels, boxes, pixels, offsets, order):  # type: ignore[no-untyped-def]
    """Let the crops take, in order, the pixels that nobody owns; clear what others own."""
    for i in order:
        p, label = offsets[i], np.int32(i + 1)
        for y in range(boxes[i, 1], boxes[i, 3]):
            owner = labels[y, boxes[i, 0] : boxes[i, 2]]
            row = pixels[p : p + owner.size]
            for k in range(owner.size):
                if row[k] != 0:
                    if owner[k] == 0:
                        owner[k] = label
                    elif owner[k] != label:
                        row[k] = 0
            p += owner.size


@njit(cache=True, nogil=True)
def _suppress(order, i, j, iou, threshold):  # type: ignore[no-untyped-def]
    n = order.size
    starts = np.zeros(n + 1, np.int64)
    for k in range(i.size):
        if iou[k] > threshold:
            starts[i[k] + 1] += 1
            starts[j[k] + 1] += 1
    for r in range(n):
        starts[r + 1] += starts[r]
    partners = np.empty(starts[n], np.int64)
    place = starts[:n].copy()
    for k in range(i.size):
        if iou[k] > threshold:
            partners[place[i[k]]] = j[k]
            partners[place[j[k]]] = i[k]
            place[i[k]] += 1
            place[j[k]] += 1
    # 0 not seen yet, 1 kept, 2 suppressed
    state = np.zeros(n, np.uint8)
    for row in order:
        if state[row] == 2:
            continue
        state[row] = 1
        for p in range(starts[row], starts[row + 1]):
            if state[partners[p]] == 0:
                state[partners[p]] = 2
    return state == 1


def order_rows(order: Order, areas: Ints, scores: npt.NDArray[np.floating]) -> Ints:
    """Rows int64 (n,) in the order named; equal ones by row. An array is checked and returned.

    Raises:
        ValueError: the name is unknown, or the array does not hold each row once.
    """
    if isinstance(order, str):
        keys = {"smallest_first": areas, "largest_first": -areas, "score": -scores}
        if order not in keys:
            raise ValueError(f"unknown order {order!r}; choose from {', '.join(keys)}")
        return np.argsort(keys[order], kind="stable")
    rows = np.asarray(order)
    if rows.dtype.kind not in "iu" or not np.array_equal(np.sort(rows), np.arange(len(areas))):
        raise ValueError(f"an order holds each of the {len(areas)} rows once, the first one first")
    return np.ascontiguousarray(rows, np.int64)


def resolve_overlaps(
    boxes: Boxes,
    pixels: Pixels,
    offsets: Ints,
    size: Size,
    order: Ints,
    *,
    largest_piece: bool = False,
    fill_holes: bool = False,
    min_area: int = 1,
    connectivity: int = 8,
) -> tuple[Flat, Ints]:
    """Hard masks that share no pixel: each shared pixel goes to the first in order.

    Steps: fill holes; drop masks below ``min_area``; share out the pixels; keep the largest
    piece; fill holes again, with pixels that nobody owns; drop masks below ``min_area``.

    Args:
        order: int64 (n,), the rows, the first one first (see ``order_rows``)
        largest_piece: keep only the largest connected piece of each mask
        fill_holes: close holes, save where another mask lies in them
        min_area: pixels that a mask has at least, before and after; below 1 counts as 1
        connectivity: of pieces, 8 or 4

    Returns:
        The masks that are left, in their old sequence, with tight boxes; and their rows int64.
    """
    flat = as_flat(boxes, pixels, offsets)
    if fill_holes:
        flat = flat._replace(pixels=pieces.fill_holes(*flat, connectivity))
    large = overlap.areas(flat.pixels, flat.offsets) >= max(min_area, 1)
    order = order[large[order]]
    labels = crops_to_labels(*flat, size, order)
    flat = flat._replace(pixels=pixels_of_labels(labels, flat.boxes, flat.offsets))
    if largest_piece:
        flat = flat._replace(pixels=pieces.largest_piece(*flat, connectivity))
    if fill_holes:
        # Pixels of dropped pieces are free again.
        labels = crops_to_labels(*flat, size, order)
        flat = flat._replace(pixels=pieces.fill_holes(*flat, connectivity))
        _claim(labels, *flat, order)
    kept = np.flatnonzero(overlap.areas(flat.pixels, flat.offsets) >= max(min_area, 1))
    tight, rows = paste.tighten(*paste.gather(*flat, kept))
    return tight, kept[rows]


def nms_from_pairs(
    order: Ints,
    i: npt.NDArray[np.integer],
    j: npt.NDArray[np.integer],
    iou: npt.NDArray[np.floating],
    threshold: float,
) -> Bools:
    """Greedy suppression with known IoUs: keep bool (n,).

    In order, each mask that is still there suppresses the later ones whose IoU with it is above
    ``threshold``. The pairs come from ``overlap.iou_pairs`` and serve for any threshold.

    Args:
        order: int64 (n,), the rows, the best first
        i: (m,) first row of each pair, each pair once; pairs that are not listed do not overlap
        j: (m,) second row of each pair
        iou: (m,) of the pairs
        threshold: 0 … 1
    """
    return _suppress(
        solid(order, np.int64),
        solid(i, np.int32),
        solid(j, np.int32),
        solid(iou, np.float64),
        float(threshold),
    )


def mask_nms(
    masks: Masks, scores: npt.NDArray[np.floating], threshold: float, order: Order = "score"
) -> Bools:
    """Greedy suppression by mask IoU: keep bool (n,); soft masks count at a half."""
    areas = overlap.areas(masks.pixels, masks.offsets, cut_of(masks.soft))
    return nms_from_pairs(order_rows(order, areas, scores), *overlap.iou_pairs(masks), threshold)
