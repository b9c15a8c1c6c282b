"""Read PNG (OpenCV), JPEG, BMP and WebP (Pillow) files."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Image import DecompressionBombError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from somaseg.errors import SomasegError
from somaseg.files import DAMAGE, damaged
from somaseg.limits import check_pixels

_PNG = b"\x89PNG\r\n\x1a\n"
# Its classes themselves: `Image.open` has a limit of its own, global to the process.
_KINDS: dict[bytes, type[ImageFile]] = {
    _PNG: PngImageFile,
    b"\xff\xd8": JpegImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
}
PICTURE_MAGICS = tuple(_KINDS)
ORIENTATION = 274  # the tag of TIFF and EXIF
# What is read as pixels where those of a JPEG are missing: noise, and all restart markers.
_FILLER = b"".join(
    sha256(bytes([i])).digest().replace(b"\xff", b"") + bytes([0xFF, 0xD0 + i % 8])
    for i in range(16)
)
_DEFLATE = 1032  # deflate makes no more bytes of one


def open_picture(path: Path, head: bytes) -> ImageFile:
    """Open a file that begins with one of :data:`PICTURE_MAGICS`; nothing is decoded yet.

    Raises:
        SomasegError: its header is damaged, or claims more than Pillow reads.
    """
    kind = next(kind for magic, kind in _KINDS.items() if head.startswith(magic))
    try:
        return kind(path)
    except DAMAGE as error:
        raise damaged(path, f"in its header: {error}") from error
    except DecompressionBombError as error:  # Pillow's reader of WebP has that limit, too
        raise SomasegError(f"{path}: {error} Save it as PNG or TIFF.") from error


def png_bits(head: bytes) -> int:
    """Return the bits of a number in a PNG file, from its first 32 bytes; 0 if it is none."""
    return head[24] if head.startswith(_PNG) else 0


def read_picture(path: Path, head: bytes, shown: bool) -> npt.NDArray[Any]:
    """Return the pixels, uint8 or uint16, ``(h, w)`` or ``(h, w, 3)``.

    Args:
        path: of the file.
        head: its first bytes.
        shown: the colours of a palette, else the stored numbers.

    Raises:
        SomasegError: truncated, damaged, or too large.
    """
    with open_picture(path, head) as file:
        check_pixels(path, file.height, file.width)
        data = path.read_bytes()
        bits, colours = png_bits(head), file.mode in ("RGB", "RGBA")
        if file.height * file.width * bits / 8 > _DEFLATE * len(data):
            raise damaged(path, f"{file.width}×{file.height} pixels are not in {len(data)} bytes")
        if bits and file.mode != "P":
            # OpenCV keeps 16 bits of each colour, and checks the sums of all parts of the file.
            image = opencv(data) if _has_all_chunks(data) else None
            if image is None:
                raise damaged(path)
            if image.ndim == 3:  # gray with alpha comes as colours
                return image[..., :3] if colours else image[..., 0]
            # OpenCV spreads 1, 2 and 4 bits over 8.
            return image if shown or bits >= 8 else image // np.uint8(255 // (2**bits - 1))
        try:
            if bits:
                PngImageFile(BytesIO(data)).verify()
            image = _pixels(file, shown)
            whole = not isinstance(file, JpegImageFile) or _is_whole(data, image)
        except DAMAGE as error:
            raise damaged(path, error) from error
    if not whole:
        raise damaged(path, "pixels are missing before its end")
    return image


def _has_all_chunks(data: bytes) -> bool:
    """Whether a PNG's chunks are as long as they claim; OpenCV takes the memory claimed."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if name == b"IEND":
            return at <= len(data)
    return False


def _pixels(file: ImageFile, shown: bool = True) -> npt.NDArray[Any]:
    if file.mode == "P" and not shown:
        return np.asarray(file)
    if file.mode == "1":
        return np.asarray(file.convert("L"))
    return np.asarray(file if file.mode in ("L", "RGB") else file.convert("RGB"))


def _is_whole(data: bytes, image: npt.NDArray[Any]) -> bool:
    """Whether a JPEG has all its pixels before its end marker; decoders fill up with gray.

    A whole one does not change when more bytes come after the last pixel.
    """
    end = data.find(b"\xff\xd9", data.find(b"\xff\xda"))
    return end >= 0 and np.array_equal(
        _pixels(JpegImageFile(BytesIO(data[:end] + _FILLER + data[end:]))), image
    )


def opencv(data: bytes) -> npt.NDArray[Any] | None:
    """Decode with OpenCV, in the order red, green, blue; none if it cannot."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if image is None or image.ndim == 2 or image.shape[2] not in (3, 4):
        return image
    return image[..., [2, 1, 0, 3][: image.shape[2]]]  # OpenCV's order is blue, green, red
