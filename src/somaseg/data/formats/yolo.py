"""YOLO's segmentation labels: ``labels/NAME.txt`` with ``images/NAME.*``. Read only.

A line a cell: class, then x and y of its outline in shares of the image's sides. Classes are named
by ``data.yaml`` (a list, or numbers to names) or ``classes.txt``; else their number is their name.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from somaseg.data.faults import Faults
from somaseg.data.formats.by_image import read_by_image
from somaseg.data.formats.registry import Format
from somaseg.data.images import list_images
from somaseg.data.reading import Reading, image_name
from somaseg.data.tables import whole_number
from somaseg.errors import SomasegError
from somaseg.files import check_regular, read_yaml
from somaseg.instances import Instances
from somaseg.masks.flat import Size
from somaseg.masks.outlines import fill

_SPLITS = ("", "train", "val", "valid", "test")


def read_yolo(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Reading:
    """Read label files with their images; see :func:`read_by_image`.

    Args:
        path: folder with ``labels/`` (also in ``train/``, ``val/``, …, or these in it), that folder
            itself, or one file.
        faults: takes what is wrong.
        images: folder of the images; else ``images`` in the place of ``labels``.
        need_images: see :func:`read_by_image`.
        sizes: not needed.

    Raises:
        SomasegError: no such files, or names that are none.
    """
    path = Path(path)
    names = _names(path if path.is_dir() else path.parent)
    read = partial(read_outlines, names=names)
    return read_by_image(
        *(path, _files, "labels/NAME.txt", image_name, read, faults, images, need_images),
        names=names,
        images_of=lambda file: _images_of(file.parent),
    )


def read_outlines(path: Path, size: Size, names: list[str]) -> Instances:
    """Read the cells of one image.

    Raises:
        SomasegError: a line that is no outline, one outside of the image, or a class without name;
            the line is named.
    """
    boxes, crops, classes = [], [], []
    known = list(names)
    try:
        lines = check_regular(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SomasegError(f"{path}: not text in UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        first, *rest = line.split()
        kind = whole_number(first)
        try:
            shares = np.array([float(value) for value in rest])
            if kind is None or len(shares) == 4:
                raise SomasegError("a class and a box; an outline is needed (segmentation labels)")
            if len(shares) % 2 or len(shares) < 6:
                raise SomasegError(f"{len(shares)} numbers; x and y of 3 points are needed")
            if not ((shares > -0.01) & (shares < 1.01)).all():
                raise SomasegError("a point outside of the image; shares of its sides are needed")
            box, crop = fill([[shares.reshape(-1, 2) * (size[1], size[0])]], size)
        except (SomasegError, ValueError) as error:
            raise SomasegError(f"{path}: line {number}: {error}") from error
        name = known[kind] if names and kind < len(names) else str(kind)
        if names and kind >= len(names):
            raise SomasegError(f"{path}: line {number}: class {kind} has no name in data.yaml")
        if name not in known:
            known.append(name)
        boxes.append(box)
        crops.append(crop)
        classes.append(known.index(name))
    if not boxes:
        return Instances.empty(size, known)
    return Instances.from_crops(size, np.stack(boxes), crops, classes=classes, names=known)


def _names(folder: Path) -> list[str]:
    """Class names by number; none if nothing tells them."""
    for place in (folder, folder.parent, folder.parent.parent):
        for file in ("data.yaml", "dataset.yaml"):
            if (place / file).is_file():
                told = read_yaml(place / file)
                names = told.get("names") if isinstance(told, dict) else None
                if isinstance(names, dict):
                    names = [names[key] for key in sorted(names, key=str)]
                if not isinstance(names, list):
                    raise SomasegError(f"{place / file}: has no list of names")
                return [str(name) for name in names]
        if (place / "classes.txt").is_file():
            text = (place / "classes.txt").read_text(encoding="utf-8")
            return [line.strip() for line in text.splitlines() if line.strip()]
    return []


def _files(folder: Path) -> list[Path]:
    """Label files below a folder."""
    places = [folder] if folder.name == "labels" else []
    for split in _SPLITS:
        places += [folder / split / "labels", folder / "labels" / split]
    found = {
        file
        for place in places
        if place.is_dir() and not list_images(place)
        for file in place.glob("*.txt")
        if file.name != "classes.txt"
    }
    return sorted(found)


def _images_of(folder: Path) -> Path:
    """The folder of images that belongs to one of labels."""
    parts = ["images" if part == "labels" else part for part in folder.parts[-2:]]
    return Path(*folder.parts[:-2], *parts)


def _detect(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".txt" and path.parent.name == "labels" else []
    return [path] if _files(path) else []


FORMAT = Format("yolo", "YOLO's labels/NAME.txt", _detect, read_yolo, folders=True)
