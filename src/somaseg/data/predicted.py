"""Read what `somaseg predict` left as a data set: its cells are annotations."""

from pathlib import Path
from typing import Any

from somaseg.data.axes import Plane
from somaseg.data.faults import Faults
from somaseg.data.formats.results import read_results
from somaseg.data.images import is_image
from somaseg.data.reading import (
    ImageIndex,
    Place,
    Reading,
    checked_header,
    message_without,
    well_group,
    with_image_classes,
)
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import file_name, is_there, read_json
from somaseg.folders import IMAGES, RESULTS, kind_of
from somaseg.instances import Instances


def is_predicted(path: Path) -> bool:
    """Whether a folder holds predictions, and the files of their images."""
    return (path / IMAGES).is_file() and (path / RESULTS).is_file()


def refuse_runs(path: Path) -> None:
    """Say that a run is none, where a data set is expected.

    Raises:
        SomasegError: it is one, or a fit or a search.
    """
    if (kind := kind_of(path)) in ("run", "fit", "search"):
        raise SomasegError(f"{path}: a {kind}, not a data set; give the images it was trained on")


def read_predicted(
    folder: Path, faults: Faults, images: Path | None = None, need_images: bool = True
) -> Reading:
    """Read predictions with their images, which may lie anywhere.

    Args:
        folder: with ``predictions.json`` and ``images.json``.
        faults: takes what is wrong.
        images: folder of the images, if they were moved since.
        need_images: whether an image that is not found is a fault.

    Raises:
        SomasegError: one of the two files is damaged.
    """
    given = read_json(folder / IMAGES)
    paths, planes = images_given(folder / IMAGES, given)
    found = read_results(folder / RESULTS)
    names = next((cells.names for cells in found.values()), ())
    index = ImageIndex([images]) if images is not None else None
    samples = []
    for name in dict.fromkeys([*paths, *found]):
        path = index.find(name) if index else paths.get(name)
        cells, size = found.get(name), None
        if path is not None and is_there(path) and (path.is_file() or is_image(path)):
            try:
                size = checked_header(path, name, faults, planes.get(name)).size
            except SomasegError as error:
                faults.add("unreadable image", message_without(path, error), path, image=name)
                continue
        elif need_images or cells is None:
            where = f"{path}: not there" if path else "not named"
            message = f"its file ({where}) may have been moved; name the folder of the images"
            faults.add("missing image", message, folder / IMAGES, image=name)
            continue
        else:
            path = None
        if cells is None:
            assert size is not None
            cells = Instances.empty(size, names)
        elif size is not None and cells.size != size:
            message = "has changed since it was predicted; predict it again"
            faults.add("size mismatch", message, folder / IMAGES, image=name)
            continue
        of_stack = planes.get(name) if path is not None else None
        group = well_group(name)
        samples.append(Sample(name, cells.size, path, cells, group=group, plane=of_stack))
    return Reading(Dataset(with_image_classes(samples), names, str(folder)), faults)


def images_beside(folder: Path) -> dict[str, Place]:
    """Images that the predictions in a folder, or in the one above, are of; by id and file name.

    So corrected results find their images: ``rois/ID.zip``, ``labels/ID.tif``.
    """
    for place in (folder, folder.parent):
        if (place / IMAGES).is_file():
            paths, planes = images_given(place / IMAGES, read_json(place / IMAGES))
            found = {name: (path, planes.get(name)) for name, path in paths.items()}
            return found | {file_name(name): place for name, place in found.items()}
    return {}


def image_entry(sample: Sample) -> str | dict[str, Any]:
    """What ``images.json`` says of an image: its path, and the plane of its file if it is one."""
    assert sample.image_path is not None
    path = str(sample.image_path.resolve())
    return path if sample.plane is None else {"path": path, **sample.plane.to_json()}


def images_given(file: Path, given: Any) -> tuple[dict[str, Path], dict[str, Plane]]:
    """Take apart what ``images.json`` holds: a path by id, or a path and a plane of its file.

    Raises:
        SomasegError: it holds something else.
    """
    paths, planes = {}, {}
    try:
        for name, entry in given.items():
            if isinstance(entry, dict):
                entry = dict(entry)
                paths[name] = Path(entry.pop("path"))
                planes[name] = Plane.from_json(entry)
            else:
                paths[name] = Path(entry)
    except (AttributeError, KeyError, TypeError, ValueError, SomasegError) as error:
        raise SomasegError(f"{file}: not paths of images by id; predict again") from error
    return paths, planes
