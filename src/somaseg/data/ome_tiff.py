"""Write OME-TIFF, which keeps the size of a pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from somaseg.files import atomic_path


def write_ome_tiff(
    path: str | Path, image: npt.NDArray[Any], pixel_size: float | None = None
) -> None:
    """Write one image, gray or RGB.

    Args:
        path: ends in ``.ome.tif``.
        image: (h, w) or (h, w, 3).
        pixel_size: side of a pixel in µm, if known.

    Raises:
        somaseg.files.CannotWrite: the disk is full, …
    """
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(image),
            ome=True,
            compression="zlib",
            photometric="minisblack" if image.ndim == 2 else "rgb",
            metadata=ome_metadata(pixel_size, rgb=image.ndim == 3),
        )


def ome_metadata(pixel_size: float | None, rgb: bool = False) -> dict[str, Any]:
    """What tifffile writes into the OME-XML of one image."""
    sized = {f"PhysicalSize{axis}": pixel_size for axis in "XY"}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    axes = {"axes": "YXS" if rgb else "YX"}
    return axes if pixel_size is None else axes | sized | units
