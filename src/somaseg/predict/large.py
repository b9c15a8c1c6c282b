"""Images too large to be held at once: predicted by rows of tiles, settled by bands.

Memory is bounded by a row of tiles, whatever the height of the image. Each finished row is a file,
so that a killed prediction goes on where it was::

    FOLDER/plan.json      what is predicted: image, model, views, tiles
    FOLDER/row0000.npz    raw instances of a row's tiles
    FOLDER/cells0000.npz  raw instances joined over tiles
    FOLDER/band0000.npz   final instances
"""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from somaseg.data.augment import prepare_image
from somaseg.data.windows import find_levels
from somaseg.decide import Settle, settle
from somaseg.files import own_folder, read_json, remove_folder, write_json
from somaseg.instances import Instances
from somaseg.masks.flat import Boxes, Ints
from somaseg.predict.predictor import Finder, Progress
from somaseg.predict.stitch import stitch
from somaseg.predict.store import load_predictions, save_predictions
from somaseg.predict.tiles import Grid


class Bands:
    """Final instances of a large image: hard, disjoint, in bands from top to bottom, on disk.

    Iterating gives the instances of each band, in the image's frame; ``len`` is the number of all.

    Attributes:
        size: (height, width) of the image.
        paths: a file for each band.
        counts: instances of each.
        reaches: int64 (bands, 2), first row with a pixel of a band, and the one after the last.
    """

    def __init__(self, size: tuple[int, int], paths: Iterable[Path]) -> None:
        self.size, self.paths = size, tuple(paths)
        self.load = lru_cache(maxsize=3)(self._read)
        parts = [self.load(i) for i in range(len(self.paths))]
        self.counts = [len(part) for part in parts]
        self.reaches = np.array([_reach(part.boxes) for part in parts], np.int64)

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[Instances]:
        return (self.load(i) for i in range(len(self.paths)))

    def strip(self, start: int, stop: int) -> tuple[Instances, Ints]:
        """What is seen in the rows ``start … stop`` of the image.

        Returns:
            The instances with a pixel there, in the strip's own frame, cut off at its border; and
            their numbers in the whole image, int64 (n,), from 0.
        """
        size = (stop - start, self.size[1])
        before = np.concatenate([[0], np.cumsum(self.counts)])
        parts, numbers = [Instances.empty(size, self.load(0).names)], [np.zeros(0, np.int64)]
        for i in np.flatnonzero((self.reaches[:, 0] < stop) & (self.reaches[:, 1] > start)):
            part, rows = self.load(int(i)).window(size, (0, -start))
            parts.append(part)
            numbers.append(before[i] + rows)
        return Instances.concat(parts), np.concatenate(numbers)

    def _read(self, i: int) -> Instances:
        (band,) = load_predictions(self.paths[i]).values()
        return band


def segment_large(
    predictor: Finder,
    settings: Settle,
    one_class: bool,
    image: npt.NDArray[Any],
    folder: str | Path,
    levels: tuple[float, float] | None = None,
    stamp: Any = None,
    progress: Progress | None = None,
) -> Bands:
    """Segment an image as ``settle(predictor(image), …)`` does, in bounded memory.

    Args:
        predictor: gives raw instances of a tile.
        settings: by class name.
        one_class: all instances of the image get the class that has most of the scores.
        image: (h, w) or (h, w, 3), best mapped (:func:`somaseg.data.windows.map_image`).
        folder: for what is found on the way; rows of tiles that lie there already are not predicted
            again, if they are of the same image, model and tiles. New, empty, or made here before.
        levels: its percentiles, from :func:`somaseg.data.windows.find_levels`, if known already.
        stamp: what tells images of one size and of the same gray levels apart, JSON.
        progress: told after each tile.

    Returns:
        The final instances; the folder is theirs, to be removed after use.
    """
    folder = Path(folder)
    levels = levels or find_levels(image)
    grid = predictor.grid(image.shape)
    plan = {
        "predictor": predictor.fingerprint(),
        "image": [list(image.shape), str(image.dtype), list(levels), stamp],
    }
    if not (folder / "plan.json").exists() or read_json(folder / "plan.json") != plan:
        remove_folder(folder)
        own_folder(folder)
        write_json(folder / "plan.json", plan)
    _predict_rows(predictor, grid, image, levels, folder, progress)
    _join_rows(grid, folder)
    elected = _elected(grid, folder) if one_class else None
    _settle_bands(grid, folder, settings, elected)
    paths = [_path(folder, "band", i) for i in range(len(grid.rows))]
    return Bands(grid.size, paths)


