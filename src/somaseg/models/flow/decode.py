"""From flows to cells: follow each pixel to where it ends, and call what ends together one cell.

Source: Stringer et al. 2021 (see :mod:`somaseg.models.flow.targets`), with its constants. One thing
is done differently, for speed: a pixel is followed only until it enters a pixel whose end is
already known, instead of 200 steps each. Ends differ by less than a pixel, cells hardly at all
(``benchmarks/flows.py`` measures both against the cellpose package).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.models.flow.targets import extents, flows_of

STEPS = 200
"""Euler steps at most (Cellpose's ``niter``)."""
NO_FLOW = 0.1
"""A predicted flow shorter than this has no direction to speak of."""


@dataclass(frozen=True)
class Decoded:
    """Cells of one flow field.

    Attributes:
        labels: int32 (h, w), 0 is background, cells are 1..n.
        errors: float32 (n,), mean squared difference between the flow of the cell's own shape
            and the flow predicted (unit length); small is good.
    """

    labels: npt.NDArray[np.int32]
    errors: npt.NDArray[np.float32]


def decode_flows(
    flows: npt.NDArray[np.float32],
    foreground: npt.NDArray[np.bool_],
    *,
    max_error: float = 0.4,
    min_area: int = 15,
    max_share: float = 0.4,
    steps: int = STEPS,
    exact: bool = False,
    unit_steps: bool = False,
) -> Decoded:
    """Group the foreground pixels by where their flow leads.

    Args:
        flows: float32 (2, h, w), dy and dx in pixels a step (unit length inside cells).
        foreground: bool (h, w), pixels that may belong to a cell.
        max_error: cells of a larger flow error are dropped; ``inf`` keeps all.
        min_area: smaller cells are dropped, in pixels.
        max_share: cells larger than this share of the image are dropped.
        steps: a pixel is followed for so many steps at most.
        exact: follow every pixel for all its steps. Else one that enters the way of an earlier one
            ends with it: the same where there are steps enough to arrive, and many times faster.
        unit_steps: walk a whole pixel a step, however short the flow. A network that is unsure of
            the direction predicts short flows; there pixels stop, and large cells fall apart.

    Returns:
        The labels, in scan order of the seeds, and their flow errors.

    Raises:
        ValueError: the shapes do not fit.
    """
    if flows.ndim != 3 or flows.shape[0] != 2 or flows.shape[1:] != foreground.shape:
        raise ValueError(f"flows {flows.shape} and foreground {foreground.shape} do not fit")
    inside = np.ascontiguousarray(foreground, dtype=np.bool_)
    field = np.ascontiguousarray(flows, dtype=np.float32)
    ends = _follow(unit_length(field) if unit_steps else field, inside, steps, not exact)
    labels = _group(ends, inside)
    _clean(labels, min_area, max_share)
    errors = flow_errors(labels, field)
    keep = errors <= max_error
    _renumber(labels, keep)
    return Decoded(labels, errors[keep])


def unit_length(flows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Flows (2, h, w) of length one; those shorter than :data:`NO_FLOW` stay as short in relation.

    Without that bound the noise of a cell's centre, where flows are to be 0, would be blown up.
    """
    length = np.sqrt(flows[0] * flows[0] + flows[1] * flows[1])
    return flows / np.maximum(length, np.float32(NO_FLOW))


def resize_labels(decoded: Decoded, size: tuple[int, int], min_area: int = 1) -> Decoded:
    """Bring cells that were decoded at another resolution onto an image's pixels.

    Args:
        decoded: the cells.
        size: (h, w) of the image.
        min_area: cells smaller than this on the image are dropped.
    """
    labels: npt.NDArray[np.int32] = cv2.resize(
        decoded.labels, size[::-1], interpolation=cv2.INTER_NEAREST
    ).astype(np.int32, copy=False)
    areas = np.bincount(labels.ravel(), minlength=len(decoded.errors) + 1)[1:]
    keep = areas >= max(min_area, 1)
    _renumber(labels, keep)
    return Decoded(labels, decoded.errors[keep])


def flow_errors(
    labels: npt.NDArray[np.int32], flows: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Mean squared difference, a cell, of the flow of its shape and the flow given.

    Args:
        labels: int32 (h, w) with cells 1..n.
        flows: float32 (2, h, w) in unit length.

    Returns:
        float32 (n,).
    """
    return _errors(labels, flows_of(labels), flows, int(labels.max(initial=0)))


@njit(cache=True, nogil=True)
def _errors(labels: np.ndarray, own: np.ndarray, flows: np.ndarray, n: int) -> np.ndarray:
    total = np.zeros(n, np.float64)
    area = np.zeros(n, np.int64)
    h, w = labels.shape
    for y in range(h):
        for x in range(w):
            k = labels[y, x] - 1
            if k >= 0:
                dy = own[0, y, x] - flows[0, y, x]
                dx = own[1, y, x] - flows[1, y, x]
                total[k] += dy * dy + dx * dx
                area[k] += 1
    out = np.zeros(n, np.float32)
    for k in range(n):
        # The mean over the two components as well, as Cellpose takes it, would halve this; it
        # adds the two components' means, so do we.
        out[k] = total[k] / max(area[k], 1)
    return out


@njit(cache=True, nogil=True, fastmath=True)
def _follow(flows: np.ndarray, inside: np.ndarray, steps: int, join_ways: bool) -> np.ndarray:
    """Return int32 (h, w): the flat index of the pixel where each pixel ends; −1 outside."""
    h, w = inside.shape
    ends = np.full((h, w), np.int32(-1))
    path = np.empty(steps + 1, np.int64)
    for start_y in range(h):
        for start_x in range(w):
            if not inside[start_y, start_x] or ends[start_y, start_x] >= 0:
                continue
            y, x = np.float32(start_y), np.float32(start_x)
            length = 0
            last = start_y * w + start_x
            path[0] = last
            end = np.int32(-1)
            for _ in range(steps):
                y_low, x_low = int(y), int(x)
                y_high, x_high = min(y_low + 1, h - 1), min(x_low + 1, w - 1)
                fy, fx = y - y_low, x - x_low
                dy, dx = np.float32(0), np.float32(0)
                # Bilinear, with no flow outside the foreground.
                if inside[y_low, x_low]:
                    weight = (1 - fy) * (1 - fx)
                    dy += weight * flows[0, y_low, x_low]
                    dx += weight * flows[1, y_low, x_low]
                if inside[y_low, x_high]:
                    weight = (1 - fy) * fx
                    dy += weight * flows[0, y_low, x_high]
                    dx += weight * flows[1, y_low, x_high]
                if inside[y_high, x_low]:
                    weight = fy * (1 - fx)
                    dy += weight * flows[0, y_high, x_low]
                    dx += weight * flows[1, y_high, x_low]
                if inside[y_high, x_high]:
                    weight = fy * fx
                    dy += weight * flows[0, y_high, x_high]
                    dx += weight * flows[1, y_high, x_high]
                y = min(max(y + dy, np.float32(0)), np.float32(h - 1))
                x = min(max(x + dx, np.float32(0)), np.float32(w - 1))
                here = int(y + np.float32(0.5)) * w + int(x + np.float32(0.5))
                if here != last:
                    known = ends[here // w, here % w]
                    if join_ways and known >= 0:
                        end = known
                        break
                    last = here
                    if inside[here // w, here % w]:
                        length += 1
                        path[length] = here
                elif dy * dy + dx * dx < 1e-6:
                    break
            if end < 0:
                end = np.int32(last)
            for i in range(length + 1 if join_ways else 1):
                if ends[path[i] // w, path[i] % w] < 0:
                    ends[path[i] // w, path[i] % w] = end
    return ends


@njit(cache=True, nogil=True)
def _group(ends: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Seed a cell at each crowded end, grow the seeds, and label pixels by their end's seed."""
    h, w = inside.shape
    count = np.zeros((h, w), np.int32)
    for y in range(h):
        for x in range(w):
            if ends[y, x] >= 0:
                count[ends[y, x] // w, ends[y, x] % w] += 1
    owner = np.zeros((h, w), np.int32)
    n = 0
    frontier = np.empty(h * w, np.int64)
    for y in range(h):
        for x in range(w):
            if count[y, x] <= 10:
                continue
            # A maximum of its 5×5 surroundings; of equals the first in scan order.
            peak = True
            for v in range(max(y - 2, 0), min(y + 3, h)):
                for u in range(max(x - 2, 0), min(x + 3, w)):
                    other = count[v, u]
                    if other > count[y, x] or (
                        other == count[y, x] and (v < y or (v == y and u < x))
                    ):
                        peak = False
            if peak:
                n += 1
                owner[y, x] = n
                frontier[n - 1] = y * w + x
    begin, end = 0, n
    for _ in range(5):
        grown = end
        for i in range(begin, end):
            y, x = frontier[i] // w, frontier[i] % w
            for v in range(max(y - 1, 0), min(y + 2, h)):
                for u in range(max(x - 1, 0), min(x + 2, w)):
                    if owner[v, u] == 0 and count[v, u] > 2:
                        owner[v, u] = owner[y, x]
                        frontier[grown] = v * w + u
                        grown += 1
        begin, end = end, grown
    labels = np.zeros((h, w), np.int32)
    for y in range(h):
        for x in range(w):
            if ends[y, x] >= 0:
                labels[y, x] = owner[ends[y, x] // w, ends[y, x] % w]
    return labels


@njit(cache=True, nogil=True)
def _clean(labels: np.ndarray, min_area: int, max_share: float) -> None:
    """Fill the holes of each cell, drop the too small and too large, number from 1; in place."""
    h, w = labels.shape
    n = 0
    for y in range(h):
        for x in range(w):
            n = max(n, labels[y, x])
    table = extents(labels, n)
    keep = np.zeros(n, np.bool_)
    stack = np.empty(h * w, np.int64)
    for k in range(1, n + 1):
        y0, x0, y1, x1, area = table[k, 0], table[k, 1], table[k, 2], table[k, 3], table[k, 4]
        if area == 0:
            continue
        # Flood the background from the frame of the box; what stays dry is a hole.
        bh, bw = y1 - y0 + 2, x1 - x0 + 2
        wet = np.zeros((bh, bw), np.bool_)
        wet[0, 0] = True
        stack[0] = 0
        height = 1
        while height > 0:
            height -= 1
            y, x = stack[height] // bw, stack[height] % bw
            for d in range(4):
                v = y + (d == 0) - (d == 1)
                u = x + (d == 2) - (d == 3)
                if v < 0 or u < 0 or v >= bh or u >= bw or wet[v, u]:
                    continue
                on_frame = v == 0 or u == 0 or v == bh - 1 or u == bw - 1
                if on_frame or labels[y0 + v - 1, x0 + u - 1] != k:
                    wet[v, u] = True
                    stack[height] = v * bw + u
                    height += 1
        for y in range(y0, y1):
            for x in range(x0, x1):
                if not wet[y - y0 + 1, x - x0 + 1] and labels[y, x] == 0:
                    labels[y, x] = k
                    area += 1
        keep[k - 1] = min_area <= area <= max_share * h * w
    _renumber(labels, keep)


@njit(cache=True, nogil=True)
def _renumber(labels: np.ndarray, keep: np.ndarray) -> None:
    """Erase the cells that are not kept and number the others 1..n; in place."""
    new = np.zeros(len(keep) + 1, np.int32)
    n = 0
    for k in range(len(keep)):
        if keep[k]:
            n += 1
            new[k + 1] = n
    h, w = labels.shape
    for y in range(h):
        for x in range(w):
            labels[y, x] = new[labels[y, x]]
