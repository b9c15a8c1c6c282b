"""Polygons to pixels, with the same result as pycocotools ``frPyObjects``.

The outline is walked on a grid five times as fine, one step at a time along the longer side of
each edge. Where the walk crosses the middle of a pixel column, the pixels from there down change
between outside and inside.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.errors import SomasegError
from somaseg.masks.flat import Boxes, Pixels, Size, solid

_FINE = 5


@njit(cache=True, nogil=True)
def _crossings(points, height, width, crossings):  # type: ignore[no-untyped-def]
    """Write (x, y) of every crossing of a column's middle; return how many there are.

    With ``crossings`` empty they are only counted.
    """
    n = points.shape[0]
    m = 0
    started = False
    u0 = v0 = 0
    for k in range(n):
        nxt = (k + 1) % n
        # int() cuts towards zero, also below zero: so does the reference.
        xs, ys = int(_FINE * points[k, 0] + 0.5), int(_FINE * points[k, 1] + 0.5)
        xe, ye = int(_FINE * points[nxt, 0] + 0.5), int(_FINE * points[nxt, 1] + 0.5)
        dx, dy = abs(xe - xs), abs(ye - ys)
        steps = max(dx, dy)
        flat = dx >= dy
        # The edge is always computed from its lower end, so that both ways give the same points.
        flip = (flat and xs > xe) or (not flat and ys > ye)
        if flip:
            xs, ys, xe, ye = xe, ye, xs, ys
        slope = 0.0
        if steps > 0:
            slope = (ye - ys) / dx if flat else (xe - xs) / dy
        for d in range(steps + 1):
            t = steps - d if flip else d
            if flat:
                u, v = t + xs, int(ys + slope * t + 0.5)
            else:
                u, v = int(xs + slope * t + 0.5), t + ys
            if started and u != u0:
                left = min(u, u0) if u < u0 else u - 1
                # Fine column 5x + 2 is the middle of pixel column x.
                if left >= 0 and left % _FINE == _FINE // 2 and left // _FINE < width:
                    top = min(v, v0)
                    y = (top + 0.5) / _FINE - 0.5
                    if crossings.size > 0:
                        crossings[m, 0] = left // _FINE
                        crossings[m, 1] = int(np.ceil(min(max(y, 0.0), float(height))))
                    m += 1
            started, u0, v0 = True, u, v
    return m


@njit(cache=True, nogil=True)
def _fill(crossings, x0, y0, crop):  # type: ignore[no-untyped-def]
    """Add (logical or) what lies between the crossings to ``crop``, whose corner is x0, y0."""
    height, width = crop.shape
    changes = np.zeros((height + 1, width), np.uint8)
    for k in range(crossings.shape[0]):
        changes[crossings[k, 1] - y0, crossings[k, 0] - x0] ^= 1
    for y in range(height):
        for x in range(width):
            if y > 0:
                changes[y, x] ^= changes[y - 1, x]
            crop[y, x] |= changes[y, x]


def polygon_to_crop(
    polygons: Sequence[Sequence[float] | npt.NDArray], size: Size
) -> tuple[Boxes, Pixels]:
    """Tight box int32 (4,) and crop uint8 (h, w) of the union of polygons.

    Args:
        polygons: each x y x y … in pixels (COCO), or an array (k, 2); three points at least
        size: (height, width) of the image; what lies outside of it is cut off

    Raises:
        SomasegError: an odd count of numbers, fewer than three points, a number that is not
            finite or beyond a million pixels, or the polygons cover no pixel.
    """
    height, width = size
    found = []
    for k, polygon in enumerate(polygons):
        points = _points(polygon, k)
        m = _crossings(points, height, width, np.empty((0, 2), np.int64))
        crossings = np.empty((m, 2), np.int64)
        if m:
            _crossings(points, height, width, crossings)
        found.append(crossings)
    everything = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    if len(everything):
        x0, y0 = everything.min(0)
        x1, y1 = everything[:, 0].max() + 1, everything[:, 1].max()
    if not len(everything) or y1 <= y0:
        raise SomasegError("the polygon covers no pixel")
    crop = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for crossings in found:
        _fill(crossings, x0, y0, crop)
    rows, columns = np.flatnonzero(crop.any(1)), np.flatnonzero(crop.any(0))
    if not len(rows):
        raise SomasegError("the polygon covers no pixel")
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    box = np.array([x0 + left, y0 + top, x0 + right, y0 + bottom], np.int32)
    return box, np.ascontiguousarray(crop[top:bottom, left:right])


def _points(polygon: Sequence[float] | npt.NDArray, k: int) -> npt.NDArray[np.float64]:
    try:
        numbers = np.asarray(polygon, np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise SomasegError(f"polygon {k}: not a list of numbers") from error
    if numbers.size % 2:
        raise SomasegError(f"polygon {k}: {numbers.size} numbers, an odd count; x y pairs needed")
    if numbers.size < 6:
        raise SomasegError(f"polygon {k}: {numbers.size // 2} points; three are needed at least")
    if not (np.abs(numbers) <= 1e6).all():
        raise SomasegError(f"polygon {k}: a coordinate is not finite or beyond a million pixels")
    return solid(numbers.reshape(-1, 2), np.float64)
