"""What a file's claims may cost: checked before memory is taken, in one place, with one limit.

A file of a few bytes can claim an image of any size. ``SOMASEG_MAX_PIXELS`` is the most that is
held at once: pixels of an image, or of the masks of an image; of a packed table two bytes for
each. Images that are read by parts (uncompressed TIFF) are as large as their file, and need none.
"""

import os

from somaseg.errors import SomasegError

VARIABLE = "SOMASEG_MAX_PIXELS"
MAX_PIXELS = 1 << 28  # 16,384 × 16,384: a gigabyte as float32


def max_pixels() -> int:
    """Return the limit: the environment's, or :data:`MAX_PIXELS`.

    Raises:
        SomasegError: the environment's is no whole number above 0.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text)):
        raise SomasegError(f"{VARIABLE}={text[:30]!r}: give a whole number of pixels above 0")
    return int(text)


def check_pixels(where: object, height: int, width: int, planes: int = 1) -> None:
    """Refuse what would take more pixels than are held at once.

    Raises:
        SomasegError: an empty side, or too many pixels.
    """
    if height < 1 or width < 1:
        raise SomasegError(f"{where}: claims {width}×{height} pixels; copy the file again")
    if height * width * planes > max_pixels():
        each = f"{planes} times " if planes > 1 else ""
        raise SomasegError(
            f"{where}: claims {each}{width}×{height} pixels, more than the {max_pixels()} that are "
            f"held at once; save it as an uncompressed TIFF, which is read by parts, or set "
            f"{VARIABLE} if the memory is there"
        )


def check_masks(pixels: int) -> None:
    """Refuse masks of an image whose boxes cover more pixels than are held at once.

    Raises:
        SomasegError: they do.
    """
    if pixels > max_pixels():
        raise SomasegError(
            f"the masks' boxes cover {pixels} pixels, more than the {max_pixels()} that are held "
            f"at once; set {VARIABLE} if the memory is there"
        )


def check_table(where: object, size: int) -> None:
    """Refuse a table that unpacks to more bytes than are held at once.

    Raises:
        SomasegError: ``size`` is above twice the limit.
    """
    if size > 2 * max_pixels():
        raise SomasegError(
            f"{where}: unpacks to more than {2 * max_pixels()} bytes; set {VARIABLE} to half "
            "of what it takes if the memory is there"
        )
