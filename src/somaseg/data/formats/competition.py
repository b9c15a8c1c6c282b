"""The competition's tables: ``train.csv`` (id, annotation, …); submissions are read as well.

One row an instance. A single row with an empty cell says that the image has no instances.
Images are grouped by the columns ``group``, the well in ``sample_id``, ``plate`` and ``well``, or
``sample_id`` as it is: the first of them that is filled.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from somaseg.data.faults import Faults
from somaseg.data.formats.registry import Format
from somaseg.data.reading import ImageIndex, Reading, locate, note_unannotated, well_group
from somaseg.data.tables import csv_columns, csv_text, open_csv, row_text, whole_number
from somaseg.data.types import ONE_CLASS, Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import write_text
from somaseg.folders import is_leftover
from somaseg.instances import Instances
from somaseg.masks.resolve import OrderName
from somaseg.masks.rle import find_faults

_RUN_COLUMNS = ("annotation", "predicted")
# How `find_faults` words a fault, and the kind it is counted under.
_KINDS = {
    "is not a whole number": "not a number",
    "odd count": "odd count",
    "is empty": "empty mask",
    "outside the image": "run outside",
    "overlaps run": "run overlap",
}


@dataclass
class _Image:
    """The rows of one image."""

    line: int
    lines: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None
    cell_type: str = ""
    group: str | None = None
    without_cells: int | None = None  # line of a row with an empty cell


def is_table(columns: list[str]) -> bool:
    """Whether a CSV header is that of ``train.csv`` or of a submission."""
    return "id" in columns and any(column in columns for column in _RUN_COLUMNS)


def is_dsb_table(columns: list[str]) -> bool:
    """Whether a CSV header is that of DSB2018, which numbers pixels down the columns."""
    return {"ImageId", "EncodedPixels"} <= set(columns)


def read_competition(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Reading:
    """Read a table of runs, gzip or not, with the images it speaks of.

    Args:
        path: the table.
        faults: takes what is wrong with rows and images; these are left out.
        images: folder of the images; else ``train/``, ``images/`` and the table's own are searched.
        need_images: whether an image that is not found is a fault.
        sizes: ``(height, width)`` by image id, for tables without width and height.

    Raises:
        SomasegError: the file cannot be read at all, or is no such table.
    """
    path = Path(path)
    found = _read_rows(path, faults)
    root = path.parent
    index = ImageIndex(
        [Path(images)] if images is not None else [root / "train", root / "images", root]
    )
    names = _class_names(found, path, faults)
    samples: list[Sample] = []
    rows: dict[str, list[str]] = {}
    for name, image in found.items():
        size = image.size or (sizes or {}).get(name)
        image_path, size = locate(name, index, size, need_images, faults, path, name)
        if size is None:
            continue
        texts, lines = _sound(name, image, size, path, faults)
        cell_type = image.cell_type or (ONE_CLASS if names == (ONE_CLASS,) else None)
        label = names.index(cell_type) if cell_type else -1
        instances = Instances.from_runs(size, texts, classes=label, names=names)
        samples.append(Sample(name, size, image_path, instances, cell_type, image.group))
        rows[name] = [f"line {line}" for line in lines]
    if need_images:
        note_unannotated(index, faults)
    dataset = Dataset(tuple(samples), names, str(path))
    return Reading(dataset, faults, dict.fromkeys(dataset.ids, path), rows)


def _read_rows(path: Path, faults: Faults) -> dict[str, _Image]:
    """Gather the rows of each image, in the order the images come."""
    found: dict[str, _Image] = {}
    with open_csv(path) as reader:
        columns = list(reader.fieldnames or ())
        if is_dsb_table(columns):
            raise SomasegError(
                f"{path}: the table of the Data Science Bowl 2018, whose runs go down the columns; "
                "give the folder stage1_train, which holds the same masks as images"
            )
        if not is_table(columns):
            raise SomasegError(
                f"{path}: has the columns {', '.join(columns)[:200]}; expected id and annotation "
                "(or predicted)"
            )
        runs = next(column for column in _RUN_COLUMNS if column in columns)
        has_size = "width" in columns and "height" in columns
        for row in reader:
            line = reader.line_num
            name = row_text(row, "id")
            if None in row or row.get(columns[-1]) is None:
                count = (
                    len(row) - 1 + len(row.get(None) or ())
                    if None in row
                    else sum(value is not None for value in row.values())
                )
                faults.add(
                    "bad row",
                    f"{count} columns, the header has {len(columns)}; is a quote or a comma lost?",
                    path,
                    f"line {line}",
                    name or None,
                )
                continue
            if not name:
                faults.add("bad row", "no image id", path, f"line {line}")
                continue
            image = found.setdefault(name, _Image(line))
            if has_size:
                _take_size(image, row, line, name, path, faults)
            _take_class(image, row_text(row, "cell_type"), line, name, path, faults)
            _take_group(image, row)
            text = row_text(row, runs)
            if text:
                image.lines.append(line)
                image.texts.append(text)
            elif image.without_cells is None:
                image.without_cells = line
            else:
                faults.add("empty mask", "the mask is empty", path, f"line {line}", name)
    for name, image in found.items():
        if image.without_cells is not None and image.texts:
            faults.add(
                "empty mask",
                "the mask is empty; remove the row",
                path,
                f"line {image.without_cells}",
                name,
            )
    return found


def _take_size(
    image: _Image,
    row: Mapping[str | None, object],
    line: int,
    name: str,
    path: Path,
    faults: Faults,
) -> None:
    width, height = row_text(row, "width"), row_text(row, "height")
    size = (whole_number(height) or 0, whole_number(width) or 0)
    if not all(size):
        message = f"width {width[:30]!r} and height {height[:30]!r} must be whole numbers above 0"
        faults.add("bad row", message, path, f"line {line}", name)
        return
    if image.size is None:
        image.size = size
    elif image.size != size:
        message = (
            f"{width}×{height} pixels, but {image.size[1]}×{image.size[0]} in line {image.line}"
        )
        faults.add("size mismatch", message, path, f"line {line}", name)


def _take_class(
    image: _Image, cell_type: str, line: int, name: str, path: Path, faults: Faults
) -> None:
    if image.line == line:
        image.cell_type = cell_type
    elif image.cell_type != cell_type:
        message = (
            f"cell_type {cell_type!r}, but {image.cell_type!r} in line {image.line}; an image "
            "holds one type of cells"
        )
        faults.add("mixed classes", message, path, f"line {line}", name)


def _take_group(image: _Image, row: Mapping[str | None, object]) -> None:
    if image.group is not None:
        return
    sample, well = row_text(row, "sample_id"), row_text(row, "well")
    plate_and_well = "_".join(part for part in (row_text(row, "plate"), well) if part)
    image.group = (
        row_text(row, "group") or well_group(sample) or (plate_and_well if well else sample) or None
    )


def _class_names(found: Mapping[str, _Image], path: Path, faults: Faults) -> tuple[str, ...]:
    names = tuple(sorted({image.cell_type for image in found.values() if image.cell_type}))
    if not names:
        return (ONE_CLASS,)
    for name, image in found.items():
        if image.texts and not image.cell_type:
            message = f"no cell_type, while other images have one of {', '.join(names)}"
            faults.add("unknown class", message, path, f"line {image.line}", name)
    return names


def _sound(
    name: str, image: _Image, size: tuple[int, int], path: Path, faults: Faults
) -> tuple[list[str], list[int]]:
    """Return the runs of the sound rows and their lines; note the others."""
    bad = find_faults(image.texts, size)
    for i, reason in bad.items():
        kind = next((kind for words, kind in _KINDS.items() if words in reason), "bad run")
        faults.add(kind, reason, path, f"line {image.lines[i]}", name)
    good = [i for i in range(len(image.texts)) if i not in bad]
    return [image.texts[i] for i in good], [image.lines[i] for i in good]


def write_training_table(path: str | Path, dataset: Dataset) -> None:
    """Write ``train.csv``: id, annotation, width, height, cell_type, and group if there is one.

    An image without cells gets one row with an empty annotation.

    Raises:
        SomasegError: an image is not annotated, or its cells are of several classes: the table
            has one class an image.
    """
    has_groups = any(sample.group for sample in dataset)
    rows: list[tuple[object, ...]] = []
    for sample in dataset:
        instances = sample.annotated()
        height, width = sample.size
        cell_type = _class_of(path, sample.id, instances, sample.image_class)
        group = (sample.group or "",) if has_groups else ()
        rest = (width, height, cell_type, *group)
        rows += [(sample.id, runs, *rest) for runs in instances.to_runs() or [""]]
    header = ("id", "annotation", "width", "height", "cell_type")
    write_text(path, csv_text((*header, "group") if has_groups else header, rows))


def _class_of(path: str | Path, name: str, instances: Instances, image_class: str | None) -> str:
    present = {instances.names[k] if k >= 0 else "" for k in instances.classes.tolist()}
    if len(present) > 1:
        raise SomasegError(
            f"{path}: image {name} holds cells of {', '.join(sorted(present))}, but this table "
            "has one cell_type an image; convert to coco or labels"
        )
    return image_class or next(iter(present), "")


_ENDINGS = (".csv", ".csv.gz")


def _detect(path: Path) -> list[Path]:
    """Tables: a file by its ending, in a folder those whose header is that of runs."""
    if path.is_file():
        return [path] if path.name.lower().endswith(_ENDINGS) else []
    found = []
    for file in sorted(path.iterdir()):
        if is_leftover(file):
            continue
        if not file.name.lower().endswith(_ENDINGS):
            continue
        try:
            columns = csv_columns(file)
        except SomasegError:
            continue  # some other table, which is none of our business
        if is_table(columns) or is_dsb_table(columns):
            found.append(file)
    return found


def _write(folder: Path, dataset: Dataset, order: OrderName, ending: str) -> None:
    write_training_table(folder / "train.csv", dataset)


FORMAT = Format(
    "competition",
    "CSV with the columns id and annotation",
    _detect,
    read_competition,
    _write,
    image_folder="train",
    sure=("train.csv", "train.csv.gz"),
)