def _path(folder: Path, kind: str, i: int) -> Path:
    return folder / f"{kind}{i:04d}.npz"


def _predict_rows(
    predictor: Finder,
    grid: Grid,
    image: npt.NDArray[Any],
    levels: tuple[float, float],
    folder: Path,
    progress: Progress | None,
) -> None:
    columns = len(grid.columns)
    for i in range(len(grid.rows)):
        path = _path(folder, "row", i)
        if path.exists():
            if progress:
                progress((i + 1) * columns, len(grid))
            continue
        found = {}
        for j in range(columns):
            gray = prepare_image(np.asarray(image[grid.slices(i, j)]), levels)
            found[str(j)] = predictor.find(gray, grid.shape)
            if progress:
                progress(i * columns + j + 1, len(grid))
        save_predictions(path, found)


def _join_rows(grid: Grid, folder: Path) -> None:
    """Join instances over tiles; what is at the border of two rows is written once, to one."""

    def read(i: int) -> dict[tuple[int, int], Instances]:
        found = load_predictions(_path(folder, "row", i))
        return {(i, int(j)): instances for j, instances in found.items()}

    for i, near in _with_neighbours(read, len(grid.rows)):
        joined, rows = stitch(grid, {k: v for found in near for k, v in found.items()})
        save_predictions(_path(folder, "cells", i), {"cells": joined[rows == i]})


def _elected(grid: Grid, folder: Path) -> int:
    """Class with most of the scores of all rows, as :func:`somaseg.decide.apply.vote` finds it."""
    votes: dict[int, float] = {}
    for i in range(len(grid.rows)):
        cells = load_predictions(_path(folder, "cells", i))["cells"]
        for label in np.unique(cells.classes[cells.classes >= 0]).tolist():
            scores = cells.scores[cells.classes == label]
            votes[label] = votes.get(label, 0.0) + float(scores.sum(dtype=np.float64))
    return max(sorted(votes), key=votes.__getitem__, default=-1)


def _settle_bands(grid: Grid, folder: Path, settings: Settle, elected: int | None) -> None:
    """Settle the instances of each row of tiles among their neighbours above and below."""

    def read(i: int) -> Instances:
        cells = load_predictions(_path(folder, "cells", i))["cells"]
        return cells if elected is None else cells.with_classes(elected)

    above: Instances | None = None  # final ones of the bands before that reach into this one
    for i, near in _with_neighbours(read, len(grid.rows)):
        part = grid.rows[i]
        cells = Instances.concat(near)
        low, high = part.first - grid.overlap, part.last + grid.overlap
        cells = cells[(cells.boxes[:, 1] < high) & (cells.boxes[:, 3] > low)]
        if above is None:
            above = Instances.empty(grid.size, cells.names)
        above = above[above.boxes[:, 3] > low]
        # In a frame of their own: settling allots pixels on a plane of the size of the image.
        top, bottom = _reach(np.concatenate([cells.boxes, above.boxes]))
        frame = (bottom - top, grid.size[1])
        final = settle(cells.window(frame, (0, -top))[0], settings)
        centres = top + (final.boxes[:, 1] + final.boxes[:, 3]) / 2
        final = final[(part.first <= centres) & (centres < part.last)]
        # Two bands see the same at their border. Should they differ, the upper one has the pixel.
        before = above.window(frame, (0, -top))[0]
        both = Instances.concat([before, final])
        disjoint, rows = both.disjoint(np.arange(len(both)))
        final = disjoint[rows >= len(before)].window(grid.size, (0, top))[0]
        save_predictions(_path(folder, "band", i), {"band": final})
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
