"""Read micrographs: PNG and JPEG (OpenCV), TIFF (tifffile); gray values and their normalisation."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from somaseg.errors import SomasegError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_GRAY = (0, 4)  # colour types: gray, gray with alpha
_JPEG_MAGIC = b"\xff\xd8"
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# JPEG markers that carry the frame's size: SOF0-15 without DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def is_image_path(path: Path) -> bool:
    """Whether the name ends like an image we read, and is not a hidden file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def list_images(folder: str | Path) -> list[Path]:
    """Return the image files directly in ``folder``, by name.

    Raises:
        SomasegError: the folder is missing or cannot be listed.
    """
    folder = Path(folder)
    try:
        return sorted(path for path in folder.iterdir() if is_image_path(path) and path.is_file())
    except OSError as error:
        raise SomasegError(f"{folder}: cannot be listed ({error.strerror or error})") from error


def read_image(path: str | Path) -> npt.NDArray[Any]:
    """Read one micrograph.

    Alpha is dropped, other integer types than 8 and 16 bit unsigned become float32; gray values
    are never rescaled.

    Returns:
        uint8, uint16 or float32; ``(h, w)`` for gray, ``(h, w, 3)`` for RGB.

    Raises:
        SomasegError: no such file, not an image, truncated, several pages, not finite.
    """
    path = Path(path)
    image = _decode(path)
    if image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4):
        raise SomasegError(
            f"{path}: {image.shape[2]} channels; give a gray or an RGB image (one file a channel)"
        )
    if image.ndim == 3:  # gray, gray + alpha, RGB, RGB + alpha
        image = image[..., 0] if image.shape[2] <= 2 else image[..., :3]
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

    8, 16 and 32 bit integers, and floats that hold whole numbers.

    Returns:
        int32 ``(h, w)``.

    Raises:
        SomasegError: as :func:`read_image`; colour, negative or fractional values.
    """
    path = Path(path)
    labels = _decode(path)
    if labels.ndim == 3 and labels.shape[2] == 1:
        labels = labels[..., 0]
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
    """

    size: tuple[int, int]
    channels: int
    dtype: str


def image_size(path: str | Path) -> tuple[int, int]:
    """Return ``(height, width)`` from the file's header, without decoding the pixels.

    Raises:
        SomasegError: no such file, not an image, header broken, several pages.
    """
    return image_header(path).size


