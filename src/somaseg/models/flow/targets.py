"""Flow targets: the direction of heat spreading from each cell's centre, compiled.

Source: Stringer, Wang, Michaelos, Pachitariu, "Cellpose", Nature Methods 18 (2021), methods.
Heat enters at the centre, spreads by a 3×3 mean inside the cell, and its gradient's direction is
the flow. Cellpose runs every cell of an image for as long as its largest cell needs; here a cell
runs for as long as itself needs, so that its target does not depend on its neighbours, and a crop
has the same target as the whole image.
"""

import numpy as np
import numpy.typing as npt
from numba import njit


def label_flows(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Compute the unit flow field of a label image.

    Args:
        labels: int (h, w), 0 is background, every other value one cell.

    Returns:
        float32 (2, h, w): dy and dx of unit length inside cells, 0 outside. A pixel where the
        heat is level (as in a cell of one pixel) has length 0.
    """
    return flows_of(np.ascontiguousarray(labels, dtype=np.int32))


@njit(cache=True, nogil=True)
def extents(labels: np.ndarray, top: int) -> np.ndarray:
    """Return int64 (top + 1, 7) a label: y0, x0, y1, x1 (half open), area, Σy, Σx."""
    h, w = labels.shape
    out = np.zeros((top + 1, 7), np.int64)
    out[:, 0] = h
    out[:, 1] = w
    for y in range(h):
        for x in range(w):
            k = labels[y, x]
            if k > 0:
                row = out[k]
                row[0] = min(row[0], y)
                row[1] = min(row[1], x)
                row[2] = max(row[2], y + 1)
                row[3] = max(row[3], x + 1)
                row[4] += 1
                row[5] += y
                row[6] += x
    return out


@njit(cache=True, nogil=True, fastmath=True)
def flows_of(labels: np.ndarray) -> np.ndarray:
    """As :func:`label_flows`, to be called by compiled code: labels int32, in one block."""
    h, w = labels.shape
    flows = np.zeros((2, h, w), np.float32)
    top = 0
    for y in range(h):
        for x in range(w):
            top = max(top, labels[y, x])
    table = extents(labels, top)
    for k in range(1, top + 1):
        if table[k, 4] > 0:
            _cell_flow(labels, k, table[k], flows)
    return flows


@njit(cache=True, nogil=True, fastmath=True)
def _cell_flow(labels: np.ndarray, k: int, extent: np.ndarray, flows: np.ndarray) -> None:
    """Write the flow of cell ``k`` into ``flows`` (2, h, w)."""
    y0, x0 = extent[0], extent[1]
    bh, bw = extent[2] - y0, extent[3] - x0
    # A frame of one cold pixel saves every bounds check.
    inside = np.zeros((bh + 2, bw + 2), np.float32)
    mean_y, mean_x = extent[5] / extent[4], extent[6] / extent[4]
    best = np.inf
    cy, cx = 0, 0
    for y in range(bh):
        for x in range(bw):
            if labels[y0 + y, x0 + x] == k:
                inside[y + 1, x + 1] = np.float32(1.0 / 9.0)
                distance = (y0 + y - mean_y) ** 2 + (x0 + x - mean_x) ** 2
                if distance < best:
                    best = distance
                    cy, cx = y + 1, x + 1
    heat = np.zeros((bh + 2, bw + 2), np.float32)
    # The sums over three rows; the update of row y needs the old row y - 1, kept in `above`.
    above = np.zeros(bw + 2, np.float32)
    column = np.zeros(bw + 2, np.float32)
    for step in range(2 * (bh + bw + 2)):
        heat[cy, cx] += np.float32(1)
        # Heat moves one pixel a step: rows and columns further than that are still cold.
        top, bottom = max(1, cy - step - 1), min(bh, cy + step + 1)
        left, right = max(1, cx - step - 1), min(bw, cx + step + 1)
        # Slices that begin at 0 let the compiler see that no index is negative, and use SIMD.
        count = right - left + 1
        before = heat[top - 1, left - 1 : right + 2]
        for x in range(count + 2):  # numba takes two seconds to compile `above[:n] = before`
            above[x] = before[x]
        for y in range(top, bottom + 1):
            here, below = heat[y, left - 1 : right + 2], heat[y + 1, left - 1 : right + 2]
            for x in range(count + 2):
                old = here[x]
                column[x] = above[x] + old + below[x]
                above[x] = old
            new, share = heat[y, left : right + 1], inside[y, left : right + 1]
            for x in range(count):
                new[x] = (column[x] + column[x + 1] + column[x + 2]) * share[x]
    for y in range(1, bh + 1):
        for x in range(1, bw + 1):
            heat[y, x] = np.log1p(heat[y, x])
    for y in range(1, bh + 1):
        for x in range(1, bw + 1):
            if inside[y, x] > 0:
                dy = heat[y + 1, x] - heat[y - 1, x]
                dx = heat[y, x + 1] - heat[y, x - 1]
                length = np.sqrt(dy * dy + dx * dx)
                if length > 1e-20:
                    flows[0, y0 + y - 1, x0 + x - 1] = dy / length
                    flows[1, y0 + y - 1, x0 + x - 1] = dx / length
