"""Read what `somaseg predict` left as a data set: its cells are annotations."""

from pathlib import Path

from somaseg.data.faults import Faults
from somaseg.data.formats.results import read_results
from somaseg.data.reading import (
    ImageIndex,
    Reading,
    checked_header,
    message_without,
    well_group,
    with_image_classes,
)
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import is_there, read_json
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
    if not isinstance(given, dict) or not all(isinstance(p, str) for p in given.values()):
        raise SomasegError(f"{folder / IMAGES}: not paths of images by id; predict again")
    found = read_results(folder / RESULTS)
    names = next((cells.names for cells in found.values()), ())
    index = ImageIndex([images]) if images is not None else None
    samples = []
    for name in dict.fromkeys([*given, *found]):
        path = index.find(name) if index else Path(given[name]) if name in given else None
        cells, size = found.get(name), None
        if path is not None and is_there(path) and path.is_file():
            try:
                size = checked_header(path, name, faults).size
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
        samples.append(Sample(name, cells.size, path, cells, group=well_group(name)))
    return Reading(Dataset(with_image_classes(samples), names, str(folder)), faults)
