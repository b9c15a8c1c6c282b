"""Label images: one image per image, 0 the background and every cell a number of its own.

Layouts: ``images/`` and ``labels/`` (or ``masks/``) with the same names; ``name.tif`` beside
``name_masks.tif`` (Cellpose's habit, with other endings); a lone folder of label images.

Tables beside them are optional: ``classes.csv`` (id, class, group) says of which class all cells
of an image are; ``instances.csv`` (id, label, class, score) says it for each cell.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from somaseg.data.faults import Faults
from somaseg.data.formats.cells import masks_of_cells
from somaseg.data.formats.label_files import Loss, measure_loss, write_labels
from somaseg.data.formats.label_tables import (
    CLASSES_CSV,
    INSTANCES_CSV,
    Tables,
    read_tables,
    unknown_ids,
    write_tables,
)
from somaseg.data.formats.registry import Format
from somaseg.data.images import list_images, read_labels
from somaseg.data.predicted import images_beside
from somaseg.data.reading import (
    ImageIndex,
    Reading,
    image_name,
    locate,
    message_without,
    note_unannotated,
    well_group,
    with_image_classes,
)
from somaseg.data.types import ONE_CLASS, Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import file_name
from somaseg.instances import Instances
from somaseg.masks.flat import Flat
from somaseg.masks.labels import labels_to_crops
from somaseg.masks.parallel import map_images
from somaseg.masks.pieces import count_pieces
from somaseg.masks.resolve import OrderName

LABEL_FOLDERS = ("labels", "masks")
# a_masks, a_cp_masks (Cellpose), a-labelled (Labkit, CellProfiler), a.labels, …
_ENDING = re.compile(
    r"(?P<name>.+?)[-_. ](?:cp_masks|masks?|labels?|labell?ed|seg|segmentation)$", re.IGNORECASE
)
# Where no image has more than one label, and that in so many pieces on average, the labels are
# foreground masks. Broken annotations of a single cell have fewer.
_BINARY_PIECES = 4


def without_ending(stem: str) -> str:
    """Return the image's name of a label image's: ``a_masks`` belongs to ``a``."""
    match = _ENDING.match(stem)
    return match["name"] if match else stem


def _image_of(file: Path) -> str:
    """Return the id of the image that a label image belongs to."""
    name = without_ending(image_name(file))
    return name[:-4] if name.lower().endswith(".ome") else name


def find_label_folder(root: Path) -> Path | None:
    """Return the folder of label images: ``labels/``, ``masks/``, or ``root`` with its endings."""
    for name in LABEL_FOLDERS:
        # Of text files there, YOLO knows more.
        if (root / name).is_dir() and (
            list_images(root / name) or not any((root / name).iterdir())
        ):
            return root / name
    if any(_is_labelled(path) for path in list_images(root)):
        return root
    return None


def read_label_images(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Reading:
    """Read a folder of label images with the images they belong to.

    Args:
        path: folder with ``labels/`` (and ``images/``), with pairs, or of label images alone.
        faults: takes what is wrong with the files; these are left out.
        images: folder of the images; else ``images/`` and the folder itself are searched.
        need_images: whether an image that is not found is a fault.
        sizes: not needed, as label images have one.

    Raises:
        SomasegError: a file instead of a folder, no label images in it, or a table beside them
            that cannot be read at all.
    """
    root = Path(path)
    if root.is_file():
        raise SomasegError(f"{path}: a file; give the folder of label images")
    folder = find_label_folder(root) or root
    label_paths = list_images(folder)
    if any(_is_labelled(file) for file in label_paths):
        label_paths = [file for file in label_paths if _is_labelled(file)]
    if not label_paths:
        raise SomasegError(
            f"{folder}: no label images (PNG or TIFF) in this folder; masks of single cells are "
            "read as IMAGE/images/*.png with IMAGE/masks/*.png (--format cells)"
        )
    tables_at = folder.parent if folder.name in LABEL_FOLDERS else folder
    tables = read_tables(tables_at, faults)
    names = tables.names
    given = images_beside(folder) if images is None else {}
    index = ImageIndex(_image_folders(root, folder, images), given)
    samples: list[Sample] = []
    rows: dict[str, list[str]] = {}
    files: dict[str, Path] = {}
    for file, read in zip(label_paths, map_images(_read_file, label_paths), strict=True):
        name = _image_of(file)
        if name in files:
            message = f"{files[name].name} and {file.name} both label image {name}; remove one"
            faults.add("ambiguous image", message, file, image=name)
            continue
        files[name] = file
        if file.suffix.lower() in (".jpg", ".jpeg"):
            message = "a JPEG, which changes the numbers it holds; save label images as PNG or TIFF"
            faults.add("shattered masks", message, file, image=name)
            continue
        if isinstance(read, SomasegError):
            message = message_without(file, read)
            if message.startswith("a stack of"):
                message = message.partition(";")[0] + (
                    "; a label image is one page: if each page is one cell, number them: "
                    "sum(i * (page > 0) for i, page in enumerate(tifffile.imread(path), 1)); if "
                    "they are slices, save image and labels slice by slice"
                )
            faults.add("unreadable file", message, file, image=name)
            continue
        image_path, size = locate(name, index, read.size, need_images, faults, file, name)
        if size is None:
            continue
        values = read.values.tolist()
        classes, scores = _of_cells(name, values, tables, names, folder, faults)
        instances = Instances.from_flat(size, read.flat, scores, classes, names)
        group = tables.group.get(name) or well_group(name)
        whole = tables.image_class.get(name) or (names[0] if len(names) == 1 else None)
        plane = index.plane_of(name)
        samples.append(Sample(name, size, image_path, instances, whole, group, plane=plane))
        rows[name] = [f"label {value}" for value in values]
    if need_images:
        note_unannotated(index, faults, but=set(label_paths))
    _refuse_binary(samples, files, faults)
    unknown_ids(tables, files, tables_at, faults)
    dataset = Dataset(with_image_classes(samples), names, str(path))
    return Reading(dataset, faults, files, rows)


@dataclass(frozen=True)
class _LabelFile:
    size: tuple[int, int]
    flat: Flat
    values: npt.NDArray[np.int64]


def _read_file(path: Path) -> _LabelFile | SomasegError:
    """Read the cells of one file; an error is returned, so that all files are looked at."""
    try:
        labels = read_labels(path)
    except SomasegError as error:
        return error
    height, width = labels.shape
    return _LabelFile((height, width), *labels_to_crops(labels))


def _is_labelled(file: Path) -> bool:
    return without_ending(image_name(file)) != image_name(file)


def _image_folders(root: Path, folder: Path, images: str | Path | None) -> list[Path]:
    if images is not None:
        return [Path(images)]
    if folder != root:
        return [root / "images", root]
    if folder.name in LABEL_FOLDERS:  # the user named the labels' folder itself
        return [root.parent / "images", root.parent]
    return [root] if find_label_folder(root) else []


def _of_cells(
    name: str,
    values: Sequence[int],
    tables: Tables,
    names: tuple[str, ...],
    folder: Path,
    faults: Faults,
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """Class int16 and score float32 of each label of one image."""
    cells = tables.cell.get(name, {})
    whole = tables.image_class.get(name, ONE_CLASS if names == (ONE_CLASS,) else "")
    classes = np.full(len(values), -1, np.int16)
    scores = np.ones(len(values), np.float32)
    for i, value in enumerate(values):
        of_cell, scores[i] = cells.get(value, (whole, 1.0))
        classes[i] = names.index(of_cell or whole) if of_cell or whole else -1
    strangers = sorted(set(cells) - set(values))
    if strangers:
        message = f"{INSTANCES_CSV}: label {strangers[0]} is not in the image's label image"
        faults.add("bad row", message, folder, image=name)
    lacking = [value for value, label in zip(values, classes, strict=True) if label < 0]
    if lacking:
        message = (
            f"{len(lacking)} cells (first: label {lacking[0]}) are of no class; add the image to "
            f"{CLASSES_CSV} or the cells to {INSTANCES_CSV}"
        )
        faults.add("unknown class", message, folder, image=name)
    return classes, scores


def _refuse_binary(samples: list[Sample], files: dict[str, Path], faults: Faults) -> None:
    """Tell foreground masks from label images: one number for everything, in many pieces."""
    cells = [sample for sample in samples if len(sample.annotated())]
    if any(len(sample.annotated()) > 1 for sample in cells):
        return
    pieces = [int(count_pieces(*sample.annotated().flat)[0]) for sample in cells]
    if sum(pieces) < _BINARY_PIECES * len(cells):
        return
    for sample, count in zip(cells, pieces, strict=True):
        message = (
            f"one number for {count} separate areas: a foreground mask, not a label image; number "
            "the cells, as scipy.ndimage.label does"
        )
        faults.add("binary mask", message, files[sample.id], image=sample.id)


def write_label_folder(
    folder: str | Path,
    dataset: Dataset,
    order: OrderName = "smallest_first",
    ending: str = ".tif",
) -> dict[str, Loss]:
    """Write a data set's ``labels/ID.tif``, and in tables what label images cannot say.

    ``classes.csv`` (id, class, group) is written where images have a class of several or a group,
    ``instances.csv`` (id, label, class, score) where cells of an image differ in class or score.

    Args:
        folder: made if missing.
        dataset: images that are all annotated.
        order: who has a pixel that several instances claim: the first in this order.
        ending: ``.tif`` or ``.png``.

    Returns:
        what was lost to overlap, by image id.
    """
    folder = Path(folder)

    def write(sample: Sample) -> tuple[Loss, set[int]]:
        instances = sample.annotated()
        labels = instances.to_labels(order)
        write_labels(folder / "labels" / f"{file_name(sample.id)}{ending}", labels)
        return measure_loss(instances, labels), set(np.unique(labels).tolist())

    losses, labels = zip(*map_images(write, dataset), strict=True) if len(dataset) else ((), ())
    write_tables(folder, dataset, labels)
    return dict(zip(dataset.ids, losses, strict=True))


def _detect(path: Path) -> list[Path]:
    if not path.is_dir() or find_label_folder(path) is None or masks_of_cells(path):
        return []
    return [path]


def _write(folder: Path, dataset: Dataset, order: OrderName, ending: str) -> Loss:
    return sum(write_label_folder(folder, dataset, order, ending).values(), Loss())


FORMAT = Format("labels", "label images", _detect, read_label_images, _write, folders=True)
