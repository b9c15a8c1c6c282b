"""Read TIFF files (tifffile; Pillow and OpenCV for what it leaves to a package of its own)."""

import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL.TiffImagePlugin import TiffImageFile

from somaseg.data.pictures import ORIENTATION, opencv
from somaseg.errors import SomasegError
from somaseg.files import DAMAGE, damaged
from somaseg.limits import check_pixels

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_tiff(path: Path) -> tifffile.TiffFile:
    """Open a file that begins with one of :data:`TIFF_MAGICS`.

    Raises:
        SomasegError: damaged.
    """
    try:
        return tifffile.TiffFile(path)
    except Exception as error:  # TiffFileError, struct.error, … whatever a broken header raises
        raise damaged(path, error) from error


def read_tiff(path: Path, shown: bool) -> npt.NDArray[Any]:
    """Return the pixels, ``(h, w)`` or ``(h, w, 3)``.

    Args:
        path: of the file.
        shown: inverted pixels turned back, the colours of a palette; else the stored numbers.

    Raises:
        SomasegError: truncated, damaged, too large, a stack, or channels nobody explained.
    """
    with open_tiff(path) as tiff:
        page = describe(tiff, path)
        check_pixels(path, *page.size)
        check_pixels(path, *page.part)
        try:
            image = tiff.series[0].asarray()
            if tiff.pages.first.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
                image = np.moveaxis(image.reshape(page.shape[2], *page.size), 0, -1)
            image = image.reshape(page.shape)
        except Exception as error:  # zlib.error, struct.error, KeyError, ImportError, …
            # tifffile leaves LZW, PackBits and JPEG to a package of their own.
            codec = isinstance(error, ImportError) or "imagecodecs" in str(error)
            decoded = _other_codec(path, page) if codec else None
            if decoded is None or decoded.shape != page.shape:
                fix = "save it again without compression" if codec else "copy the file again"
                raise damaged(path, error, fix) from error
            image = decoded
    if image.ndim == 3:
        return image[..., 0] if image.shape[2] == 2 else image[..., :3]
    if not shown:
        return image
    if page.palette is not None:
        return page.palette[image]
    if page.inverted and image.dtype.kind in "ub":
        return image ^ image.dtype.type(page.white)
    return -image.astype(np.float32) if page.inverted else image


@dataclass(frozen=True)
class Page:
    """The one image of a TIFF file, and how its numbers are meant.

    Attributes:
        size: ``(height, width)``.
        shape: of what is stored, ``(h, w)`` or ``(h, w, channels)``.
        part: ``(height, width)`` of its strips or tiles.
        dtype: of what is stored.
        palette: uint8 (n, 3), RGB of each number; none without one.
        inverted: 0 is white.
        white: the largest number of the bits that a pixel has.
        orientation: see :class:`Header`.
    """

    size: tuple[int, int]
    shape: tuple[int, ...]
    part: tuple[int, int]
    dtype: str
    palette: npt.NDArray[np.uint8] | None
    inverted: bool
    white: int
    orientation: int

    @property
    def colours(self) -> int:
        """1 for gray, 3 for RGB, as it is shown; alpha is not counted."""
        return 3 if self.palette is not None or self.shape[2:] in ((3,), (4,)) else 1

    @property
    def plain(self) -> bool:
        """Whether the numbers stored are those shown."""
        return not self.inverted and self.palette is None


def describe(tiff: tifffile.TiffFile, path: Path) -> Page:
    """Say what a TIFF file holds; refuse stacks, and pixels that nobody wrote or explained."""
    try:
        _check_pages(tiff)
        page, series = tiff.pages.first, tiff.series[0]
        size = (int(page.imagelength), int(page.imagewidth))
        channels, bits = int(page.samplesperpixel), int(page.bitspersample)
        # Slides keep pictures of the glass and its label beside; all may have smaller copies.
        others = [] if tiff.is_svs or tiff.is_ndpi else [s.keyframe for s in tiff.series[1:]]
        planes = math.prod(series.shape) // max(1, size[0] * size[1] * channels)
        planes += sum(not (other.is_reduced or other.is_mask) for other in others)
        axes = "".join(a for a, n in zip(series.axes, series.shape, strict=True) if n > 1)
        photometric, extra = int(page.photometric), tuple(int(kind) for kind in page.extrasamples)
        tiled = page.is_tiled
        part = (int(page.tilelength), int(page.tilewidth)) if tiled else size
        written = min(map(min, (page.dataoffsets, page.databytecounts)), default=0) > 0
        written &= len(page.dataoffsets) >= math.prod(page.chunked)
        orientation = int(page.tags.valueof(ORIENTATION, 1))
        coloured = photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None
        palette = (np.asarray(page.colormap).T >> 8).astype(np.uint8) if coloured else None
        dtype = str(series.dtype)
    except Exception as error:  # whatever a broken header raises in tifffile
        raise damaged(path, error) from error
    if planes > 1:
        raise SomasegError(
            f"{path}: a stack of {planes} pages (axes {axes}); save each page as a file "
            "of its own, in Python: for i, page in enumerate(tifffile.imread(path)): "
            "tifffile.imwrite(f'page{i}.tif', page)"
        )
    if not written:
        raise damaged(path, "some of its strips or tiles were never written")
    with_alpha = extra[:1] in ((1,), (2,)) or (
        channels == 4 and photometric == tifffile.PHOTOMETRIC.RGB
    )
    if channels not in (1, 3) and not (channels in (2, 4) and with_alpha):
        raise SomasegError(
            f"{path}: {channels} channels; give a gray or an RGB image (one file a channel)"
        )
    if palette is not None and (palette.shape != (2**bits, 3) or channels > 1):
        raise damaged(path, "its colour table does not fit the pixels")
    shape = size if channels == 1 else (*size, channels)
    inverted = photometric == tifffile.PHOTOMETRIC.MINISWHITE and channels == 1
    return Page(size, shape, part, dtype, palette, inverted, 2**bits - 1, orientation)


def _check_pages(tiff: tifffile.TiffFile) -> None:
    """Refuse directories that point at each other: read as a stack, they never end."""
    seen: set[int] = set()
    for page in tiff.pages:
        if page.offset in seen:
            raise ValueError("its pages follow each other in a circle")
        seen.add(page.offset)


def _other_codec(path: Path, page: Page) -> npt.NDArray[Any] | None:
    """Decode what tifffile alone cannot: one channel with Pillow, colours with OpenCV."""
    data = path.read_bytes()
    if len(page.shape) == 3:
        return opencv(data)
    try:
        with TiffImageFile(BytesIO(data)) as file:
            image = np.asarray(file)
    except DAMAGE:
        return opencv(data) if page.plain else None
    if file.mode in ("1", "L") and page.inverted:  # Pillow has turned it back already
        image = image ^ image.dtype.type(255 if file.mode == "L" else 1)
    spread = 255 // page.white if file.mode == "L" else 1  # and spread 2 and 4 bits over 8
    return image // np.uint8(spread) if spread > 1 else image
