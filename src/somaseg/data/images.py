"""Read micrographs: TIFF (tifffile), PNG (OpenCV), JPEG, BMP, WebP (Pillow), OME-Zarr (zarr), and
what microscopes write (bioio); gray values.

Pixels are read as the file means them: inverted ones (WhiteIsZero) are turned back, palettes
become colours. In label images the stored number is what counts, whatever colour it is shown in.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from somaseg.data import foreign_files, ome_zarr
from somaseg.data.axes import Axes, Plane
from somaseg.data.pictures import ORIENTATION, PICTURE_MAGICS, open_picture, png_bits, read_picture
from somaseg.data.state import file_state
from somaseg.data.tiff import TIFF_MAGICS, check_alone, open_tiff, read_tiff
from somaseg.data.tiff_pages import describe
from somaseg.errors import SomasegError
from somaseg.files import DAMAGE, check_regular

Levels = tuple[float, float] | tuple[tuple[float, float], ...]
"""Gray values that become 0 and 1; a pair for each channel, where a model sees several."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".zarr", *foreign_files.SUFFIXES}
)


def is_image_path(path: Path) -> bool:
    """Whether the name ends like an image we read, and is not a hidden file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def is_image(path: Path) -> bool:
    """Whether it is named like an image, and not a folder unless an OME-Zarr."""
    return is_image_path(path) and (not path.is_dir() or ome_zarr.is_zarr(path))


def list_images(folder: str | Path) -> list[Path]:
    """Return the image files directly in ``folder``, by name; with links to files that are gone.

    Raises:
        SomasegError: the folder is missing or cannot be listed.
    """
    folder = Path(folder)
    try:
        return sorted(path for path in folder.iterdir() if is_image(path))
    except OSError as error:
        raise SomasegError(f"{folder}: cannot be listed ({error.strerror or error})") from error


def read_image(path: str | Path, plane: Plane | None = None) -> npt.NDArray[Any]:
    """Read one micrograph.

    Alpha is dropped, other integer types than 8 and 16 bit unsigned become float32; gray values
    are never rescaled. An orientation (EXIF, TIFF) is not applied: annotations are of the pixels
    as stored; see :attr:`Header.orientation`.

    Args:
        path: of the file, or the folder of an OME-Zarr.
        plane: which, where the file holds several (:func:`somaseg.data.axes.choose`).

    Returns:
        uint8, uint16 or float32; ``(h, w)`` for gray, ``(h, w, 3)`` for RGB, ``(h, w, c)`` for a
        plane of several channels.

    Raises:
        SomasegError: no such file, not an image, truncated, several planes and none chosen, not
            finite, or more pixels than are held at once (:mod:`somaseg.limits`).
    """
    path = Path(path)
    if plane is not None and len(parts := plane.parts()) > 1:
        return np.stack([read_image(path, part) for part in parts], -1)
    image = _decode(path, True, plane)
    if plane is not None and isinstance(plane.channel, int) and image.ndim == 3:
        image = image[..., plane.channel]  # a colour
    if image.dtype == np.bool_:
        image = image.astype(np.uint8)
    elif image.dtype not in (np.uint8, np.uint16):
        if image.dtype.kind not in "iuf":
            raise SomasegError(f"{path}: pixels of type {image.dtype}; save it as 8 or 16 bit")
        image = image.astype(np.float32)
        bad = int(np.count_nonzero(~np.isfinite(image)))
        if bad:
            raise SomasegError(
                f"{path}: {bad} of {image.size} values are not finite; replace the NaN and infinite"
                " pixels"
            )
    return np.ascontiguousarray(image)


def read_labels(path: str | Path) -> npt.NDArray[np.int32]:
    """Read a label image: 0 is background, each other value one cell.

    1 to 32 bit integers, and floats that hold whole numbers. With a colour table the stored
    numbers count, not their colours.

    Returns:
        int32 ``(h, w)``.

    Raises:
        SomasegError: as :func:`read_image`; colour, negative or fractional values.
    """
    path = Path(path)
    labels = _decode(path, False, None)
    if labels.ndim != 2:
        raise SomasegError(
            f"{path}: a label image has one channel, this has {labels.shape[2]}; "
            "save the label numbers themselves, not colours"
        )
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.floor(labels)):
        raise SomasegError(f"{path}: labels are not whole numbers; save them as 16 or 32 bit")
    if labels.dtype.kind not in "biuf":
        raise SomasegError(f"{path}: labels of type {labels.dtype}; save them as 16 or 32 bit")
    if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise SomasegError(
            f"{path}: labels from {labels.min()} to {labels.max()}; they must lie in 0…2147483647"
        )
    return np.ascontiguousarray(labels, dtype=np.int32)


@dataclass(frozen=True)
class Header:
    """What an image file says of itself.

    Attributes:
        size: ``(height, width)``.
        channels: 1 for gray, 3 for RGB; alpha is not counted.
        dtype: of the pixels as stored: ``uint8``, ``uint16``, ``float32``, …
        orientation: how a viewer turns the stored pixels, as EXIF and TIFF number it; 1 is upright.
        plain: the numbers stored are those to be read; not for palettes and inverted pixels.
        axes: how many planes there are, all of this size and type, and how large a pixel is.
        scenes: how many such sets the file has; each has a header of its own.
    """

    size: tuple[int, int]
    channels: int
    dtype: str
    orientation: int = 1
    plain: bool = True
    axes: Axes = field(default_factory=Axes)
    scenes: int = 1

    @property
    def alone(self) -> bool:
        """Whether the file is one image."""
        return self.axes.planes * self.scenes == 1


def image_size(path: str | Path) -> tuple[int, int]:
    """Return ``(height, width)`` from the file's header, without decoding the pixels.

    Raises:
        SomasegError: no such file, not an image, header broken.
    """
    return image_header(path).size


def image_header(path: str | Path, scene: int = 0) -> Header:
    """Read a file's header, without decoding the pixels; known as long as the file stays as it is.

    Args:
        path: of the file, or the folder of an OME-Zarr.
        scene: which, where it has several.

    Raises:
        SomasegError: no such file, not an image, header broken, axes that are not known.
    """
    path = Path(path)
    if ome_zarr.is_zarr(path):
        facts = ome_zarr.read_facts(path, scene)
        return Header(facts.size, 1, facts.dtype, axes=facts.axes, scenes=facts.scenes)
    head = _head(path)
    return _header(path, head, scene, file_state(path))


@lru_cache(maxsize=1 << 14)
def _header(path: Path, head: bytes, scene: int, _: tuple[int, ...]) -> Header:
    if path.suffix.lower() in foreign_files.SUFFIXES:
        facts = foreign_files.read_facts(path, scene)
        return Header(facts.size, facts.colours, facts.dtype, axes=facts.axes, scenes=facts.scenes)
    if head.startswith(TIFF_MAGICS):
        with open_tiff(path) as tiff:
            page = describe(tiff, path, scene)
            return Header(
                page.size,
                page.colours,
                page.dtype,
                page.orientation,
                page.plain,
                page.axes,
                page.scenes,
            )
    with open_picture(path, head) as file:
        try:
            # A PNG's own would decode all pixels, for notes that may come behind them.
            orientation = int(Image.getexif(file).get(ORIENTATION, 1))
        except DAMAGE:  # of what a camera noted the pixels do not depend
            orientation = 1
        channels = 1 if file.mode in ("1", "L", "LA", "I", "I;16") else 3
        kind = "uint16" if png_bits(head) == 16 else "uint8"
        return Header((file.height, file.width), channels, kind, orientation)


def to_gray(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Average the channels: in a micrograph colours are dyes, none is brighter to the eye.

    Args:
        image: ``(h, w)`` or ``(h, w, 3)``, any number type.

    Returns:
        float32 ``(h, w)``, in the units of ``image``.
    """
    if image.ndim == 2:
        return image.astype(np.float32)
    if image.ndim != 3:
        raise SomasegError(f"an image has 2 or 3 axes, this array has shape {image.shape}")
    return image.mean(axis=2, dtype=np.float32)