def image_header(path: str | Path) -> Header:
    """Read a file's header, without decoding the pixels.

    Raises:
        SomasegError: no such file, not an image, header broken, several pages.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(32)
            if head.startswith(_PNG_MAGIC):
                width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
                channels = 1 if colour in _PNG_GRAY else 3
                return Header((height, width), channels, "uint16" if depth == 16 else "uint8")
            if head.startswith(_JPEG_MAGIC):
                return _jpeg_header(file)
    except OSError as error:
        raise _unreadable(path, error) from error
    except struct.error as error:
        raise SomasegError(f"{path}: truncated in its header; copy the file again") from error
    if head.startswith(_TIFF_MAGICS):
        with _open_tiff(path) as tiff:
            shape, dtype = _tiff_shape(tiff, path)
        channels = 3 if len(shape) == 3 and shape[2] > 2 else 1
        return Header((shape[0], shape[1]), channels, dtype)
    raise _not_an_image(path, head)


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


def _decode(path: Path) -> npt.NDArray[Any]:
    """Return the pixels as stored, ``(h, w)`` or ``(h, w, c)``, RGB order."""
    try:
        # Reading the bytes ourselves: OpenCV cannot open every Unicode path on every system.
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if data.startswith(_TIFF_MAGICS):
        return _decode_tiff(path, data)
    if not data.startswith((_PNG_MAGIC, _JPEG_MAGIC)):
        raise _not_an_image(path, data[:32])
    # Older OpenCV fills what a cut-off file lacks with gray, without a word.
    end = b"IEND" if data.startswith(_PNG_MAGIC) else b"\xff\xd9"
    image = _opencv(data) if end in data[-4096:] else None
    if image is None:
        raise SomasegError(f"{path}: truncated or damaged; copy the file again")
    return image


def _opencv(data: bytes) -> npt.NDArray[Any] | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if image is None or image.ndim == 2 or image.shape[2] not in (3, 4):
        return image
    return image[..., [2, 1, 0, 3][: image.shape[2]]]  # OpenCV's order is blue, green, red


def _decode_tiff(path: Path, data: bytes) -> npt.NDArray[Any]:
    with _open_tiff(path) as tiff:
        shape, _ = _tiff_shape(tiff, path)
        try:
            image = tiff.series[0].asarray()
            if len(shape) == 3 and tiff.pages.first.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
                image = np.moveaxis(image.reshape(shape[2], *shape[:2]), 0, -1)
            return image.reshape(shape)
        except Exception as error:  # zlib.error, struct.error, KeyError, ImportError, …
            # tifffile leaves LZW, PackBits and JPEG to a package of their own; OpenCV has them.
            codec = isinstance(error, ImportError) or "imagecodecs" in str(error)
            decoded = _opencv(data) if codec else None
            if decoded is None or decoded.shape != shape:
                fix = "save it again without compression" if codec else "copy the file again"
                raise SomasegError(f"{path}: truncated or damaged ({error}); {fix}") from error
            return decoded


def _open_tiff(path: Path) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # TiffFileError, struct.error, … whatever a broken header raises
        raise SomasegError(
            f"{path}: truncated or damaged ({error}); copy the file again"
        ) from error


def _tiff_shape(tiff: tifffile.TiffFile, path: Path) -> tuple[tuple[int, ...], str]:
    """Return ``(h, w)`` or ``(h, w, c)`` and the type of the pixels; refuse stacks."""
    try:
        pages = len(tiff.pages)
        series = tiff.series[0]
        axes = [axis for axis, length in zip(series.axes, series.shape, strict=True) if length > 1]
        first = tiff.pages.first
        height, width = int(first.imagelength), int(first.imagewidth)
        channels = int(first.samplesperpixel)
    except Exception as error:
        raise SomasegError(
            f"{path}: truncated or damaged ({error}); copy the file again"
        ) from error
    planes = max(pages, _product(series.shape) // max(1, height * width * channels))
    if planes > 1:
        raise SomasegError(
            f"{path}: a stack of {planes} pages (axes {''.join(axes)}); save each page as a file "
            "of its own, in Python: for i, page in enumerate(tifffile.imread(path)): "
            "tifffile.imwrite(f'page{i}.tif', page)"
        )
    return (height, width) if channels == 1 else (height, width, channels), str(series.dtype)


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= int(length)
    return total


def _jpeg_header(file: Any) -> Header:
    """Walk the segments of an open JPEG to its frame header (ITU T.81, B.2.2)."""
    file.seek(2)
    while True:
        (start, marker) = struct.unpack(">BB", file.read(2))
        while marker == 0xFF:  # fill bytes
            (marker,) = struct.unpack(">B", file.read(1))
        (length,) = struct.unpack(">H", file.read(2))
        if start != 0xFF or length < 2:
            raise struct.error("not a JPEG segment")
        if marker in _JPEG_FRAMES:
            depth, height, width, channels = struct.unpack(">BHHB", file.read(6))
            return Header((height, width), 1 if channels == 1 else 3, f"uint{max(depth, 8)}")
        file.seek(length - 2, os.SEEK_CUR)


def _unreadable(path: Path, error: OSError) -> SomasegError:
    if isinstance(error, FileNotFoundError):
        return SomasegError(f"{path}: no such file")
    return SomasegError(f"{path}: cannot be read ({error.strerror or error})")


def _not_an_image(path: Path, head: bytes) -> SomasegError:
    if not head:
        return SomasegError(f"{path}: empty file; copy it again")
    if not any(head):
        return SomasegError(f"{path}: starts with zeros, not an image; copy the file again")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return SomasegError(f"{path}: not a PNG, JPEG or TIFF image; convert it to one of them")
    return SomasegError(
        f"{path}: named {path.suffix} but holds no PNG, JPEG or TIFF image; export it again"
    )
