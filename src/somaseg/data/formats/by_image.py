"""Formats of one annotation file an image, called as the image is: their images and classes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from somaseg.data.faults import Faults
from somaseg.data.predicted import images_beside
from somaseg.data.reading import (
    ImageIndex,
    Reading,
    locate,
    message_without,
    note_unannotated,
    well_group,
    with_image_classes,
)
from somaseg.data.types import ONE_CLASS, Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.flat import Size

ReadOne = Callable[[Path, Size], Instances]
"""Reads the cells of one image; classes in the order of their appearance, −1 for none."""


def read_by_image(
    source: str | Path,
    find: Callable[[Path], Sequence[Path]],
    what: str,
    name_of: Callable[[Path], str],
    read_one: ReadOne,
    faults: Faults,
    images: str | Path | None,
    need_images: bool,
    names: Sequence[str] = (),
    images_of: Callable[[Path], Path] | None = None,
) -> Reading:
    """Read annotation files with the images they are called after.

    A file with a fault is left out as a whole; the others go on. Cells of no class are of
    :data:`somaseg.data.types.ONE_CLASS`. Images are looked for in ``images``; else where
    ``images_of`` says, in the files' folder, in the one above and its ``images/``, and where the
    ``images.json`` of a folder of predictions says.

    Args:
        source: what the user named: a file, or a folder of such files.
        find: the files in a folder.
        what: they are, for the error where there are none.
        name_of: name of the image that a file is of.
        read_one: reads the cells of a file.
        faults: takes what is wrong.
        images: folder of the images, if the user named one.
        need_images: whether an image that is not found is a fault. Outlines do not say how large
            their image is, so that one without is left out anyway.
        names: classes that are known beforehand.
        images_of: folder of a file's image, by its format's own custom.

    Raises:
        SomasegError: there are no such files.
    """
    source = Path(source)
    files = [source] if source.is_file() else find(source)
    if not files:
        raise SomasegError(f"{source}: no {what} in this folder")
    if images is not None:
        index = ImageIndex([Path(images)])
    else:
        own = dict.fromkeys(map(images_of, files)) if images_of else ()
        here = files[0].parent
        above = here.parent
        places = [*own, here / "images", here, above / "images", above]
        index = ImageIndex(places, images_beside(here))
    read: list[tuple[Sample, Path]] = []
    for file in files:
        name = name_of(file)
        if any(sample.id == name for sample, _ in read):
            message = f"another file is of image {name}, too; remove one"
            faults.add("ambiguous image", message, file, image=name)
            continue
        path, size = locate(name, index, None, True, faults, file, name)
        if path is None or size is None:
            continue
        try:
            cells = read_one(file, size)
        except SomasegError as error:
            faults.add("unreadable file", message_without(file, error), file, image=name)
            continue
        plane = index.plane_of(name)
        sample = Sample(name, size, path, cells, group=well_group(name), plane=plane)
        read.append((sample, file))
    known = list(names)
    for sample, _ in read:
        used = set(sample.annotated().classes.tolist())
        found = [n for k, n in enumerate(sample.annotated().names) if k in used]
        known += [n for n in [*found, *([ONE_CLASS] if -1 in used else [])] if n not in known]
    known = known or [ONE_CLASS]
    samples = [replace(one, instances=_renamed(one.annotated(), known)) for one, _ in read]
    if need_images:
        note_unannotated(index, faults)
    dataset = Dataset(with_image_classes(samples), tuple(known), str(source))
    paths = {sample.id: file for sample, file in read}
    return Reading(dataset, faults, paths, {s.id: _rows(s.annotated()) for s in samples})


def _renamed(cells: Instances, names: Sequence[str]) -> Instances:
    """The same cells with other class names, among which theirs are."""
    table = [names.index(n) if n in names else -1 for n in cells.names]
    table.append(names.index(ONE_CLASS) if ONE_CLASS in names else -1)  # of −1
    return cells.with_classes(np.array(table, np.int16)[cells.classes], tuple(names))


def _rows(cells: Instances) -> list[str]:
    return [f"outline {k + 1}" for k in range(len(cells))]
