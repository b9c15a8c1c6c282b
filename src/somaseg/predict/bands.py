"""Predict an image by rows of tiles, settle it by bands: one way for every size.

A small image is one tile, and all is held in memory. Of a large one a row of tiles is held at a
time, whatever its height, and each finished row is a file, so that a killed prediction goes on
where it was::

    FOLDER/plan.json       what is predicted: image, model, views, tiles
    FOLDER/row0000.npz     raw instances of a row's tiles
    FOLDER/cells0000.npz   raw instances joined over tiles
    FOLDER/scored0000.npz  the same with learned scores, where the model has them
    FOLDER/band0000.npz    final instances
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from somaseg.data.images import Levels
from somaseg.decide import Settle, settle
from somaseg.decide.features import Whole
from somaseg.decide.rescore import Rescorer
from somaseg.files import own_folder, read_json, remove_folder, write_json
from somaseg.instances import Instances
from somaseg.masks.flat import Boxes, Ints, Size
from somaseg.models.base import Gray
from somaseg.predict.predictor import Finder, Progress, batched
from somaseg.predict.stitch import stitch
from somaseg.predict.store import load_predictions, save_predictions
from somaseg.predict.tiles import Grid

ROOM = 16
"""Pixels around what is settled together."""


class Bands:
    """Final instances of an image: hard, disjoint, in bands from top to bottom.

    Iterating gives the instances of each band, in the image's frame; ``len`` is the number of all.

    Attributes:
        size: (height, width) of the image.
        parts: the instances of each band, or the file that holds them.
        counts: instances of each.
        reaches: int64 (bands, 2), first row with a pixel of a band, and the one after the last.
        diameter: of the cells in pixels, that the image was scaled by, if it was.
    """

    def __init__(
        self, size: Size, parts: Iterable[Path | Instances], diameter: float | None = None
    ) -> None:
        self.size, self.parts, self.diameter = size, tuple(parts), diameter
        self.load = lru_cache(maxsize=3)(self._read)
        loaded = [self.load(i) for i in range(len(self.parts))]
        self.counts = [len(part) for part in loaded]
        self.reaches = np.array([_reach(part.boxes) for part in loaded], np.int64)

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[Instances]:
        return (self.load(i) for i in range(len(self.parts)))

    def whole(self) -> Instances:
        """All instances at once, in memory."""
        return self.load(0) if len(self.parts) == 1 else Instances.concat(list(self))

    def strip(self, start: int, stop: int) -> tuple[Instances, Ints]:
        """What is seen in the rows ``start … stop`` of the image.

        Returns:
            The instances with a pixel there, in the strip's own frame, cut off at its border; and
            their numbers in the whole image, int64 (n,), from 0.
        """
        if len(self.parts) == 1 and (start, stop) == (0, self.size[0]):
            return self.load(0), np.arange(len(self), dtype=np.int64)
        size = (stop - start, self.size[1])
        before = np.concatenate([[0], np.cumsum(self.counts)])
        parts, numbers = [Instances.empty(size, self.load(0).names)], [np.zeros(0, np.int64)]
        for i in np.flatnonzero((self.reaches[:, 0] < stop) & (self.reaches[:, 1] > start)):
            part, rows = self.load(int(i)).window(size, (0, -start))
            parts.append(part)
            numbers.append(before[i] + rows)
        return Instances.concat(parts), np.concatenate(numbers)

    def _read(self, i: int) -> Instances:
        part = self.parts[i]
        if isinstance(part, Instances):
            return part
        (band,) = load_predictions(part).values()
        return band


def segment(
    predictor: Finder,
    settings: Settle,
    one_class: bool,
    image: npt.NDArray[Any],
    folder: str | Path | None = None,
    levels: Levels | None = None,
    stamp: Any = None,
    progress: Progress | None = None,
    rescorer: Rescorer | None = None,
) -> Bands:
    """Segment an image of any size.

    Args:
        predictor: gives raw instances of a tile.
        settings: by class name.
        one_class: all instances of the image get the class that has most of the scores.
        image: (h, w) or (h, w, channels), a large one best mapped
            (:func:`somaseg.data.windows.map_image`).
        folder: for what is found on the way, where memory shall be bounded; rows of tiles that lie
            there already are not predicted again, if they are of the same image, model and tiles.
            New, empty, or made here before; it is the result's, to be removed after use. Without,
            all is held in memory.
        levels: the image's percentiles, from ``predictor.levels``, if known.
        stamp: what tells images of one size and of the same gray levels apart, JSON.
        progress: told after each tile.
        rescorer: gives the raw instances of the whole image other scores.
    """
    spool = _Spool(None if folder is None else Path(folder))
    grid = predictor.grid(image.shape)
    gray: Gray | None = None
    if spool.folder is None:
        gray = predictor.prepare(image, levels)
    else:
        levels = levels or predictor.levels(image)
        spool.begin(_plan(predictor, image, levels, stamp))

    def tile(i: int, j: int) -> Gray:
        place = grid.slices(i, j)
        return predictor.prepare(np.asarray(image[place]), levels) if gray is None else gray[place]

    _predict_rows(predictor, grid, tile, spool, progress, range(len(grid.rows)))
    _join_rows(grid, spool)
    kind = "cells"
    if rescorer is not None:
        kind = "scored"
        _rescore_rows(rescorer, grid, spool)
    elected = None
    if one_class:
        elected = Whole.of(_cells(spool, kind, i) for i in range(len(grid.rows))).elected
    _settle_bands(grid, spool, kind, settings, elected)
    return Bands(grid.size, [spool.part("band", i) for i in range(len(grid.rows))])


def begin_rows(
    predictor: Finder,
    image: npt.NDArray[Any],
    folder: str | Path,
    levels: Levels,
    stamp: Any = None,
) -> int:
    """Make a folder ready for :func:`predict_rows`, by several processes; the number of rows.

    Args are those of :func:`segment`, which finds in the folder what they left.
    """
    _Spool(Path(folder)).begin(_plan(predictor, image, levels, stamp))
    return len(predictor.grid(image.shape).rows)


def known_levels(folder: str | Path, stamp: Any) -> Levels | None:
    """Percentiles of the image of such a stamp that a folder was begun for; none if for another."""
    path = Path(folder) / "plan.json"
    if not path.exists():
        return None
    *_, levels, known = read_json(path)["image"]
    pairs = tuple(tuple(one) if isinstance(one, list) else one for one in levels)
    return pairs if known == stamp else None


def predict_rows(
    predictor: Finder,
    image: npt.NDArray[Any],
    folder: str | Path,
    levels: Levels,
    rows: Iterable[int],
    progress: Progress | None = None,
) -> None:
    """Predict some rows of tiles of an image into a folder that :func:`begin_rows` made ready.

    Args:
        predictor, image, folder, levels: as for :func:`segment`.
        rows: from 0; those that lie there already are left as they are.
        progress: told after each tile.
    """
    grid = predictor.grid(image.shape)

    def tile(i: int, j: int) -> Gray:
        return predictor.prepare(np.asarray(image[grid.slices(i, j)]), levels)

    _predict_rows(predictor, grid, tile, _Spool(Path(folder)), progress, list(rows))


def _plan(predictor: Finder, image: npt.NDArray[Any], levels: Levels, stamp: Any) -> dict[str, Any]:
    """What decides on the rows of a folder."""
    return {
        "predictor": predictor.fingerprint(),
        "image": [list(image.shape), str(image.dtype), np.array(levels).tolist(), stamp],
    }


class _Spool:
    """What is found on the way: files in a folder, or in memory where there is none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.held: dict[tuple[str, int], dict[str, Instances]] = {}

    def begin(self, plan: dict[str, Any]) -> None:
        """Start afresh, unless what lies in the folder is of the same plan."""
        assert self.folder is not None
        file = self.folder / "plan.json"
        if not file.exists() or read_json(file) != plan:
            remove_folder(self.folder)
            own_folder(self.folder)
            write_json(file, plan)

    def path(self, kind: str, i: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{kind}{i:04d}.npz"

    def has(self, kind: str, i: int) -> bool:
        return self.folder is not None and self.path(kind, i).exists()

    def save(self, kind: str, i: int, found: dict[str, Instances]) -> None:
        if self.folder is None:
            self.held[kind, i] = found
        else:
            save_predictions(self.path(kind, i), found)

    def load(self, kind: str, i: int) -> dict[str, Instances]:
        return self.held[kind, i] if self.folder is None else load_predictions(self.path(kind, i))

    def part(self, kind: str, i: int) -> Path | Instances:
        """The only instances of a file, or its path."""
        return self.held[kind, i][kind] if self.folder is None else self.path(kind, i)


def _cells(spool: _Spool, kind: str, i: int) -> Instances:
    (cells,) = spool.load(kind, i).values()
    return cells


def _predict_rows(
    predictor: Finder,
    grid: Grid,
    tile: Callable[[int, int], Gray],
    spool: _Spool,
    progress: Progress | None,
    rows: Sequence[int],
) -> None:
    columns = len(grid.columns)
    total = len(rows) * columns
    for done, i in enumerate(rows):
        if spool.has("row", i):
            if progress:
                progress((done + 1) * columns, total)
            continue
        found: dict[str, Instances] = {}
        for some in batched(range(columns), predictor.batch):
            parts = predictor.find_each([tile(i, j) for j in some], grid.shape)
            found |= zip(map(str, some), parts, strict=True)
            if progress:
                progress(done * columns + some[-1] + 1, total)
        spool.save("row", i, found)


def _join_rows(grid: Grid, spool: _Spool) -> None:
    """Join instances over tiles; what is at the border of two rows is written once, to one."""

    def read(i: int) -> dict[tuple[int, int], Instances]:
        return {(i, int(j)): instances for j, instances in spool.load("row", i).items()}

    for i, near in _with_neighbours(read, len(grid.rows)):
        joined, rows = stitch(grid, {k: v for found in near for k, v in found.items()})
        spool.save("cells", i, {"cells": joined[rows == i] if len(near) > 1 else joined})


def _rescore_rows(rescorer: Rescorer, grid: Grid, spool: _Spool) -> None:
    """Give learned scores to each row of tiles, seen among its neighbours above and below."""
    whole = Whole.of(_cells(spool, "cells", i) for i in range(len(grid.rows)))
    for i, near in _with_neighbours(lambda i: _cells(spool, "cells", i), len(grid.rows)):
        first = len(near[0]) if i else 0
        own = near[1] if i else near[0]
        scored = rescorer(Instances.concat(near) if len(near) > 1 else own, whole)
        spool.save("scored", i, {"scored": scored[first : first + len(own)]})


def _settle_bands(
    grid: Grid, spool: _Spool, kind: str, settings: Settle, elected: int | None
) -> None:
    """Settle the instances of each row of tiles among their neighbours above and below."""

    def read(i: int) -> Instances:
        cells = _cells(spool, kind, i)
        return cells if elected is None else cells.with_classes(elected)

    above: Instances | None = None  # final ones of the bands before that reach into this one
    for i, near in _with_neighbours(read, len(grid.rows)):
        if len(near) == 1:
            spool.save("band", i, {"band": settle(near[0], settings)})
            continue
        part = grid.rows[i]
        cells = Instances.concat(near)
        low, high = part.first - grid.overlap, part.last + grid.overlap
        cells = cells[(cells.boxes[:, 1] < high) & (cells.boxes[:, 3] > low)]
        if above is None:
            above = Instances.empty(grid.size, cells.names)
        above = above[above.boxes[:, 3] > low]
        # In a frame of their own: settling allots pixels on a plane of the size of the image.
        top, bottom = _reach(np.concatenate([cells.boxes, above.boxes]))
        # With room for what settling moves by the annotations' offset.
        top, bottom = max(top - ROOM, 0), min(bottom + ROOM, grid.size[0])
        frame = (bottom - top, grid.size[1])
        final = settle(cells.window(frame, (0, -top))[0], settings)
        centres = top + (final.boxes[:, 1] + final.boxes[:, 3]) / 2
        final = final[(part.first <= centres) & (centres < part.last)]
        # Two bands see the same at their border. Should they differ, the upper one has the pixel.
        before = above.window(frame, (0, -top))[0]
        both = Instances.concat([before, final])
        disjoint, rows = both.disjoint(np.arange(len(both)))
        final = disjoint[rows >= len(before)].window(grid.size, (0, top))[0]
        spool.save("band", i, {"band": final})
        above = Instances.concat([above, final])


def _reach(boxes: Boxes) -> tuple[int, int]:
    """First row of the image that some box has, and the one after the last; 0, 1 without boxes."""
    if not len(boxes):
        return 0, 1
    return int(boxes[:, 1].min()), int(boxes[:, 3].max())


def _with_neighbours(read: Any, count: int) -> Iterator[tuple[int, list[Any]]]:
    """Each number below ``count`` with what is read for it, the one before and the one after."""
    near: deque[Any] = deque(maxlen=3)
    near.append(read(0))
    for i in range(count):
        if i + 1 < count:
            near.append(read(i + 1))
        elif len(near) == 3:
            near.popleft()
        yield i, list(near)
