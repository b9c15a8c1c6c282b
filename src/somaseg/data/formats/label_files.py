"""Label images as Cellpose, ImageJ, napari and QuPath read them: 0 background, k cell k."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from somaseg.errors import SomasegError
from somaseg.files import atomic_path
from somaseg.instances import Instances

_LARGEST_16_BIT = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class Loss:
    """What a label image cannot hold of overlapping instances.

    Attributes:
        pixels: claims on a pixel that were given up, as another instance has it.
        shared: pixels that more than one instance claimed.
        hidden: instances that lost all their pixels.
    """

    pixels: int = 0
    shared: int = 0
    hidden: int = 0

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(
            self.pixels + other.pixels, self.shared + other.shared, self.hidden + other.hidden
        )


def write_labels(path: str | Path, labels: npt.NDArray[np.integer[Any]]) -> None:
    """Write one label image: TIFF (16 bit, or 32 above 65,535 cells) or PNG (16 bit).

    Args:
        path: ends with ``.tif``, ``.tiff`` or ``.png``.
        labels: integers ``(h, w)``, not negative.

    Raises:
        SomasegError: another ending, negative labels, or more than 65,535 for a PNG.
    """
    path = Path(path)
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0):
        raise SomasegError(
            f"{path}: labels are integers (h, w) from 0, not {labels.dtype} {labels.shape}"
        )
    small = labels.max(initial=0) <= _LARGEST_16_BIT
    ending = path.suffix.lower()
    if ending == ".png":
        if not small:
            raise SomasegError(
                f"{path}: label {labels.max()} does not fit the 16 bits of a PNG; write a TIFF"
            )
        done, data = cv2.imencode(".png", labels.astype(np.uint16))
        if not done:
            raise SomasegError(f"{path}: {labels.shape} labels cannot be written as a PNG")
        with atomic_path(path) as temporary:
            temporary.write_bytes(data.tobytes())
    elif ending in (".tif", ".tiff"):
        values = labels.astype(np.uint16 if small else np.uint32)
        with atomic_path(path) as temporary:
            tifffile.imwrite(temporary, values, compression="zlib", photometric="minisblack")
    else:
        raise SomasegError(f"{path}: label images end with .tif or .png")


def measure_loss(instances: Instances, labels: npt.NDArray[np.int32]) -> Loss:
    """Compare instances with the label image made of them (label = row + 1)."""
    claims = instances.claims()
    seen = np.unique(labels)
    return Loss(
        int(claims.sum() - np.count_nonzero(claims)),
        int(np.count_nonzero(claims > 1)),
        len(instances) - int(np.count_nonzero(seen)),
    )
