"""Label images and overlays of any size, strip by strip."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from somaseg.data.composite import composite
from somaseg.data.images import Levels, stretch, to_gray
from somaseg.data.windows import channel_levels, find_levels
from somaseg.files import atomic_path
from somaseg.predict.bands import Bands
from somaseg.report.overlays import overlay

TILE = 256
"""Side of the tiles inside large TIFF files, pixels."""
STRIP = 4096 * 4096
"""Pixels that are drawn at once, about; a smaller image is one strip."""


def write_label_image(path: str | Path, bands: Bands, ome: Mapping[str, Any] | None = None) -> None:
    """Write a label image: TIFF of 16 bit, or of 32 above 65,535 cells; cell k of the bands is k.

    Args:
        path: of the file.
        bands: the cells.
        ome: makes it an OME-TIFF, with these metadata.

    Raises:
        somaseg.files.CannotWrite: the disk is full, …
    """
    dtype = np.uint16 if len(bands) <= np.iinfo(np.uint16).max else np.uint32

    def strips() -> Iterator[npt.NDArray[Any]]:
        for start, stop in _strips(bands.size):
            cells, numbers = bands.strip(start, stop)
            table = np.concatenate([[0], numbers + 1]).astype(dtype)
            yield table[cells.to_labels()]

    _write_tiff(path, bands.size, dtype, strips(), "minisblack", ome)


def write_overlay(path: str | Path, image: npt.NDArray[Any], bands: Bands) -> None:
    """Draw the outlines over the image, as :func:`somaseg.report.overlays.overlay` does.

    Args:
        path: ends in ``.png``, or ``.tif`` for images of more than 2³¹ bytes or so.
        image: (h, w), (h, w, 3) or (h, w, channels), mapped or in memory.
        bands: its cells.
    """
    height = bands.size[0]
    levels = _shown(image)

    def strips() -> Iterator[npt.NDArray[Any]]:
        for start, stop in _strips(bands.size):
            # With a row of the neighbours: an outline ends where the cell does, not the strip.
            top, bottom = max(start - 1, 0), min(stop + 1, height)
            part = np.asarray(image[top:bottom])
            if image.ndim == 3 and image.shape[2] != 3:
                part = composite(part, levels)
            elif levels is not None:
                gray = stretch(to_gray(part), *levels)  # type: ignore[arg-type]
                part = np.clip(np.round(gray * 255), 0, 255).astype(np.uint8)
            if part.ndim == 2:
                part = np.repeat(part[..., None], 3, axis=2)
            drawn = overlay(part, bands.strip(top, bottom)[0], fill=0.15)
            yield drawn[start - top : len(drawn) - (bottom - stop)]

    if Path(path).suffix == ".png":
        drawn = np.concatenate(list(strips()))
        with atomic_path(path) as temporary:
            temporary.write_bytes(cv2.imencode(".png", drawn[..., ::-1])[1].tobytes())
    else:
        _write_tiff(path, (*bands.size, 3), np.uint8, strips(), "rgb")


def _shown(image: npt.NDArray[Any]) -> Levels | None:
    """Gray values that become black and white; none for 8-bit images that are shown as they are.

    The same as :func:`somaseg.report.overlays.to_rgb` finds in an image that is held whole.
    """
    if image.ndim == 3 and image.shape[2] != 3:
        return channel_levels(image)
    if image.dtype != np.uint8:
        return find_levels(image)
    if image.ndim == 3:
        return None
    bright = sum(
        np.count_nonzero(np.asarray(image[start:stop]) > 127)
        for start, stop in _strips((image.shape[0], image.shape[1]))
    )
    return find_levels(image, high=99.9) if bright < 0.001 * image.size else None


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    height = size[0]
    step = height if height * size[1] <= STRIP else TILE
    return ((start, min(start + step, height)) for start in range(0, height, step))


def _write_tiff(
    path: str | Path,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    strips: Iterator[npt.NDArray[Any]],
    photometric: str,
    ome: Mapping[str, Any] | None = None,
) -> None:
    """Write strips as a compressed TIFF; several, each ``TILE`` high, in square tiles."""
    data: Any = None
    options: dict[str, Any] = {} if ome is None else {"ome": True, "metadata": dict(ome)}
    if shape[0] * shape[1] <= STRIP:
        (data,) = strips
    else:
        data = (
            np.ascontiguousarray(strip[:, x : x + TILE])
            for strip in strips
            for x in range(0, shape[1], TILE)
        )
        options |= {"shape": shape, "dtype": dtype, "tile": (TILE, TILE)}
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, data, compression="zlib", photometric=photometric, **options)
