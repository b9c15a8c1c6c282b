"""The tables beside label images: what a label image cannot say.

``classes.csv`` (id, class, group) says of which class all cells of an image are, and its group;
``instances.csv`` (id, label, class, score) says it for each cell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from somaseg.data.faults import Faults
from somaseg.data.tables import csv_columns, csv_text, open_csv, row_text
from somaseg.data.types import ONE_CLASS, Dataset
from somaseg.errors import SomasegError
from somaseg.files import file_name, write_text

CLASSES_CSV, INSTANCES_CSV = "classes.csv", "instances.csv"


@dataclass
class Tables:
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


def read_tables(folder: Path, faults: Faults) -> Tables:
    """Read the tables of a folder, as far as they are there."""
    tables = Tables()
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


def unknown_ids(tables: Tables, files: dict[str, Path], folder: Path, faults: Faults) -> None:
    """Note rows about images that are not there."""
    for table, ids in ((CLASSES_CSV, tables.image_class), (INSTANCES_CSV, tables.cell)):
        for name in sorted(set(ids) - set(files)):
            faults.add(
                "bad row", "speaks of an image that is not there", folder / table, image=name
            )


def write_tables(folder: Path, dataset: Dataset, labels: Sequence[set[int]]) -> None:
    """Write the two tables; ``labels`` are those that can be seen in each image."""
    images, cells = [], []
    for sample, visible in zip(dataset, labels, strict=True):
        instances = sample.annotated()
        kinds = [dataset.names[k] if k >= 0 else "" for k in instances.classes.tolist()]
        of_image = sample.image_class or (kinds[0] if len(set(kinds)) == 1 else "")
        images.append((file_name(sample.id), of_image, sample.group or ""))
        if len(set(kinds)) > 1 or (instances.scores != 1).any():
            cells += [
                (file_name(sample.id), label, kind, f"{score:.9g}")
                for label, (kind, score) in enumerate(
                    zip(kinds, instances.scores.tolist(), strict=True), start=1
                )
                if label in visible
            ]
    # Label images of one class are read as "cell" by themselves.
    if dataset.names != (ONE_CLASS,) or any(group for *_, group in images):
        write_text(folder / CLASSES_CSV, csv_text(("id", "class", "group"), images))
    if cells:
        write_text(folder / INSTANCES_CSV, csv_text(("id", "label", "class", "score"), cells))
