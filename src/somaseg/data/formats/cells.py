"""One mask a cell: ``IMAGE/images/*.png`` with ``IMAGE/masks/*.png``, as DSB2018 was given out.

Every file of ``masks/`` is one cell: what is not 0 in it. Masks may overlap. It is only read.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from somaseg.data.faults import Faults
from somaseg.data.formats.registry import Format
from somaseg.data.images import image_size, list_images, read_image
from somaseg.data.reading import Reading, image_name, message_without, well_group
from somaseg.data.types import ONE_CLASS, Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.parallel import map_images


def read_cells(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Reading:
    """Read a folder of such folders, or one of them.

    Args:
        path: the folder.
        faults: takes what is wrong with the files; these are left out.
        images: not needed, as each image lies beside its masks.
        need_images: not needed, for the same reason.
        sizes: not needed, as masks have one.

    Raises:
        SomasegError: there is no such folder.
    """
    root = Path(path)
    folders = masks_of_cells(root)
    if not folders:
        raise SomasegError(f"{root}: no IMAGE/images with IMAGE/masks in this folder")
    samples: list[Sample] = []
    rows: dict[str, list[str]] = {}
    files: dict[str, Path] = {}
    for folder in folders:
        (image_path,) = list_images(folder / "images")
        name = image_name(image_path)
        if name in files:
            message = f"two images are called {name}; rename one"
            faults.add("ambiguous image", message, folder, image=name)
            continue
        files[name] = folder / "masks"
        try:
            size = image_size(image_path)
        except SomasegError as error:
            message = message_without(image_path, error)
            faults.add("unreadable image", message, image_path, image=name)
            continue
        paths = list_images(folder / "masks")
        masks, kept = [], []
        for file, read in zip(paths, map_images(_read_mask, paths), strict=True):
            if isinstance(read, SomasegError):
                message = message_without(file, read)
                faults.add("unreadable file", message, file, file.name, name)
            elif read.shape != size:
                message = f"{read.shape[1]}×{read.shape[0]} pixels, the image {size[1]}×{size[0]}"
                faults.add("size mismatch", message, file, file.name, name)
            elif not read.any():
                faults.add("empty mask", "the mask is empty", file, file.name, name)
            else:
                masks.append(read)
                kept.append(file.name)
        cells = (
            Instances.from_masks(np.array(masks), classes=0, names=(ONE_CLASS,))
            if masks
            else Instances.empty(size, (ONE_CLASS,))
        )
        samples.append(Sample(name, size, image_path, cells, ONE_CLASS, well_group(name)))
        rows[name] = kept
    return Reading(Dataset(tuple(samples), (ONE_CLASS,), str(path)), faults, files, rows)


def _read_mask(path: Path) -> npt.NDArray[np.bool_] | SomasegError:
    try:
        mask = read_image(path)
    except SomasegError as error:
        return error
    return (mask if mask.ndim == 2 else mask.max(axis=2)) > 0


def masks_of_cells(root: Path) -> list[Path]:
    """Folders with one image in ``images/`` and masks, none called like it, in ``masks/``."""
    below = [root] if (root / "masks").is_dir() else sorted(root.glob("*/masks"))
    return [folder for folder in (p if p == root else p.parent for p in below) if _is_one(folder)]


def _is_one(folder: Path) -> bool:
    if not (folder / "images").is_dir():
        return False
    images, masks = list_images(folder / "images"), list_images(folder / "masks")
    # A label image would be called as its image is.
    return (
        len(images) == 1
        and len(masks) > 0
        and all(not mask.stem.startswith(images[0].stem) for mask in masks)
    )


def _detect(path: Path) -> list[Path]:
    return [path] if path.is_dir() and masks_of_cells(path) else []


FORMAT = Format("cells", "IMAGE/images with IMAGE/masks", _detect, read_cells, folders=True)
