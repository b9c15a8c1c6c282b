"""Read OME-Zarr folders (versions 0.4 and 0.5, https://ngff.openmicroscopy.org) with zarr.

The metadata are read here, as JSON, and held against the limits before zarr decodes anything.
Codecs are named in them: those that run code (pickle) are refused.
"""

import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from somaseg.data.axes import Axes, Facts, Plane, from_letters
from somaseg.data.pixel_size import with_pixel_size
from somaseg.errors import SomasegError
from somaseg.files import damaged, read_json
from somaseg.limits import check_pixels

_CODECS = {
    "blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "shuffle", "delta", "bytes", "crc32c",
    "transpose", "sharding_indexed",
}  # fmt: skip
_KEYS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


def is_zarr(path: Path) -> bool:
    """Whether a path is a Zarr folder, by its name or the files in it."""
    try:
        return path.is_dir() and (
            path.suffix.lower() == ".zarr" or any((path / key).is_file() for key in _KEYS)
        )
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class _Image:
    """A multiscale image: its finest array, and what its axes are."""

    array: Path
    letters: str
    shape: tuple[int, ...]
    dtype: np.dtype
    axes: Axes
    order: str
    scenes: int


def read_facts(path: Path, scene: int = 0) -> Facts:
    """Read what an OME-Zarr says of its finest level.

    Raises:
        SomasegError: no OME-Zarr, a plate, axes that are not known, codecs that are refused, or
            zarr is not installed.
    """
    image = _image(path, scene)
    return Facts(image.shape[-2:], 1, str(image.dtype), image.axes, image.scenes)  # type: ignore[arg-type]


def read_plane(path: Path, plane: Plane) -> npt.NDArray[Any]:
    """Read a plane, (h, w).

    Raises:
        SomasegError: as :func:`read_facts`; damaged, or too large.
    """
    lazy = map_plane(path, plane)
    check_pixels(path, *lazy.shape)
    return lazy[:, :]


class LazyPlane:
    """A plane of an OME-Zarr that is read where it is asked for, by slices of rows and columns."""

    ndim = 2

    def __init__(self, path: Path, image: _Image, plane: Plane) -> None:
        import zarr

        self.path, self.shape, self.dtype = path, image.shape[-2:], image.dtype
        self.size = math.prod(self.shape)
        self._fronts = [_front(image, step, plane.one) for step in plane.steps(image.axes)]
        try:
            self._array: Any = zarr.open_array(image.array, mode="r")
        except Exception as error:  # zarr raises many kinds
            raise damaged(path, error) from error

    def __getitem__(self, key: slice | tuple[slice, ...]) -> npt.NDArray[Any]:
        window = key if isinstance(key, tuple) else (key, slice(None))
        brightest: npt.NDArray[Any] | None = None
        for front in self._fronts:
            try:
                part = np.asarray(self._array[(*front, *window)])
            except Exception as error:  # of codecs as well
                raise damaged(self.path, error) from error
            brightest = part if brightest is None else np.maximum(brightest, part)
        assert brightest is not None
        return brightest


def map_plane(path: Path, plane: Plane) -> Any:
    """Open a plane without reading it; see :class:`LazyPlane`."""
    return LazyPlane(path, _image(path, plane.scene), plane)


def _front(image: _Image, step: tuple[int, int], channel: int | None) -> tuple[int, ...]:
    """Numbers along the axes before those of a plane."""
    places = {"T": step[0], "Z": step[1], "C": channel or 0}
    shape = image.shape[:-2]
    front = tuple(
        places[letter] if n > 1 else 0 for letter, n in zip(image.letters, shape, strict=True)
    )
    if any(place >= length for place, length in zip(front, shape, strict=True)):
        raise SomasegError(f"{image.array}: no plane {places} in a stack of {image.axes}")
    return front


