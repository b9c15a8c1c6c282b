"""Cut an image into overlapping tiles, of which each answers for a core of its own.

All tiles lie alike on the network's grid. A network of stride 32 sees an image moved by some pixels
as another image: of cells near the threshold it finds others. With tiles laid anywhere, 5 % of the
cells far from any seam were other ones than in the whole image; on the grid 0.2 % were (the flow
network that comes with somaseg, a synthetic image of 1200 × 1200 with some 900 cells).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from somaseg.errors import SomasegError


class Part(NamedTuple):
    """A tile along one side of an image, in pixels.

    Attributes:
        start, stop: what it sees of the image.
        first, last: what it answers for; the parts of a side share it out.
        side: its length. A last one may stick out of the image.
    """

    start: int
    stop: int
    first: int
    last: int
    side: int


def cut_side(length: int, tile: int, overlap: int, unit: int = 1) -> tuple[Part, ...]:
    """Cut a side into tiles of equal length that overlap, with as little to compute as can be.

    Args:
        length: of the side, in pixels.
        tile: no part is longer; a side not longer is one part.
        overlap: of neighbours, at least; at most a third of the tile.
        unit: tiles begin, and are long, whole multiples of it.

    Returns:
        The parts; what they answer for meets midway between neighbours.
    """
    if length <= tile:
        return (Part(0, length, 0, length, length),)
    plans = []
    for side in range(tile // unit * unit, overlap, -unit):
        step = (side - overlap) // unit * unit
        if step:
            count = -(-(length - side) // step) + 1
            plans.append((count * side, count, side))
    _, count, side = min(plans)
    last = -(-(length - side) // unit)  # in units
    starts = [-(-i * last // (count - 1)) * unit for i in range(count)]
    borders = [(start + before + side) // 2 for before, start in itertools.pairwise(starts)]
    return tuple(
        Part(start, min(start + side, length), first, end, side)
        for start, first, end in zip(starts, [0, *borders], [*borders, length], strict=True)
    )


def network_unit(scale: float, multiple: int, tile: int) -> int:
    """Fewest image pixels that are a whole number of the network's coarsest pixels.

    For every multiple of it up to ``tile``, the image scaled to whole network pixels is a multiple
    of ``multiple``. 1 where only more than a third of the tile would do.

    Args:
        scale: network pixels per image pixel.
        multiple: network pixels in its coarsest one.
        tile: largest side of a tile, in image pixels.
    """
    for unit in range(1, tile // 3 + 1):
        cells = round(unit * scale / multiple)
        error = abs(unit * scale - cells * multiple)
        if cells and error * (tile // unit) < 0.5:
            return unit
    return 1


@dataclass(frozen=True)
class Grid:
    """The tiles of an image.

    Args:
        size: (height, width) of the image in pixels.
        tile: largest side of a tile.
        overlap: of neighbouring tiles, at least; a longer cell may be seen whole by none.
        unit: tiles begin, and are long, whole multiples of it.

    Raises:
        SomasegError: the overlap is negative, or wider than a third of a tile.
    """

    size: tuple[int, int]
    tile: int
    overlap: int
    unit: int = 1

    def __post_init__(self) -> None:
        if not 0 <= 3 * self.overlap <= self.tile:
            raise SomasegError(
                f"tiles of {self.tile} pixels overlap by 0 … {self.tile // 3}, "
                f"not {self.overlap}; take larger tiles or a smaller overlap"
            )

    @cached_property
    def rows(self) -> tuple[Part, ...]:
        """The tiles from top to bottom."""
        return cut_side(self.size[0], self.tile, self.overlap, self.unit)

    @cached_property
    def columns(self) -> tuple[Part, ...]:
        """The tiles from left to right."""
        return cut_side(self.size[1], self.tile, self.overlap, self.unit)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of a tile."""
        return self.rows[0].side, self.columns[0].side

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Row and column of each tile, row by row."""
        return ((i, j) for i in range(len(self.rows)) for j in range(len(self.columns)))

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def slices(self, i: int, j: int) -> tuple[slice, slice]:
        """The pixels that tile (i, j) sees."""
        row, column = self.rows[i], self.columns[j]
        return slice(row.start, row.stop), slice(column.start, column.stop)
