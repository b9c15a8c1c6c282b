"""Results of images too large to be held at once: TIFF files written tile by tile."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from somaseg.data.images import stretch, to_gray
from somaseg.files import atomic_path
from somaseg.predict.large import Bands
from somaseg.report.overlays import overlay

TILE = 256
"""Side of the tiles inside the TIFF files, pixels."""


def write_large_labels(path: str | Path, bands: Bands) -> None:
    """Write a label image: TIFF of 16 bit, or of 32 above 65,535 cells; cells in reading order."""
    dtype = np.uint16 if len(bands) <= np.iinfo(np.uint16).max else np.uint32

    def strips() -> Iterator[npt.NDArray[Any]]:
        for start, stop in _strips(bands.size[0]):
            cells, numbers = bands.strip(start, stop)
            table = np.concatenate([[0], numbers + 1]).astype(dtype)
            yield table[cells.to_labels()]

    _write(path, (*bands.size,), dtype, strips(), "minisblack")


def write_large_overlay(
    path: str | Path, image: npt.NDArray[Any], bands: Bands, levels: tuple[float, float]
) -> None:
    """Draw the outlines over the image, as :func:`somaseg.report.overlays.overlay`, as a TIFF.

    Args:
        path: the TIFF.
        image: (h, w) or (h, w, 3).
        bands: its cells.
        levels: gray values that become black and white, unless the image is 8 bit and bright.
    """
    height = bands.size[0]
    plain = image.dtype == np.uint8 and levels[1] > 127

    def strips() -> Iterator[npt.NDArray[Any]]:
        for start, stop in _strips(height):
            # With a row of the neighbours: an outline ends where the cell does, not the strip.
            top, bottom = max(start - 1, 0), min(stop + 1, height)
            part = np.asarray(image[top:bottom])
            if not plain:
                gray = stretch(to_gray(part), *levels)
                part = np.clip(np.round(gray * 255), 0, 255).astype(np.uint8)
            if part.ndim == 2:
                part = np.repeat(part[..., None], 3, axis=2)
            drawn = overlay(part, bands.strip(top, bottom)[0], fill=0.15)
            yield drawn[start - top : len(drawn) - (bottom - stop)]

    _write(path, (*bands.size, 3), np.uint8, strips(), "rgb")


def _strips(height: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + TILE, height)) for start in range(0, height, TILE))


def _write(
    path: str | Path,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    strips: Iterator[npt.NDArray[Any]],
    photometric: str,
) -> None:
    """Write strips, ``TILE`` high, as a compressed TIFF in square tiles."""
    tiles = (
        np.ascontiguousarray(strip[:, x : x + TILE])
        for strip in strips
        for x in range(0, shape[1], TILE)
    )
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            tiles,
            shape=shape,
            dtype=dtype,
            tile=(TILE, TILE),
            compression="zlib",
            photometric=photometric,
        )
