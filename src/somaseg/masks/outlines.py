"""Outlines along the edges of pixels, and back: exact, with holes and pieces.

Coordinates are (x, y) of pixel corners: pixel (row, column) covers x from column to column + 1 and
y from row to row + 1, as ImageJ and QuPath have it. (COCO's polygons, in
:mod:`somaseg.masks.polygons`, go by a rule of their own.)
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit
from skimage.draw import polygon as polygon_pixels

from somaseg.errors import SomasegError
from somaseg.masks.flat import Boxes, Pixels, Size

Ring = npt.NDArray[np.int32]
Polygon = list[Ring]
"""A shell, clockwise as seen on the screen, then its holes, the other way round."""


def outline(crop: npt.NDArray, corner: tuple[int, int] = (0, 0)) -> list[Polygon]:
    """Polygons that cover exactly the pixels of a mask.

    A polygon a piece; pieces that meet at a corner alone are two, so that each is simple, as the
    OGC's Simple Features ask.

    Args:
        crop: (h, w); what is not 0 is inside.
        corner: (x, y) of the crop in the image.

    Returns:
        for each piece its shell and its holes, int32 (k, 2): x, y of the corners where the outline
        turns, none repeated at the end.
    """
    inside = np.pad(np.asarray(crop) != 0, 1).view(np.uint8)
    count, pieces = cv2.connectedComponents(inside, connectivity=4, ltype=cv2.CV_32S)
    turns, ends, starts = _trace(inside)
    found: list[tuple[list[Ring], list[Ring]]] = [([], []) for _ in range(count - 1)]
    begin = 0
    for end, (y, x) in zip(ends, starts, strict=True):
        shells, holes = found[pieces[y, x] - 1]
        for ring in _simple(turns[begin:end]):
            (shells if _doubled_area(ring) > 0 else holes).append(ring)
        begin = end
    shift = np.array(corner, np.int32) - 1
    return [[ring + shift for ring in [*shells, *holes]] for shells, holes in found]


def fill(polygons: Sequence[Sequence[npt.NDArray]], size: Size) -> tuple[Boxes, Pixels]:
    """Tight box int32 (4,) and crop uint8 (h, w) of the pixels whose centres lie in the polygons.

    Args:
        polygons: each a shell and its holes, (k, 2) x, y in pixels, of any direction.
        size: (height, width) of the image; what lies outside of it is cut off.

    Raises:
        SomasegError: a ring of fewer than three points, a coordinate that is no number or far
            outside, or no pixel inside.
    """
    rings = [np.asarray(ring, np.float64) for polygon in polygons for ring in polygon]
    for ring in rings:
        if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
            raise SomasegError("an outline needs three points (x, y) at least")
        if not (np.abs(ring) <= 1e6).all():
            raise SomasegError("an outline's point is not finite or beyond a million pixels")
    if not rings:
        raise SomasegError("no outline")
    points = np.concatenate(rings)
    low = np.maximum(np.floor(points.min(0)), 0).astype(int)
    high = np.minimum(np.ceil(points.max(0)), (size[1], size[0])).astype(int)
    if (high <= low).any():
        raise SomasegError("the outline lies outside of the image")
    total = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    for polygon in polygons:
        part = np.zeros_like(total)
        for ring in polygon:
            # Pixel centres lie half a pixel from the corners that the outlines are in.
            x, y = (np.asarray(ring, np.float64) - low - 0.5).T
            part[polygon_pixels(y, x, part.shape)] ^= 1
        total |= part
    rows, columns = np.flatnonzero(total.any(1)), np.flatnonzero(total.any(0))
    if not len(rows):
        raise SomasegError("the outline covers no pixel")
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    box = np.array([low[0] + left, low[1] + top, low[0] + right, low[1] + bottom], np.int32)
    return box, np.ascontiguousarray(total[top:bottom, left:right])


def _doubled_area(ring: Ring) -> int:
    x, y = ring.T.astype(np.int64)
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _simple(ring: Ring) -> list[Ring]:
    """Cut a ring where it meets itself at a corner."""
    if len(np.unique(ring, axis=0)) == len(ring):
        return [ring]
    rings: list[Ring] = []
    path: list[tuple[int, int]] = []
    places: dict[tuple[int, int], int] = {}
    for point in map(tuple, ring.tolist()):
        if point in places:
            begin = places[point]
            rings.append(np.array(path[begin:], np.int32))
            for gone in path[begin:]:
                del places[gone]
            del path[begin:]
        places[point] = len(path)
        path.append(point)
    return [*rings, np.array(path, np.int32)]


@njit(cache=True, nogil=True)
def _trace(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk all outlines with the inside on the right; at a corner of two pixels turn right.

    Returns:
        corners int32 (n, 2) x, y ring after ring; end of each ring; a pixel inside each, y, x.
    """
    height, width = inside.shape
    step_y, step_x = (0, 1, 0, -1), (1, 0, -1, 0)  # right, down, left, up
    # Pixel to the right of, and to the left of, an edge that leaves a corner.
    right_y, right_x = (0, 0, -1, -1), (0, -1, -1, 0)
    left_y, left_x = (-1, 0, 0, -1), (0, 0, -1, -1)
    edges = 0
    for y in range(1, height):
        for x in range(1, width):
            edges += inside[y, x] != inside[y - 1, x]
            edges += inside[y, x] != inside[y, x - 1]
    turns = np.empty((edges, 2), np.int32)
    ends = np.empty(edges, np.int64)
    starts = np.empty((edges, 2), np.int64)
    seen = np.zeros((height, width), np.bool_)  # edges that go right
    n = m = 0
    for y0 in range(1, height):
        for x0 in range(1, width):
            if seen[y0, x0] or not inside[y0, x0] or inside[y0 - 1, x0]:
                continue
            y, x, way = y0, x0, 0
            while True:
                if way == 0:
                    seen[y, x] = True
                y, x = y + step_y[way], x + step_x[way]
                for turn in (1, 0, 3):
                    new = (way + turn) % 4
                    if (
                        inside[y + right_y[new], x + right_x[new]]
                        and not inside[y + left_y[new], x + left_x[new]]
                    ):
                        break
                if new != way:
                    turns[n, 0], turns[n, 1] = x, y
                    n += 1
                way = new
                if y == y0 and x == x0 and way == 0:
                    break
            ends[m], starts[m, 0], starts[m, 1] = n, y0, x0
            m += 1
    return turns[:n], ends[:m], starts[:m]
