"""Join the instances that overlapping tiles found, so that no cell is cut and none is doubled.

A tile answers for the cells whose centre lies in its core; cores share the image out. That alone
would lose or double a cell whose centre differs by a pixel between two tiles, and would cut one
that is longer than the overlap. So instances of neighbouring tiles are matched first, where both
tiles see: of those that are one cell, the one that its tile sees whole, and farthest from the
tile's edge, stays; where each tile has cut it off, they are united.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from somaseg.instances import Instances
from somaseg.masks.flat import Bools, Ints
from somaseg.masks.overlap import intersections
from somaseg.predict.tiles import Grid, Part

SAME = 0.3
"""IoU, where both tiles see, above which two instances may be one cell; the best match first."""

Found = Mapping[tuple[int, int], Instances]


def stitch(grid: Grid, found: Found) -> tuple[Instances, Ints]:
    """Join the instances of tiles.

    Args:
        grid: the tiles.
        found: by row and column of the tile, its instances, soft or hard, in its own frame; all
            tiles, or whole neighbouring rows of them: cells at the border to a missing row are
            then what they are to the tiles at hand.

    Returns:
        The instances of the image, tile by tile in reading order; and, int64 (n,), the row of the
        tile that each is from.
    """
    places = sorted(found)
    if len(grid) == 1:
        return found[0, 0], np.zeros(len(found[0, 0]), np.int64)
    shifted = [
        found[i, j].window(grid.size, (grid.columns[j].start, grid.rows[i].start))[0]
        for i, j in places
    ]
    whole = Instances.concat(shifted)
    counts = [len(part) for part in shifted]
    of_tile = np.repeat(np.array(places, np.int64), counts, axis=0)
    rows = _Side(grid.rows, of_tile[:, 0], whole.boxes[:, 1::2])
    columns = _Side(grid.columns, of_tile[:, 1], whole.boxes[:, ::2])
    cut = rows.cut | columns.cut
    component = _components(whole, rows, columns)
    # The best of each component first: seen whole, then far from its tile's edge.
    clearance = np.minimum(rows.clearance, columns.clearance)
    ranked = np.lexsort((-clearance, cut, component))
    _, first, sizes = np.unique(component[ranked], return_index=True, return_counts=True)
    best = ranked[first]
    # What only one of several tiles has found counts if that tile answers for it.
    kept = (sizes > 1) | (rows.owned & columns.owned)[best]
    united = kept & (sizes > 1) & cut[best]
    unions = [
        _unite(whole, ranked[begin : begin + size], row)
        for begin, size, row in zip(first[united], sizes[united], best[united], strict=True)
    ]
    source = np.arange(len(whole))
    source[best[united]] = len(whole) + np.arange(len(unions))
    chosen = np.sort(best[kept])
    return Instances.concat([whole, *unions])[source[chosen]], rows.place[chosen]


class _Side:
    """How instances lie in their tiles, along one side of the image.

    Attributes:
        place: number of the tile, int64 (n,).
        span: int64 (n, 2), what the tile sees.
        owned: whether the centre lies in the core.
        cut: whether the box meets a border to a neighbour.
        shared: whether a neighbouring tile sees a part of it, too.
        clearance: pixels from the centre to the nearest border to a neighbour; inf without one.
    """

    def __init__(self, parts: tuple[Part, ...], place: Ints, ends: npt.NDArray[np.int32]) -> None:
        table = np.array([(p.start, p.stop, p.first, p.last) for p in parts], np.int64)
        begins, stops = table[:, :2].T.astype(np.float64)
        begins[0], stops[-1] = -np.inf, np.inf  # nothing is cut at the image's border
        before, after = np.r_[-np.inf, stops[:-1]], np.r_[begins[1:], np.inf]
        start, stop = ends.T
        centre = (start + stop) / 2
        self.place = place
        self.span = table[place, :2]
        self.owned: Bools = (table[place, 2] <= centre) & (centre < table[place, 3])
        self.cut: Bools = (start <= begins[place]) | (stop >= stops[place])
        self.shared: Bools = (start < before[place]) | (stop > after[place])
        self.clearance = np.minimum(centre - begins[place], stops[place] - centre)


def _components(whole: Instances, rows: _Side, columns: _Side) -> Ints:
    """Number, int64 (n,), of the cell that each instance belongs to."""
    near = np.flatnonzero(rows.shared | columns.shared)
    some = whole[near]
    i_near, j_near, _ = intersections(*some.flat)
    i, j = near[i_near], near[j_near]
    down, right = rows.place[i] - rows.place[j], columns.place[i] - columns.place[j]
    neighbours = (np.abs(down) <= 1) & (np.abs(right) <= 1) & ((down != 0) | (right != 0))
    i, j = i[neighbours], j[neighbours]
    zones = np.stack(
        [
            np.maximum(columns.span[i, 0], columns.span[j, 0]),
            np.maximum(rows.span[i, 0], rows.span[j, 0]),
            np.minimum(columns.span[i, 1], columns.span[j, 1]),
            np.minimum(rows.span[i, 1], rows.span[j, 1]),
        ],
        axis=1,
    )
    agreement = _agreement(*whole.flat, i, j, zones)
    tile = rows.place * (columns.place.max(initial=0) + 1) + columns.place
    # One to one between any two tiles.
    partners: set[tuple[int, int]] = set()
    edges: list[tuple[int, int]] = []
    for k in np.argsort(-agreement, kind="stable"):
        if agreement[k] <= SAME:
            break
        one, other = (int(i[k]), int(tile[j[k]])), (int(j[k]), int(tile[i[k]]))
        if one not in partners and other not in partners:
            partners |= {one, other}
            edges.append((one[0], other[0]))
    n = len(whole)
    ends = np.array(edges, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), (n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _unite(whole: Instances, rows: Ints, leader: np.int64) -> Instances:
    """Unite the masks of one cell, each pixel as probable as any of them says.

    Score and class are those of the ``leader``.
    """
    x0, y0 = whole.boxes[rows, :2].min(axis=0)
    x1, y1 = whole.boxes[rows, 2:].max(axis=0)
    crop = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for row in rows:
        left, top, right, bottom = whole.boxes[row] - [x0, y0, x0, y0]
        part = crop[top:bottom, left:right]
        np.maximum(part, whole.crop(row), out=part)
    return Instances.from_crops(
        whole.size,
        np.array([[x0, y0, x1, y1]]),
        [crop],
        whole.scores[[leader]],
        whole.classes[[leader]],
        whole.names,
        whole.soft,
    )


@njit(cache=True, nogil=True)
def _sum_in(boxes, pixels, offsets, i, x0, y0, x1, y1):  # type: ignore[no-untyped-def]
    """Sum of the pixels of crop i in a window of the image."""
    x0, x1 = max(x0, boxes[i, 0]), min(x1, boxes[i, 2])
    y0, y1 = max(y0, boxes[i, 1]), min(y1, boxes[i, 3])
    width = boxes[i, 2] - boxes[i, 0]
    total = 0
    for y in range(y0, y1):
        p = offsets[i] + np.int64(y - boxes[i, 1]) * width + (x0 - boxes[i, 0])
        for k in range(p, p + x1 - x0):
            total += pixels[k]
    return total


@njit(cache=True, nogil=True)
def _agreement(boxes, pixels, offsets, rows, partners, zones):  # type: ignore[no-untyped-def]
    """Soft IoU of pairs, sum of the lower by sum of the higher probability, in their zones."""
    out = np.empty(rows.size, np.float64)
    for m in range(rows.size):
        i, j = rows[m], partners[m]
        x0, y0 = max(boxes[i, 0], boxes[j, 0]), max(boxes[i, 1], boxes[j, 1])
        x1, y1 = min(boxes[i, 2], boxes[j, 2]), min(boxes[i, 3], boxes[j, 3])
        i_width, j_width = boxes[i, 2] - boxes[i, 0], boxes[j, 2] - boxes[j, 0]
        lower = 0
        for y in range(y0, y1):
            p = offsets[i] + np.int64(y - boxes[i, 1]) * i_width + (x0 - boxes[i, 0])
            q = offsets[j] + np.int64(y - boxes[j, 1]) * j_width + (x0 - boxes[j, 0])
            for k in range(x1 - x0):
                lower += min(pixels[p + k], pixels[q + k])
        zx0, zy0, zx1, zy1 = zones[m]
        both = _sum_in(boxes, pixels, offsets, i, zx0, zy0, zx1, zy1)
        both += _sum_in(boxes, pixels, offsets, j, zx0, zy0, zx1, zy1)
        out[m] = lower / (both - lower)
    return out