def normalise(
    gray: npt.NDArray[np.float32], low: float = 1.0, high: float = 99.0
) -> npt.NDArray[np.float32]:
    """Shift and scale so that the ``low`` percentile becomes 0 and the ``high`` one 1.

    Values outside are kept, not clipped. Where the two percentiles coincide (nearly all pixels
    alike, as in sparse fluorescence) minimum and maximum take their place; a flat image becomes 0.

    Args:
        gray: float32 ``(h, w)``.
        low: lower percentile, 0…100.
        high: upper percentile, above ``low``.

    Returns:
        float32 ``(h, w)``.
    """
    if not gray.size:
        return gray.astype(np.float32)
    bottom, top = (float(value) for value in np.percentile(gray, (low, high)))
    if top <= bottom:
        bottom, top = float(gray.min()), float(gray.max())
    return stretch(gray, bottom, top)


def stretch(gray: npt.NDArray[np.float32], bottom: float, top: float) -> npt.NDArray[np.float32]:
    """Shift and scale so that ``bottom`` becomes 0 and ``top`` 1; all becomes 0 if they coincide.

    Args:
        gray: float32 ``(h, w)``.
        bottom: value that becomes 0.
        top: value that becomes 1.
    """
    # Of the smallest floats the difference can vanish in float32 though the two differ.
    spread = np.float32(top - bottom)
    if spread <= 0:
        return np.zeros(gray.shape, np.float32)
    return (gray.astype(np.float32) - np.float32(bottom)) / spread


def _decode(path: Path, shown: bool, plane: Plane | None) -> npt.NDArray[Any]:
    """Return the pixels, ``(h, w)`` or ``(h, w, 3)``; as they are shown, or the stored numbers."""
    if ome_zarr.is_zarr(path):
        facts = ome_zarr.read_facts(path)
        if plane is None:
            check_alone(path, facts.axes, facts.scenes)
        return ome_zarr.read_plane(path, plane or Plane())
    head = _head(path)
    if path.suffix.lower() in foreign_files.SUFFIXES:
        facts = foreign_files.read_facts(path)
        if plane is None:
            check_alone(path, facts.axes, facts.scenes)
        return foreign_files.read_plane(path, plane or Plane())
    if head.startswith(TIFF_MAGICS):
        return read_tiff(path, shown, plane)
    return read_picture(path, head, shown)


def _head(path: Path) -> bytes:
    """Return the first bytes of a file that is one of those we read."""
    try:
        with check_regular(path).open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise SomasegError(f"{path}: cannot be read ({error.strerror or error})") from error
    if head.startswith(TIFF_MAGICS + PICTURE_MAGICS):
        return head
    if path.suffix.lower() in foreign_files.SUFFIXES and any(head):
        return head
    if not head:
        raise SomasegError(f"{path}: empty file; copy it again")
    if not any(head):
        raise SomasegError(f"{path}: starts with zeros, not an image; copy the file again")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise SomasegError(f"{path}: not a PNG, JPEG or TIFF image; convert it to one of them")
    raise SomasegError(
        f"{path}: named {path.suffix} but holds no PNG, JPEG or TIFF image; export it again"
    )
