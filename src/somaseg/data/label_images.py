"""Read label images: one image per image, 0 the background and every cell a number of its own.

Layouts: ``images/`` and ``labels/`` (or ``masks/``) with the same names; ``name.tif`` beside
``name_masks.tif`` (Cellpose's habit, with other endings); a lone folder of label images.

Tables beside them are optional: ``classes.csv`` (id, class, group) says of which class all cells
of an image are; ``instances.csv`` (id, label, class, score) says it for each cell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from somaseg.data.competition import ONE_CLASS
from somaseg.data.faults import Faults
from somaseg.data.images import list_images, read_labels
from somaseg.data.reading import (
    ImageIndex,
    Reading,
    csv_columns,
    locate,
    message_without,
    note_unannotated,
    open_csv,
    row_text,
    well_group,
    with_image_classes,
)
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.flat import Flat
from somaseg.masks.labels import labels_to_crops
from somaseg.masks.parallel import map_images
from somaseg.masks.pieces import count_pieces

LABEL_FOLDERS = ("labels", "masks")
LABEL_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg")
# Where no image has more than one label, and that in so many pieces on average, the labels are
# foreground masks. Broken annotations of a single cell have fewer.
_BINARY_PIECES = 4
CLASSES_CSV, INSTANCES_CSV = "classes.csv", "instances.csv"


@dataclass
class _Tables:
    """What ``classes.csv`` and ``instances.csv`` say."""

    image_class: dict[str, str] = field(default_factory=dict)
    group: dict[str, str] = field(default_factory=dict)
    cell: dict[str, dict[int, tuple[str, float]]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, sorted; one name if none is given."""
        names = set(self.image_class.values())
        for cells in self.cell.values():
            names.update(name for name, _ in cells.values())
        return tuple(sorted(names - {""})) or (ONE_CLASS,)


def without_ending(stem: str) -> str:
    """Return the image's name of a label image's: ``a_masks`` belongs to ``a``."""
    for ending in LABEL_ENDINGS:
        if stem.endswith(ending) and stem != ending:
            return stem.removesuffix(ending)
    return stem


def find_label_folder(root: Path) -> Path | None:
    """Return the folder of label images: ``labels/``, ``masks/``, or ``root`` with its endings."""
    for name in LABEL_FOLDERS:
        if (root / name).is_dir():
            return root / name
    if any(without_ending(path.stem) != path.stem for path in list_images(root)):
        return root
    return None


def read_label_images(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
) -> Reading:
    """Read a folder of label images with the images they belong to.

    Args:
        path: folder with ``labels/`` (and ``images/``), with pairs, or of label images alone.
        faults: takes what is wrong with the files; these are left out.
        images: folder of the images; else ``images/`` and the folder itself are searched.
        need_images: whether an image that is not found is a fault.

    Raises:
        SomasegError: there are no label images, or a table beside them cannot be read at all.
    """
    root = Path(path)
    folder = find_label_folder(root) or root
    label_paths = list_images(folder)
    if any(without_ending(file.stem) != file.stem for file in label_paths):
        label_paths = [file for file in label_paths if without_ending(file.stem) != file.stem]
    if not label_paths:
        raise SomasegError(f"{folder}: no label images (PNG or TIFF) in this folder")
    tables_at = folder.parent if folder.name in LABEL_FOLDERS else folder
    tables = _read_tables(tables_at, faults)
    names = tables.names
    index = ImageIndex(_image_folders(root, folder, images))
    samples: list[Sample] = []
    rows: dict[str, list[str]] = {}
    files: dict[str, Path] = {}
    for file, read in zip(label_paths, map_images(_read_file, label_paths), strict=True):
        name = without_ending(file.stem)
        if name in files:
            message = f"{files[name].name} and {file.name} both label image {name}; remove one"
            faults.add("ambiguous image", message, file, image=name)
            continue
        files[name] = file
        if isinstance(read, SomasegError):
            faults.add("unreadable file", message_without(file, read), file, image=name)
            continue
        image_path, size = locate(name, index, read.size, need_images, faults, file, name)
        if size is None:
            continue
        values = read.values.tolist()
        classes, scores = _of_cells(name, values, tables, names, folder, faults)
        instances = Instances.from_flat(size, read.flat, scores, classes, names)
        group = tables.group.get(name) or well_group(name)
        whole = tables.image_class.get(name) or (names[0] if len(names) == 1 else None)
        samples.append(Sample(name, size, image_path, instances, whole, group))
        rows[name] = [f"label {value}" for value in values]
    if need_images:
        note_unannotated(index, faults, but=set(label_paths))
    _refuse_binary(samples, files, faults)
    _unknown_ids(tables, files, tables_at, faults)
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
    tables: _Tables,
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


def _read_tables(folder: Path, faults: Faults) -> _Tables:
    tables = _Tables()
    path = folder / CLASSES_CSV
    if path.is_file():
        _need(path, "id", "class")
        with open_csv(path) as reader:
            for row in reader:
                name, of_image = row_text(row, "id"), row_text(row, "class")
                where = f"line {reader.line_num}"
                if not name:
                    faults.add("bad row", "no image id", path, where)
                elif name in tables.image_class:
                    faults.add("bad row", "the image comes twice", path, where, name)
                else:
                    tables.image_class[name] = of_image
                    tables.group[name] = row_text(row, "group")
    path = folder / INSTANCES_CSV
    if path.is_file():
        _need(path, "id", "label")
        with open_csv(path) as reader:
            for row in reader:
                name, where = row_text(row, "id"), f"line {reader.line_num}"
                try:
                    label = int(row_text(row, "label"))
                    score = float(row_text(row, "score") or 1.0)
                except ValueError:
                    label, score = 0, math.nan
                if label < 1 or not math.isfinite(score):
                    faults.add("bad row", "label or score is no number", path, where, name or None)
                    continue
                cells = tables.cell.setdefault(name, {})
                if label in cells:
                    faults.add("bad row", f"label {label} comes twice", path, where, name)
                cells[label] = (row_text(row, "class"), score)
    return tables


def _need(path: Path, *columns: str) -> None:
    lacking = [column for column in columns if column not in csv_columns(path)]
    if lacking:
        raise SomasegError(f"{path}: lacks the column {lacking[0]!r}; needs {', '.join(columns)}")


def _unknown_ids(tables: _Tables, files: dict[str, Path], folder: Path, faults: Faults) -> None:
    for table, ids in ((CLASSES_CSV, tables.image_class), (INSTANCES_CSV, tables.cell)):
        for name in sorted(set(ids) - set(files)):
            faults.add(
                "bad row", "speaks of an image that is not there", folder / table, image=name
            )


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
