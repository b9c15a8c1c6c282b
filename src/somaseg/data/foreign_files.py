"""Read what microscopes write: CZI, ND2 and LIF, through bioio and its readers."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from somaseg.data.axes import Facts, Plane, from_letters
from somaseg.data.pixel_size import with_pixel_size
from somaseg.errors import SomasegError
from somaseg.files import damaged
from somaseg.limits import check_pixels

SUFFIXES = frozenset({".czi", ".nd2", ".lif"})
_READING = threading.Lock()  # the readers do not say that they may be used side by side
_T = TypeVar("_T")


def read_facts(path: Path, scene: int = 0) -> Facts:
    """Read a file's header.

    Raises:
        SomasegError: damaged, axes that are not known, or bioio is not installed.
    """
    return _with(path, scene, lambda image: _facts(path, image))


def read_plane(path: Path, plane: Plane) -> npt.NDArray[Any]:
    """Read a plane, (h, w) or (h, w, 3).

    Raises:
        SomasegError: as :func:`read_facts`; too large.
    """

    def read(image: Any) -> npt.NDArray[Any]:
        facts = _facts(path, image)
        check_pixels(path, *facts.size)
        brightest: npt.NDArray[Any] | None = None
        for frame, z in plane.steps(facts.axes):
            channel = plane.one or 0 if facts.colours == 1 else 0
            letters = "YX" if facts.colours == 1 else "YXS"
            # By dask: the plane alone is read.
            part = np.asarray(image.get_image_dask_data(letters, T=frame, C=channel, Z=z).compute())
            brightest = part if brightest is None else np.maximum(brightest, part)
        assert brightest is not None
        return brightest[..., :3] if brightest.ndim == 3 else brightest

    return _with(path, plane.scene, read)


def _facts(path: Path, image: Any) -> Facts:
    lengths = dict(zip(image.dims.order, image.dims.shape, strict=True))
    size = int(lengths.pop("Y")), int(lengths.pop("X"))
    samples = int(lengths.pop("S", 1))
    if samples not in (1, 3, 4):
        raise SomasegError(f"{path}: mixed axes: {samples} samples a pixel; save it as OME-TIFF")
    try:
        axes, _ = from_letters("".join(lengths), list(map(int, lengths.values())))
    except SomasegError as error:
        raise SomasegError(f"{path}: {error}") from error
    names = tuple(map(str, image.channel_names or ()))
    if len(names) == axes.channels > 1:
        axes = type(axes)(axes.frames, axes.slices, axes.channels, names)
    sides = image.physical_pixel_sizes
    if sides.X is not None and sides.Y is not None:
        axes = with_pixel_size(axes, (sides.X, "µm"), (sides.Y, "µm"))
    return Facts(size, 3 if samples > 1 else 1, str(np.dtype(image.dtype)), axes, len(image.scenes))


def _with(path: Path, scene: int, use: Callable[[Any], _T]) -> _T:
    try:
        from bioio import BioImage
    except ImportError as error:
        raise SomasegError(
            f"{path}: {path.suffix} files need bioio; pip install 'somaseg[bioio]'"
        ) from error
    with _READING:
        try:
            image = BioImage(path)
            if scene:
                image.set_scene(scene)
            return use(image)
        except SomasegError:
            raise
        except Exception as error:  # bioio and its readers raise many kinds
            if type(error).__name__ == "UnsupportedFileFormatError":
                raise SomasegError(
                    f"{path}: no reader of bioio takes it; pip install 'somaseg[bioio]', or "
                    "copy the file again"
                ) from error
            raise damaged(path, error) from error
