"""Write OME-TIFF, which keeps the size of a pixel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from somaseg.files import atomic_path


def write_ome_tiff(
    path: str | Path,
    image: npt.NDArray[Any],
    pixel_size: float | None = None,
    channels: Sequence[str] = (),
) -> None:
    """Write one image: gray, RGB or of several channels.

    Args:
        path: of the file.
        image: (h, w), (h, w, 3), or (h, w, c) with as many names.
        pixel_size: side of a pixel in µm, if known.
        channels: their names.

    Raises:
        somaseg.files.CannotWrite: the disk is full, …
    """
    rgb = image.ndim == 3 and not channels
    metadata = ome_metadata(pixel_size, rgb=rgb)
    if channels:
        image = np.moveaxis(image, -1, 0)
        metadata |= {"axes": "CYX", "Channel": {"Name": list(channels)}}
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(image),
            ome=True,
            compression="zlib",
            photometric="rgb" if rgb else "minisblack",
            metadata=metadata,
        )


def ome_metadata(pixel_size: float | None, rgb: bool = False) -> dict[str, Any]:
    """What tifffile writes into the OME-XML of one image."""
    sized = {f"PhysicalSize{axis}": pixel_size for axis in "XY"}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    axes = {"axes": "YXS" if rgb else "YX"}
    return axes if pixel_size is None else axes | sized | units
