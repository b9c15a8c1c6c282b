"""Large images by parts: mapped files, and the gray levels of the whole from strips of it."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from somaseg.data import ome_zarr, tiff
from somaseg.data.axes import Plane
from somaseg.data.images import Levels, image_header, read_image, to_gray
from somaseg.errors import SomasegError

_KEPT = ("uint8", "uint16", "float32")
_STRIP = 1 << 22  # pixels that are looked at together


def map_image(path: str | Path, plane: Plane | None = None) -> Any:
    """Open a micrograph without reading it, if its pixels lie in the file as they are.

    That is so in uncompressed TIFF files of uint8, uint16 or float32; an OME-Zarr is read where it
    is asked for (:class:`somaseg.data.ome_zarr.LazyPlane`). Any other file is read whole, by
    :func:`somaseg.data.images.read_image`.

    Args:
        path: of the file.
        plane: which, where it holds several.

    Returns:
        ``(h, w)`` or ``(h, w, 3)``, not to be written to; :class:`Channels` of a plane of several.

    Raises:
        SomasegError: as ``read_image``; that a mapped image has values that are not finite is
            found by :func:`find_levels`.
    """
    path = Path(path)
    header = image_header(path)
    if plane is not None:
        parts = plane.parts()
        return _map_plane(path, plane) if len(parts) == 1 else Channels(path, parts)
    if not header.plain or not header.alone or path.is_dir():
        return read_image(path)
    try:
        mapped = tifffile.memmap(path, mode="r")
    except (ValueError, OSError, tifffile.TiffFileError):
        return read_image(path)  # a PNG, compressed, or broken: that is told there
    whole = mapped.shape[:2] == header.size and mapped.ndim in (2, 3)
    kind = mapped.dtype.newbyteorder("=")
    if not whole or kind not in (np.uint8, np.uint16, np.float32):
        return read_image(path)
    if mapped.ndim == 3:
        return mapped[..., 0] if mapped.shape[2] <= 2 else mapped[..., :3]  # without alpha
    return mapped


class Channels:
    """An image of several channels that lie apart: read where it is asked for, by slices.

    Attributes:
        planes: mapped, or read, ``(h, w)`` each.
        shape: ``(h, w, channels)``.
        dtype, size: as of an array.
    """

    ndim = 3

    def __init__(self, path: Path, parts: Sequence[Plane]) -> None:
        self.planes = [_map_plane(path, part) for part in parts]
        self.shape = (*self.planes[0].shape, len(parts))
        self.dtype = self.planes[0].dtype
        self.size = math.prod(self.shape)

    def __getitem__(self, key: slice | tuple[slice, ...]) -> npt.NDArray[Any]:
        return np.stack([np.asarray(plane[key]) for plane in self.planes], -1)


def _map_plane(path: Path, plane: Plane) -> npt.NDArray[Any]:
    if ome_zarr.is_zarr(path):
        lazy = ome_zarr.map_plane(path, plane)
        return lazy if str(lazy.dtype) in _KEPT else read_image(path, plane)
    mapped = None
    if _is_tiff(path):
        mapped = tiff.map_plane(path, plane)
    if mapped is None:
        return read_image(path, plane)
    colour = plane.channel if isinstance(plane.channel, int) else ...
    return mapped if mapped.ndim == 2 else mapped[..., colour]


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith(tiff.TIFF_MAGICS)


def find_levels(
    image: npt.NDArray[Any], low: float = 1.0, high: float = 99.0, name: str = "the image"
) -> tuple[float, float]:
    """Find the percentiles that :func:`somaseg.data.images.normalise` finds, a strip at a time.

    They are exact: the gray values' bits, in an order that is theirs, are counted by their upper
    half first and then, where the percentiles lie, by their lower half. So the image is gone
    through twice, and nothing of it is kept.

    Args:
        image: ``(h, w)`` or ``(h, w, 3)``, mapped or in memory.
        low: lower percentile, 0…100.
        high: upper percentile, above ``low``.
        name: what errors call the image.

    Returns:
        The two percentiles, or minimum and maximum where those coincide.

    Raises:
        SomasegError: no pixel, or some that are not finite.
    """
    total = int(image.shape[0]) * int(image.shape[1])
    if not total:
        raise SomasegError(f"{name}: its shape is {image.shape}, it has no pixels")
    counts = np.zeros(1 << 16, np.int64)
    for strip in _strips(image):
        bad = int(np.count_nonzero(~np.isfinite(strip)))
        if bad:
            raise SomasegError(
                f"{name}: {bad} of {image.size} values are not finite; replace the NaN and "
                "infinite pixels"
            )
        counts += np.bincount(_ordered(strip) >> 16, minlength=1 << 16)
    places = [q / 100 * (total - 1) for q in (low, high)]
    ranks = sorted(
        {0, total - 1, *(int(p) for p in places), *(min(int(p) + 1, total - 1) for p in places)}
    )
    ends = np.cumsum(counts)
    upper = np.searchsorted(ends, ranks, side="right")
    lower = {int(bin_): np.zeros(1 << 16, np.int64) for bin_ in upper}
    for strip in _strips(image):
        keys = _ordered(strip)
        for bin_, table in lower.items():
            table += np.bincount(keys[keys >> 16 == bin_] & 0xFFFF, minlength=1 << 16)
    values = {}
    for rank, bin_ in zip(ranks, upper.tolist(), strict=True):
        within = rank - (ends[bin_] - counts[bin_])
        low_bits = np.searchsorted(np.cumsum(lower[bin_]), within, side="right")
        values[rank] = _value(bin_ << 16 | int(low_bits))
    bottom, top = (
        _between(values[int(p)], values[min(int(p) + 1, total - 1)], p - int(p)) for p in places
    )
    if top <= bottom:
        return values[0], values[total - 1]
    return bottom, top


def channel_levels(image: Any, name: str = "the image") -> Levels:
    """Find the levels of each channel of an image ``(h, w, c)``: a pair each."""
    planes = getattr(image, "planes", None) or [image[..., k] for k in range(image.shape[2])]
    return tuple(find_levels(plane, name=name) for plane in planes)


def _strips(image: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.float32]]:
    height = max(1, _STRIP // int(image.shape[1]))
    for y in range(0, int(image.shape[0]), height):
        yield to_gray(np.asarray(image[y : y + height]))


def _ordered(gray: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Whole numbers (n,) of 32 bits in the order of the gray values."""
    # + 0 makes one zero of both; negative numbers' bits count backwards.
    bits = (gray.ravel() + np.float32(0)).view(np.uint32)
    flipped = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return flipped.astype(np.int64)


def _value(key: int) -> float:
    """Gray value of a number that :func:`_ordered` gives."""
    bits = key ^ (1 << 31) if key >> 31 else key ^ 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def _between(one: float, other: float, share: float) -> float:
    """Interpolate, as numpy does to the last bit."""
    step = float(np.float32(other) - np.float32(one))
    return one + step * share if share < 0.5 else other - step * (1 - share)
