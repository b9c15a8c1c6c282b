"""Submissions of the competition: written, read as they stand, checked."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from somaseg.data.tables import csv_text, open_csv, row_text
from somaseg.errors import SomasegError
from somaseg.files import write_text
from somaseg.instances import Instances
from somaseg.masks.rle import find_faults, parse_runs

_SHOWN = 20  # problems of a submission that a message spells out


@dataclass(frozen=True)
class Row:
    """One row of a submission: where it stands, the image, its runs (empty: no instance)."""

    where: str
    image: str
    runs: str


def write_submission(
    path: str | Path, predictions: Mapping[str, Instances], ids: Sequence[str] | None = None
) -> int:
    """Write a submission, after it has been checked.

    Args:
        path: the CSV: id, predicted; one row an instance, one empty row for an image without any.
        predictions: hard instances that share no pixel, by image id.
        ids: the images that must be there, in the order to write; by default those predicted.

    Returns:
        number of rows.

    Raises:
        SomasegError: an image is missing or not asked for, or instances share a pixel.
    """
    order = list(ids) if ids is not None else list(predictions)
    rows = [
        Row(f"instance {i + 1}", name, runs)
        for name in dict.fromkeys([*order, *predictions])
        if name in predictions
        for i, runs in enumerate(predictions[name].to_runs() or [""])
    ]
    # Our own runs need not be read again to be known sound; what is wrong is described by reading.
    sound = set(order) == set(predictions) and all(
        cells.areas.all() and cells.claims().max(initial=0) <= 1 for cells in predictions.values()
    )
    if not sound:
        sizes = {name: cells.size for name, cells in predictions.items()}
        if problems := check_submission(rows, sizes, order):
            raise SomasegError(describe(path, problems, "not written"))
    text = csv_text(("id", "predicted"), [(row.image, row.runs) for row in rows])
    write_text(path, text)
    return len(rows)


def read_rows(path: str | Path) -> list[Row]:
    """Read the rows of a submission as they stand, sound or not.

    Raises:
        SomasegError: no CSV, or not with the columns id and predicted.
    """
    path = Path(path)
    with open_csv(path) as reader:
        if not {"id", "predicted"} <= set(reader.fieldnames or ()):
            raise SomasegError(
                f"{path}: has the columns {', '.join(reader.fieldnames or ())[:200]}; a submission "
                "has id and predicted"
            )
        return [
            Row(f"line {reader.line_num}", row_text(row, "id"), row_text(row, "predicted"))
            for row in reader
        ]


def check_submission(
    rows: Iterable[Row], sizes: Mapping[str, tuple[int, int]], ids: Iterable[str]
) -> list[str]:
    """Find what the competition would refuse, or score as something else.

    Args:
        rows: of the submission.
        sizes: ``(height, width)`` by image id.
        ids: the images that must be there.

    Returns:
        one line a problem: images that are missing or not asked for, runs that are no numbers,
        odd, unsorted, outside or shared between instances. Empty if all is well.
    """
    by_image: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_image[row.image].append(row)
    wanted = set(ids)
    problems = [
        f"image {name} is missing; give it a row with an empty cell if it has no cells"
        for name in sorted(wanted - set(by_image))
    ]
    for name, of_image in by_image.items():
        if name not in wanted:
            problems.append(f"{of_image[0].where}: image {name!r} is not one of those asked for")
        elif name not in sizes:
            problems.append(f"{of_image[0].where}: the size of image {name} is not known")
        else:
            problems += _check_image(name, of_image, sizes[name])
    return problems


def describe(path: str | Path, problems: Sequence[str], outcome: str) -> str:
    """Return one message about all the problems; long lists are cut, and say so."""
    if len(problems) == 1:
        return f"{path}: {outcome}: {problems[0]}"
    shown = list(problems[:_SHOWN])
    if len(problems) > _SHOWN:
        shown.append(f"… and {len(problems) - _SHOWN} more")
    return "\n  ".join([f"{path}: {outcome}, {len(problems)} problems:", *shown])


def _check_image(name: str, rows: Sequence[Row], size: tuple[int, int]) -> list[str]:
    empty = [row for row in rows if not row.runs]
    if empty and len(rows) > 1:
        return [f"{row.where} (image {name}): an empty row beside others" for row in empty]
    rows = [row for row in rows if row.runs]
    faults = find_faults([row.runs for row in rows], size)
    problems = [f"{rows[i].where} (image {name}): {reason}" for i, reason in faults.items()]
    claims = np.zeros(size[0] * size[1] + 1, np.int32)
    sound: list[tuple[Row, npt.NDArray[np.int64]]] = []
    for i, row in enumerate(rows):
        if i in faults:
            continue
        runs = parse_runs(row.runs)
        if (np.diff(runs[:, 0]) < 0).any():
            problems.append(f"{row.where} (image {name}): its runs are not sorted by start")
        claims[runs[:, 0] - 1] += 1
        claims[runs.sum(1) - 1] -= 1
        sound.append((row, runs))
    shared = np.cumsum(claims) > 1
    if shared.any():
        before = np.concatenate([[0], np.cumsum(shared)])
        involved = [
            row.where
            for row, runs in sound
            if (before[runs.sum(1) - 1] > before[runs[:, 0] - 1]).any()
        ]
        problems.append(
            f"image {name}: {int(shared.sum())} pixels belong to several of its instances "
            f"({', '.join(involved[:4])}{', …' if len(involved) > 4 else ''}); give each to one"
        )
    return problems
