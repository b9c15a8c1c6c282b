"""What Cellpose's window leaves beside an image: ``NAME_seg.npy``. Read only.

The file is a pickle, which could run anything: it is looked into without
(:mod:`somaseg.data.pickled`). Of what it holds the masks are taken.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from somaseg.data.faults import Faults
from somaseg.data.formats.by_image import read_by_image
from somaseg.data.formats.registry import Format
from somaseg.data.pickled import read_pickled
from somaseg.data.reading import Reading, image_name
from somaseg.errors import SomasegError
from somaseg.files import DAMAGE, check_regular, damaged
from somaseg.instances import Instances
from somaseg.limits import check_table
from somaseg.masks.flat import Size

_ENDING = "_seg.npy"
_MAGIC = b"\x93NUMPY"


def read_cellpose(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Reading:
    """Read Cellpose's files, with the images beside them; see :func:`read_by_image`."""
    return read_by_image(
        path, _files, f"NAME{_ENDING}", _image_of, read_seg, faults, images, need_images
    )


def read_seg(path: Path, size: Size) -> Instances:
    """Read the masks of one image.

    Raises:
        SomasegError: damaged, no masks in it, or masks of an image of another size.
    """
    check_table(path, check_regular(path).stat().st_size)
    data = path.read_bytes()
    try:
        content = read_pickled(_pickle_of(data))
    except DAMAGE as error:
        raise damaged(
            path, error, "save it again in Cellpose, or its masks as PNG (--save_png)"
        ) from error
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    masks = content.get("masks") if isinstance(content, dict) else None
    if not isinstance(masks, np.ndarray) or masks.dtype.kind not in "iu":
        raise SomasegError(f"{path}: no masks in it; save it again in Cellpose")
    masks = masks.squeeze()
    if masks.shape != size:
        raise SomasegError(
            f"{path}: masks of {'×'.join(map(str, masks.shape[::-1]))} pixels, but the image has "
            f"{size[1]}×{size[0]}"
        )
    if masks.size and (masks.min() < 0 or masks.max() > np.iinfo(np.int32).max):
        raise SomasegError(f"{path}: its masks are not numbered from 0")
    return Instances.from_labels(np.ascontiguousarray(masks, np.int32))


def _pickle_of(data: bytes) -> bytes:
    """What follows the header of a ``.npy`` file of objects."""
    if not data.startswith(_MAGIC) or len(data) < 12:
        raise ValueError("no file of NumPy")
    wide = data[6] > 1
    length = int.from_bytes(data[8 : 12 if wide else 10], "little")
    begin = (12 if wide else 10) + length
    if b"|O" not in data[:begin]:
        raise ValueError("an array, not what Cellpose's window saves")
    return data[begin:]


def _image_of(file: Path) -> str:
    return image_name(file.name.removesuffix(_ENDING) + ".x")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*" + _ENDING) if not file.name.startswith("."))


def _detect(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.name.endswith(_ENDING) else []
    return [path] if _files(path) else []


FORMAT = Format("cellpose", "Cellpose's NAME_seg.npy", _detect, read_cellpose, folders=True)
