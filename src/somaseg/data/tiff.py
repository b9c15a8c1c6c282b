"""Read TIFF files (tifffile; Pillow and OpenCV for what it leaves to a package of its own)."""

from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL.TiffImagePlugin import TiffImageFile

from somaseg.data.axes import Axes, Plane
from somaseg.data.pictures import opencv
from somaseg.data.state import file_state
from somaseg.data.tiff_pages import Page, describe, is_written
from somaseg.errors import SomasegError
from somaseg.files import DAMAGE, damaged
from somaseg.limits import check_pixels

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_tiff(path: Path) -> tifffile.TiffFile:
    """Open a file that begins with one of :data:`TIFF_MAGICS`.

    An OME-TIFF may name other files as parts of it; they are not opened.

    Raises:
        SomasegError: damaged.
    """
    try:
        return tifffile.TiffFile(path, _multifile=False)
    except Exception as error:  # TiffFileError, struct.error, … whatever a broken header raises
        raise damaged(path, error) from error


def read_tiff(path: Path, shown: bool, plane: Plane | None = None) -> npt.NDArray[Any]:
    """Return the pixels, ``(h, w)`` or ``(h, w, 3)``.

    Args:
        path: of the file.
        shown: inverted pixels turned back, the colours of a palette; else the stored numbers.
        plane: which of a stack; its channel only where those are planes or samples of their own.

    Raises:
        SomasegError: truncated, damaged, too large, a stack of which no plane is chosen, or
            channels nobody explained.
    """
    if plane is not None:
        return _meant(_of_stack(path, plane), layout(path, plane.scene), shown)
    with open_tiff(path) as tiff:
        page = describe(tiff, path)
        check_alone(path, page.axes, page.scenes)
        check_pixels(path, *page.size)
        check_pixels(path, *page.part)
        try:
            image = tiff.series[0].asarray()
            if tiff.pages.first.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
                image = np.moveaxis(image.reshape(page.shape[2], *page.size), 0, -1)
            image = image.reshape(page.shape)
        except Exception as error:  # zlib.error, struct.error, KeyError, ImportError, …
            image = _decoded_by_others(path, page, 0, error)
    return _meant(image, page, shown)


def check_alone(path: Path, axes: Axes, scenes: int = 1) -> None:
    """Refuse a file of several planes, where one image is expected.

    Raises:
        SomasegError: it holds several.
    """
    if axes.planes * scenes > 1:
        listed = f"scenes {scenes}" if scenes > 1 else str(axes)
        raise SomasegError(
            f"{path}: a stack of {axes.planes * scenes} images ({listed}); choose one with "
            "--frame, --z and --channel"
        )


def layout(path: Path, scene: int) -> Page:
    """Say where the planes of a stack lie; known once, as long as the file stays as it is.

    Raises:
        SomasegError: as :func:`somaseg.data.tiff_pages.describe`.
    """
    return _layout(path, scene, file_state(path))


@lru_cache(maxsize=16)
def _layout(path: Path, scene: int, _: tuple[int, ...]) -> Page:
    with open_tiff(path) as tiff:
        return describe(tiff, path, scene)


def map_plane(path: Path, plane: Plane) -> npt.NDArray[Any] | None:
    """Open a plane without reading it, where its pixels lie in the file as they are; else none."""
    page = layout(path, plane.scene)
    steps = plane.steps(page.axes)
    if page.offset is None or len(steps) > 1 or not page.plain or not page.small_type:
        return None
    mapped = _mapped(path, page, page.number(steps[0], plane.one))
    if page.samples_are_channels:
        return mapped[..., plane.one or 0]
    return mapped if mapped.ndim == 2 else mapped[..., 0 if mapped.shape[2] == 2 else slice(3)]


def _of_stack(path: Path, plane: Plane) -> npt.NDArray[Any]:
    page = layout(path, plane.scene)
    check_pixels(path, *page.size)
    check_pixels(path, *page.part)
    brightest: npt.NDArray[Any] | None = None
    with open_tiff(path) as tiff:
        for step in plane.steps(page.axes):
            number = page.number(step, plane.one)
            if page.offset is not None:
                image = np.array(_mapped(path, page, number)).astype(page.dtype, copy=False)
            else:
                image = _page(tiff, path, page, page.indices[number])
            if page.samples_are_channels:
                image = image[..., plane.one or 0]
            brightest = image if brightest is None else np.maximum(brightest, image)
    assert brightest is not None
    return brightest


def _mapped(path: Path, page: Page, number: int) -> npt.NDArray[Any]:
    assert page.offset is not None
    dtype = np.dtype(page.stored)
    at = page.offset + number * int(np.prod(page.shape)) * dtype.itemsize
    if not page.separate:
        return np.memmap(path, dtype, "r", at, page.shape)
    mapped = np.memmap(path, dtype, "r", at, (page.shape[2], *page.size))
    return np.moveaxis(mapped, 0, -1)


def _page(tiff: tifffile.TiffFile, path: Path, page: Page, index: int) -> npt.NDArray[Any]:
    try:
        found: Any = tiff.pages[index]
        alike = (found.imagelength, found.imagewidth) == page.size
        alike &= str(found.dtype) == page.dtype and found.samplesperpixel == page.samples
        if not alike:
            raise ValueError(f"its page {index} is of another kind than the others")
        if not is_written(found):
            raise ValueError(f"some strips or tiles of its page {index} were never written")
        image = found.asarray()
        if page.separate:
            image = np.moveaxis(image.reshape(page.shape[2], *page.size), 0, -1)
        return image.reshape(page.shape)
    except Exception as error:  # as of a single page
        return _decoded_by_others(path, page, index, error)


def _decoded_by_others(path: Path, page: Page, index: int, error: Exception) -> npt.NDArray[Any]:
    # tifffile leaves LZW, PackBits and JPEG to a package of their own.
    codec = isinstance(error, ImportError) or "imagecodecs" in str(error)
    decoded = _other_codec(path, page, index) if codec else None
    if decoded is None or decoded.shape != page.shape:
        fix = "save it again without compression" if codec else "copy the file again"
        raise damaged(path, error, fix) from error
    return decoded


def _meant(image: npt.NDArray[Any], page: Page, shown: bool) -> npt.NDArray[Any]:
    """Pixels as the file means them."""
    if image.ndim == 3:
        return image[..., 0] if image.shape[2] == 2 else image[..., :3]
    if not shown:
        return image
    if page.palette is not None:
        return page.palette[image]
    if page.inverted and image.dtype.kind in "ub":
        return image ^ image.dtype.type(page.white)
    return -image.astype(np.float32) if page.inverted else image


def _other_codec(path: Path, page: Page, index: int) -> npt.NDArray[Any] | None:
    """Decode what tifffile alone cannot: one channel with Pillow, colours with OpenCV."""
    data = path.read_bytes()
    if len(page.shape) == 3:
        return opencv(data) if index == 0 else None
    try:
        with TiffImageFile(BytesIO(data)) as file:
            file.seek(index)
            image = np.asarray(file)
    except DAMAGE:
        return opencv(data) if page.plain and index == 0 else None
    if file.mode in ("1", "L") and page.inverted:  # Pillow has turned it back already
        image = image ^ image.dtype.type(255 if file.mode == "L" else 1)
    spread = 255 // page.white if file.mode == "L" else 1  # and spread 2 and 4 bits over 8
    return image // np.uint8(spread) if spread > 1 else image