def _image(path: Path, scene: int) -> _Image:
    if importlib.util.find_spec("zarr") is None:
        raise SomasegError(f"{path}: OME-Zarr needs zarr; pip install 'somaseg[lab]'")
    folder, scenes = path, 1
    told = _attributes(path)
    if "plate" in told or "well" in told:
        raise SomasegError(f"{path}: a plate or well; give one of its fields, as {path}/A/1/0")
    if "bioformats2raw.layout" in told:
        numbered = sorted((p for p in path.iterdir() if p.name.isdecimal()), key=_number)
        if scene >= len(numbered):
            raise SomasegError(f"{path}: no image in it; convert it again")
        folder, scenes = numbered[scene], len(numbered)
        told = _attributes(folder)
    multiscales = told.get("multiscales")
    try:
        first = multiscales[0]  # type: ignore[index]
        level = first["datasets"][0]
        array = folder / level["path"]
        letters = "".join(_letter(axis) for axis in first["axes"])
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise SomasegError(
            f"{path}: no OME-Zarr metadata (multiscales with axes and datasets); write it by "
            "OME-Zarr 0.4 or 0.5, or save the array as TIFF"
        ) from error
    if not array.resolve().is_relative_to(path.resolve()):
        raise SomasegError(f"{path}: its array lies outside of it ({level['path']}); refused")
    shape, dtype = _array(array, path)
    if len(letters) != len(shape) or letters[-2:] != "YX":
        raise SomasegError(
            f"{path}: mixed axes: {letters.lower()} named for an array of {len(shape)} axes; they "
            "must be of t, c, z, y, x, the last two y and x"
        )
    try:
        axes, order = from_letters(letters[:-2], shape[:-2])
    except SomasegError as error:
        raise SomasegError(f"{path}: {error}") from error
    labels = [c.get("label") for c in _dicts(_dict(told.get("omero")).get("channels"))]
    if len(labels) == axes.channels > 1 and all(isinstance(name, str) for name in labels):
        axes = replace(axes, names=tuple(map(str, labels)))
    axes = _sized(axes, first, level)
    return _Image(array, letters[:-2], shape, dtype, axes, order, scenes)


def _attributes(folder: Path) -> dict[str, Any]:
    """OME's attributes of a group; none if it has none."""
    if (folder / "zarr.json").is_file():
        return _dict(_dict(_dict(read_json(folder / "zarr.json")).get("attributes")).get("ome"))
    return _dict(read_json(folder / ".zattrs")) if (folder / ".zattrs").is_file() else {}


def _array(folder: Path, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, whose parts and codecs are such as are read."""
    new = (folder / "zarr.json").is_file()
    told = _dict(read_json(folder / ("zarr.json" if new else ".zarray")))
    try:
        if new:
            grid = told["chunk_grid"]["configuration"]["chunk_shape"]
            codecs, parts = _codecs(told.get("codecs") or [], grid)
            dtype = np.dtype(str(told["data_type"]))
        else:
            codecs = [c["id"] for c in [told.get("compressor"), *(told.get("filters") or [])] if c]
            parts, dtype = told["chunks"], np.dtype(str(told["dtype"]))
        shape = tuple(int(n) for n in told["shape"])
        chunk = math.prod(int(n) for n in parts)
        if dtype.kind not in "biuf" or not shape or min(shape) < 1 or chunk < 1:
            raise ValueError(f"an array of {dtype} {shape}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"{folder.name}: {error!r}") from error
    refused = [codec for codec in codecs if codec not in _CODECS]
    if refused:
        raise SomasegError(f"{path}: codec {refused[0]!r} is not read; write it with zstd or blosc")
    check_pixels(path, 1, chunk)
    return shape, dtype


def _codecs(told: list[Any], chunk: list[int]) -> tuple[list[str], list[int]]:
    """Names of codecs, and the shape of what is decoded at once: within shards, a part of them."""
    names = []
    for codec in told:
        names.append(str(codec["name"]))
        if names[-1] == "sharding_indexed":
            inner = codec["configuration"]
            for key in ("codecs", "index_codecs"):
                more, _ = _codecs(inner.get(key) or [], chunk)
                names += more
            chunk = inner["chunk_shape"]
    return names, chunk


def _letter(axis: Any) -> str:
    name = axis["name"] if isinstance(axis, dict) else axis
    return str(name).upper() if len(str(name)) == 1 else "?"


def _sized(axes: Axes, multiscale: dict[str, Any], level: dict[str, Any]) -> Axes:
    """Add the pixel size: scales of the level and of the whole, in the unit of the axes."""
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in multiscale["axes"]]
    lengths = [1.0] * len(units)
    for told in (level, multiscale):
        for step in _dicts(told.get("coordinateTransformations")):
            scale = step.get("scale")
            if isinstance(scale, list) and len(scale) == len(units):
                try:
                    lengths = [a * float(b) for a, b in zip(lengths, scale, strict=True)]
                except (TypeError, ValueError):
                    return axes
    return with_pixel_size(axes, (lengths[-1], units[-1]), (lengths[-2], units[-2]))


def _number(path: Path) -> int:
    return int(path.name)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []
