"""What a TIFF file holds: its planes and where they lie, how their numbers are meant."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile

from somaseg.data.axes import MOST_PLANES, Axes, from_letters
from somaseg.data.pictures import ORIENTATION
from somaseg.data.pixel_size import with_pixel_size
from somaseg.errors import SomasegError
from somaseg.files import damaged


@dataclass(frozen=True)
class Page:
    """The planes of a scene, all alike, and how their numbers are meant.

    Attributes:
        size: ``(height, width)``.
        shape: of what is stored of a plane, ``(h, w)`` or ``(h, w, samples)``.
        part: ``(height, width)`` of its strips or tiles.
        dtype: of what is stored.
        palette: uint8 (n, 3), RGB of each number; none without one.
        inverted: 0 is white.
        white: the largest number of the bits that a pixel has.
        orientation: see :class:`somaseg.data.images.Header`.
        axes: how many planes there are.
        scenes: how many such sets the file has.
        order: letters of the axes with several planes, as they follow each other in the file.
        samples: numbers of a pixel; where they are neither gray, RGB nor alpha, its channels.
        samples_are_channels: whether that is so.
        separate: samples are stored one after the other, each as a plane.
        indices: directory of each plane.
        offset: place of the first plane's pixels, where all of them lie as they are, in a row.
        stored: dtype with its byte order.
    """

    size: tuple[int, int]
    shape: tuple[int, ...]
    part: tuple[int, int]
    dtype: str
    palette: npt.NDArray[np.uint8] | None
    inverted: bool
    white: int
    orientation: int
    axes: Axes = field(default_factory=Axes)
    scenes: int = 1
    order: str = ""
    samples: int = 1
    samples_are_channels: bool = False
    separate: bool = False
    indices: tuple[int, ...] = ()
    offset: int | None = None
    stored: str = ""

    @property
    def colours(self) -> int:
        """1 for gray, 3 for RGB, as it is shown; alpha is not counted."""
        rgb = self.samples in (3, 4) and not self.samples_are_channels
        return 3 if self.palette is not None or rgb else 1

    @property
    def plain(self) -> bool:
        """Whether the numbers stored are those shown."""
        return not self.inverted and self.palette is None

    @property
    def small_type(self) -> bool:
        """Whether the numbers are of a type that images are kept in."""
        return self.dtype in ("uint8", "uint16", "float32")

    def number(self, step: tuple[int, int], channel: int | None) -> int:
        """Place of a plane in the file's order, from its frame, slice and channel.

        Raises:
            SomasegError: there is none.
        """
        c = 0 if self.samples_are_channels else channel or 0
        places = {"T": step[0], "Z": step[1], "C": c}
        lengths = {"T": self.axes.frames, "Z": self.axes.slices, "C": self.axes.channels}
        found = 0
        for letter in self.order:
            if places[letter] >= lengths[letter]:
                raise SomasegError(f"no plane {places} in a stack of {self.axes}")
            found = found * lengths[letter] + places[letter]
        return found


def describe(tiff: tifffile.TiffFile, path: Path, scene: int = 0) -> Page:
    """Say what a TIFF file holds; refuse pixels that nobody wrote or explained.

    Raises:
        SomasegError: damaged, axes other than T, Z and C, or planes that differ.
    """
    try:
        _check_pages(tiff)
        _check_claims(tiff)
        series = _scenes(tiff)
        one = series[scene]
        if tiff.is_imagej and one.kind in ("generic", "uniform"):
            raise ValueError("its ImageJ metadata claim other planes than it holds")
        page = one.keyframe
        size = (int(page.imagelength), int(page.imagewidth))
        samples, bits = int(page.samplesperpixel), int(page.bitspersample)
        photometric, extra = int(page.photometric), tuple(int(kind) for kind in page.extrasamples)
        separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and samples > 1
        part = (int(page.tilelength), int(page.tilewidth)) if page.is_tiled else size
        written = is_written(page)
        orientation = int(page.tags.valueof(ORIENTATION, 1))
        coloured = photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None
        palette = (np.asarray(page.colormap).T >> 8).astype(np.uint8) if coloured else None
        dtype = np.dtype(one.dtype)
        # Samples stored one after the other are an axis S, or C as Bio-Formats has it.
        outer = [
            (letter, length)
            for letter, length in zip(one.axes, one.shape, strict=True)
            if letter not in "YXS" and not (separate and letter == "C" and length == samples)
        ]
        deep = int(page.imagedepth) > 1
    except Exception as error:  # whatever a broken header raises in tifffile
        raise damaged(path, error) from error
    if not written:
        raise damaged(path, "some of its strips or tiles were never written")
    if palette is not None and (palette.shape != (2**bits, 3) or samples > 1):
        raise damaged(path, "its colour table does not fit the pixels")
    sizes = {(s.keyframe.imagelength, s.keyframe.imagewidth) for s in series}
    if len(series) > 1 and not tiff.is_ome:
        listed = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
        raise SomasegError(
            f"{path}: mixed axes: {len(series)} images that are no stack ({listed} pixels); save "
            "each by itself"
        )
    with_alpha = extra[:1] in ((1,), (2,)) or (
        samples == 4 and photometric == tifffile.PHOTOMETRIC.RGB
    )
    many = not (samples in (1, 3) or (samples in (2, 4) and with_alpha))
    try:
        axes, order = from_letters("".join(a for a, _ in outer), [n for _, n in outer])
        if deep or (many and axes.channels > 1):
            raise SomasegError("mixed axes: channels or slices within its pages; save them apart")
    except SomasegError as error:
        raise SomasegError(f"{path}: {error}") from error
    if axes.planes > 1 or len(series) > 1:
        indices, offset = _places(tiff, path, one, axes.planes, size, samples)
    else:
        indices, offset = (int(np.ravel(page.index)[0]),), None
    if many:
        axes = replace(axes, channels=samples)
    return Page(
        size,
        size if samples == 1 else (*size, samples),
        part,
        str(dtype),
        palette,
        photometric == tifffile.PHOTOMETRIC.MINISWHITE and samples == 1,
        2**bits - 1,
        orientation,
        _annotated(tiff, page, axes, scene),
        len(series),
        order,
        samples,
        many,
        separate,
        indices,
        offset,
        str(dtype.newbyteorder(tiff.byteorder)),
    )


def is_written(page: Any) -> bool:
    """Whether all strips or tiles of a page have a place in the file."""
    written = min(map(min, (page.dataoffsets, page.databytecounts)), default=0) > 0
    return written and len(page.dataoffsets) >= math.prod(page.chunked)


def _scenes(tiff: tifffile.TiffFile) -> list[Any]:
    """Series of the file that are images: no smaller copies, no pictures of a slide's glass."""
    found = list(tiff.series[:1])
    if not (tiff.is_svs or tiff.is_ndpi):
        others = tiff.series[1:]
        found += [s for s in others if not (s.keyframe.is_reduced or s.keyframe.is_mask)]
    return found


def _places(
    tiff: tifffile.TiffFile,
    path: Path,
    series: Any,
    planes: int,
    size: tuple[int, int],
    samples: int,
) -> tuple[tuple[int, ...], int | None]:
    """Where the planes lie: their directories, or the place of the first in the file."""
    offset = series.dataoffset
    if offset is not None:
        end = offset + planes * size[0] * size[1] * samples * np.dtype(series.dtype).itemsize
        if end > tiff.filehandle.size:
            raise damaged(path, f"it claims {planes} planes, more than it holds")
        return (), int(offset)
    try:
        pages = [series[k] for k in range(min(planes, len(series)))]
    except Exception as error:  # a directory that is not there
        raise damaged(path, error) from error
    if len(pages) < planes or any(page is None for page in pages):
        raise damaged(path, f"it claims {planes} planes, some of which are not there")
    indices = [page.index for page in pages]
    if not all(isinstance(index, int) for index in indices):
        raise SomasegError(f"{path}: mixed axes: planes within planes; save each by itself")
    return tuple(indices), None


def _check_pages(tiff: tifffile.TiffFile) -> None:
    """Refuse directories that point at each other: read as a stack, they never end."""
    seen: set[int] = set()
    for page in tiff.pages:
        if page.offset in seen:
            raise ValueError("its pages follow each other in a circle")
        seen.add(page.offset)


_CLAIM = re.compile(
    r"\b(Size[TZC]|PlaneCount|NumPlanes|IFD|First[TZC]|SamplesPerPixel)\s*=\s*[\"']\s*(\d+)"
)


def _check_claims(tiff: tifffile.TiffFile) -> None:
    """Refuse OME metadata that claim more planes than memory is taken for."""
    text = tiff.ome_metadata if tiff.is_ome else None
    if text is None:
        return
    if re.search(r"<\w*:?ModuloAlong", text):
        raise ValueError("its OME metadata have further axes (ModuloAlong)")
    pages = len(tiff.pages)
    for name, number in _CLAIM.findall(text):
        most = MOST_PLANES if name.startswith("Size") else max(pages, 64)
        if len(number) > 9 or int(number) > most:
            raise ValueError(f"its OME metadata claim {name} {number[:20]}; it has {pages} pages")


def _annotated(tiff: tifffile.TiffFile, page: Any, axes: Axes, scene: int) -> Axes:
    """Add what ImageJ and OME note: names of channels, size of a pixel."""
    if tiff.is_ome and tiff.ome_metadata:
        return _ome(tiff.ome_metadata, axes, scene)
    if tiff.is_imagej:
        unit = (tiff.imagej_metadata or {}).get("unit", "pixel")
        x, y = (_per_unit(page.tags.valueof(tag)) for tag in (282, 283))
        if x is not None and y is not None:
            return with_pixel_size(axes, (x, unit), (y, unit))
    return axes


def _per_unit(value: Any) -> float | None:
    """Length of a pixel, of pixels a unit as TIFF notes them: two whole numbers."""
    if not (isinstance(value, Sequence) and len(value) == 2 and all(np.isfinite(value))):
        return None
    return float(value[1]) / float(value[0]) if value[0] else 0.0


def _ome(text: str, axes: Axes, scene: int) -> Axes:
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return axes
    pixels = [
        child
        for image in root
        if image.tag.endswith("Image")
        for child in image
        if child.tag.endswith("Pixels")
    ]
    if scene >= len(pixels):
        return axes
    told = pixels[scene]
    names = [child.get("Name") for child in told if child.tag.endswith("Channel")]
    if axes.channels > 1 and all(names) and len(names) == axes.channels:
        axes = replace(axes, names=tuple(map(str, names)))
    x, y = (
        (told.get(f"PhysicalSize{axis}"), told.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "XY"
    )
    return axes if x[0] is None or y[0] is None else with_pixel_size(axes, x, y)
