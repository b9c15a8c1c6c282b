"""Write an image and its cells as OME-Zarr 0.4, which napari, Fiji and QuPath open.

::

    ID.ome.zarr/0, 1, …           the image, each level half as wide and high as the one before
    ID.ome.zarr/labels/cells/0, … label image: cell k has the value k

See https://ngff.openmicroscopy.org/0.4/
"""

from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from somaseg.data.axes import RGB
from somaseg.data.composite import COLOURS
from somaseg.errors import SomasegError
from somaseg.folders import atomic_folder
from somaseg.masks.flat import Size
from somaseg.predict.bands import Bands

VERSION = "0.4"
CELLS = "cells"
"""Name of the label image."""
_CHUNK = 1024
_SMALL = 1024  # sides of the coarsest level, at most


def check_zarr() -> None:
    """Refuse to write where zarr is not installed.

    Raises:
        SomasegError: it is not.
    """
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise SomasegError("OME-Zarr needs zarr; pip install 'somaseg[lab]'") from error


def write_ome_zarr(
    path: str | Path,
    image: npt.NDArray[Any],
    bands: Bands,
    pixel_size: float | None = None,
    channels: Sequence[str] = (),
) -> None:
    """Write one image with its cells, strip by strip; the folder is there whole or not at all.

    Args:
        path: ends in ``.ome.zarr``.
        image: (h, w), (h, w, 3) or (h, w, c), mapped or in memory.
        bands: its cells.
        pixel_size: side of a pixel in µm, if known.
        channels: their names; three without are red, green and blue.

    Raises:
        SomasegError: zarr is not installed.
        somaseg.files.CannotWrite: the disk is full, …
    """
    check_zarr()
    import zarr

    path = Path(path)
    colours = image.ndim == 3
    with atomic_folder(path) as temporary:
        root = zarr.open_group(temporary, mode="a", zarr_format=2)
        _write_levels(root, bands.size, image.dtype, _pixels(image), image.shape[2:])
        name = path.name.removesuffix(".ome.zarr")
        root.attrs["multiscales"] = _multiscales(name, bands.size, pixel_size, colours)
        if colours:
            hues = COLOURS if channels else ("FF0000", "00FF00", "0000FF")
            listed = zip(channels or RGB, cycle(hues), strict=False)
            top = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
            root.attrs["omero"] = {
                "channels": [
                    {
                        "label": label,
                        "color": colour,
                        "active": True,
                        "window": {"min": 0, "max": int(top), "start": 0, "end": int(top)},
                    }
                    for label, colour in listed
                ]
            }
        labels = root.create_group("labels")
        labels.attrs["labels"] = [CELLS]
        cells = labels.create_group(CELLS)
        dtype = np.uint16 if len(bands) <= np.iinfo(np.uint16).max else np.uint32
        _write_levels(cells, bands.size, dtype, _labels(bands, dtype))
        cells.attrs["multiscales"] = _multiscales(CELLS, bands.size, pixel_size, False)
        cells.attrs["image-label"] = {
            "version": VERSION,
            "source": {"image": "../../"},
            "properties": list(_properties(bands)),
        }


def _levels(size: Size) -> list[Size]:
    found = [size]
    while max(found[-1]) > _SMALL:
        found.append(((found[-1][0] + 1) // 2, (found[-1][1] + 1) // 2))
    return found


def _write_levels(
    group: Any,
    size: Size,
    dtype: npt.DTypeLike,
    strips: Iterator[tuple[int, npt.NDArray[Any]]],
    colours: tuple[int, ...] = (),
) -> None:
    arrays = []
    for k, (height, width) in enumerate(_levels(size)):
        arrays.append(
            group.create_array(
                str(k),
                shape=(*colours, height, width),
                chunks=(*(1 for _ in colours), min(_CHUNK, height), min(_CHUNK, width)),
                dtype=np.dtype(dtype).newbyteorder("="),
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )
        )
    for start, strip in strips:
        part = np.moveaxis(strip, -1, 0) if colours else strip
        arrays[0][..., start : start + strip.shape[0], :] = part
    # Every other pixel: label numbers must not be mixed, and the image lies under them alike.
    for finer, coarser in pairwise(arrays):
        height = coarser.shape[-2]
        for start in range(0, height, _CHUNK):
            stop = min(start + _CHUNK, height)
            part = np.asarray(finer[..., 2 * start : 2 * stop, :])
            coarser[..., start:stop, :] = part[..., ::2, ::2]


def _pixels(image: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    for start in range(0, image.shape[0], _CHUNK):
        yield start, np.asarray(image[start : start + _CHUNK])


def _labels(bands: Bands, dtype: npt.DTypeLike) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    height = bands.size[0]
    for start in range(0, height, _CHUNK):
        cells, numbers = bands.strip(start, min(start + _CHUNK, height))
        table = np.concatenate([[0], numbers + 1]).astype(dtype)
        yield start, table[cells.to_labels()]


def _multiscales(
    name: str, size: Size, pixel_size: float | None, colours: bool
) -> list[dict[str, Any]]:
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if colours else []
    unit = {} if pixel_size is None else {"unit": "micrometer"}
    axes += [{"name": side, "type": "space", **unit} for side in "yx"]
    side = pixel_size or 1.0
    datasets = [
        {
            "path": str(k),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0] * colours + [side * 2**k, side * 2**k]}
            ],
        }
        for k in range(len(_levels(size)))
    ]
    return [{"version": VERSION, "name": name, "axes": axes, "datasets": datasets}]


def _properties(bands: Bands) -> Iterator[dict[str, Any]]:
    number = 0
    for part in bands:
        for kind, score in zip(part.classes.tolist(), part.scores.tolist(), strict=True):
            number += 1
            named = {"class": part.names[kind]} if kind >= 0 else {}
            yield {"label-value": number, **named, "score": round(score, 6)}
