"""The ledger: all runs below a folder beside what they scored elsewhere. No database.

::

    FOLDER/…/RUN/…      what a run was, scored and got elsewhere (see ``recorded``)
    FOLDER/ledger.csv   entries from elsewhere: name, cv, public, private, note
"""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from somaseg.data.tables import csv_text, open_csv, row_text
from somaseg.errors import SomasegError
from somaseg.files import write_text
from somaseg.folders import sole
from somaseg.models.training.logs import flat_settings
from somaseg.runs.recorded import (
    find_runs,
    is_number,
    read_config,
    read_results,
    read_scores,
    training_cost,
)
from somaseg.scoring.agreement import Agreement, agreement

Board = Literal["public", "private"]
BOARDS: tuple[Board, Board] = ("public", "private")

EXTERNAL = "ledger.csv"

_COLUMNS = ("name", "cv", "public", "private", "note")


@dataclass(frozen=True)
class Entry:
    """A run, or a row of ``ledger.csv``.

    Attributes:
        name: the run's folder below the ledger's; or the row's name.
        folder: of the run; none for a row.
        cv: nested out-of-fold score, weighted by class if the ledger's is; none if not scored.
        by_class: nested score of each class.
        untuned: score with default settings, weighted as ``cv``.
        partial: whether only some folds are trained: then ``cv`` is of their images alone.
        seconds, cpu_seconds: of training, all folds.
        parameters: of one fold's model.
        settings: of the run's config, by dotted name.
        public, private: the last recorded score of each board.
        paired: what ``cv`` was when that score was recorded, by board.
        note: the last one.
    """

    name: str
    folder: Path | None = None
    cv: float | None = None
    by_class: dict[str, float] = field(default_factory=dict)
    untuned: float | None = None
    partial: bool = False
    seconds: float | None = None
    cpu_seconds: float | None = None
    parameters: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    public: float | None = None
    private: float | None = None
    paired: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Ledger:
    """All entries below a folder, the best CV first.

    Attributes:
        folder: where they were looked for.
        entries: runs and rows.
        weighted: whether CV is weighted by class: so if all scored runs have the same weights.
        problems: what could not be read or compared, one sentence each.
    """

    folder: Path
    entries: tuple[Entry, ...]
    weighted: bool
    problems: tuple[str, ...]

    def differing(self) -> tuple[str, ...]:
        """Names of the settings in which the runs differ."""
        runs = [entry.settings for entry in self.entries if entry.settings]
        names = dict.fromkeys(name for settings in runs for name in settings)
        # As text, because lists cannot go into a set; a missing field is the family's default.
        return tuple(n for n in names if len({repr(run.get(n)) for run in runs}) > 1)

    def pairs(self, board: Board) -> list[tuple[Entry, float, float]]:
        """Entries with both scores: (entry, its CV at the time, its score on the board)."""
        out = []
        for entry in self.entries:
            cv, score = entry.paired.get(board, entry.cv), getattr(entry, board)
            if cv is not None and score is not None and not entry.partial:
                out.append((entry, cv, score))
        return out

    def agreement(self, board: Board) -> Agreement | None:
        """How CV and the board go together; none if no entry has both."""
        pairs = self.pairs(board)
        if not pairs:
            return None
        _, cv, scores = zip(*pairs, strict=True)
        return agreement(cv, scores)


def read_ledger(folder: str | Path, depth: int | None = None) -> Ledger:
    """Read all runs below a folder, and its ``ledger.csv``.

    Args:
        folder: that holds runs.
        depth: of folders that are looked into; all by default.

    Raises:
        SomasegError: no such folder, or a ``ledger.csv`` with a row that is not valid.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SomasegError(f"{folder}: no such folder; give one that holds runs")
    problems: list[str] = []
    found = []
    for path in find_runs(folder, depth):
        try:
            found.append((path, read_config(path), read_scores(path), read_results(path)))
        except SomasegError as error:
            problems.append(f"left out: {error}")
    weights = [scores["nested"].get("weights") for _, _, scores, _ in found if scores]
    weighted = bool(weights) and all(one and one == weights[0] for one in weights)
    if not weighted and any(weights):
        problems.append(
            "runs are scored with different class weights, so CV is the plain mean over images; "
            "`somaseg tune RUN --weights …` scores a run again"
        )
    figure = "weighted" if weighted else "map"
    entries = []
    for path, config, scores, results in found:
        name = path.relative_to(folder).as_posix()
        if name == ".":
            name = folder.resolve().name
        try:
            entry = _entry(name, path, config, scores, results, figure)
            _check_numbers(entry)
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(
                f"left out: {path / 'scores.json'}: incomplete ({error!r}); write it again with "
                f"`somaseg tune {path}`"
            )
            continue
        then = entry.paired.get("public", entry.cv)
        if entry.cv is not None and then is not None and abs(entry.cv - then) > 1e-9:
            problems.append(
                f"{name}: its CV was {then:.3f} when its leaderboard score was recorded, and is "
                f"{entry.cv:.3f} now"
            )
        entries.append(entry)
    rows = folder / EXTERNAL
    entries += read_rows(rows) if rows.exists() else []
    entries.sort(key=lambda e: (e.cv is None, -(e.cv or 0), -(e.public or 0), e.name))
    return Ledger(folder, tuple(entries), weighted, tuple(problems))


def read_rows(path: str | Path) -> list[Entry]:
    """Read a table of entries: name and any of cv, public, private, note; others are ignored.

    Raises:
        SomasegError: not such a table; all bad rows are named.
    """
    path = Path(path)
    entries, faults = [], []
    with open_csv(path) as reader:
        reader.fieldnames = [name.lower() for name in reader.fieldnames or ()]
        if "name" not in reader.fieldnames or not {"cv", *BOARDS} & set(reader.fieldnames):
            raise SomasegError(
                f"{path}: has columns {', '.join(reader.fieldnames)}; "
                "give name and one or more of cv, public, private"
            )
        for row in reader:
            numbers: dict[str, float | None] = {}
            wrong = [] if row_text(row, "name") else ["no name"]
            for column in ("cv", *BOARDS):
                text = row_text(row, column)
                try:
                    numbers[column] = _number(text)
                except ValueError:
                    wrong.append(f"{column} {text!r} is no number")
            if not wrong and all(value is None for value in numbers.values()):
                wrong.append("no score")
            faults += [f"line {reader.line_num}: {reason}" for reason in wrong]
            if not wrong:
                entries.append(
                    Entry(row_text(row, "name"), note=row_text(row, "note"), **numbers)  # type: ignore[arg-type]
                )
    if faults:
        raise SomasegError(f"{path}: {'; '.join(faults)}")
    return entries


def import_rows(folder: str | Path, path: str | Path) -> tuple[int, int]:
    """Take the entries of a table into the folder's ``ledger.csv``.

    Importing a table again, or one that was exported here, adds nothing twice.

    Returns:
        rows added, rows that were there already.

    Raises:
        SomasegError: as :func:`read_rows` and :func:`read_ledger`.
    """
    read_ledger(folder)  # is there one?
    with sole(Path(folder) / EXTERNAL):
        ledger = read_ledger(folder)
        known = Counter(_row(entry) for entry in ledger.entries)
        added = []
        rows = read_rows(path)
        for entry in rows:
            if known[_row(entry)]:
                known[_row(entry)] -= 1
            else:
                added.append(entry)
        if added:
            target = ledger.folder / EXTERNAL
            kept = read_rows(target) if target.exists() else []
            write_text(target, csv_text(_COLUMNS, [_row(entry) for entry in [*kept, *added]]))
        return len(added), len(rows) - len(added)


def export_rows(ledger: Ledger, path: str | Path) -> int:
    """Write all entries with a score as a table for :func:`import_rows`, with all that is known.

    Returns:
        number of entries written.
    """
    classes = dict.fromkeys(name for entry in ledger.entries for name in entry.by_class)
    settings = ledger.differing()
    extra = ("untuned", "partial", "seconds", "cpu_seconds", "parameters")
    header = (*_COLUMNS, *extra, *(f"cv of {name}" for name in classes), *settings)
    rows = [
        (
            *_row(entry),
            *(_text(getattr(entry, name)) for name in extra),
            *(_text(entry.by_class.get(name)) for name in classes),
            *(_text(entry.settings.get(name)) for name in settings),
        )
        for entry in ledger.entries
        if any(_row(entry)[1:4])
    ]
    write_text(path, csv_text(header, rows))
    return len(rows)


def _entry(
    name: str,
    path: Path,
    config: dict[str, Any],
    scores: dict[str, Any] | None,
    results: list[dict[str, Any]],
    figure: str,
) -> Entry:
    boards: dict[str, Any] = {}
    paired: dict[str, float] = {}
    # Public and private scores may come on different days: the last of each counts.
    for result in results:
        for board in BOARDS:
            if result.get(board) is not None:
                boards[board] = result[board]
                paired.pop(board, None)
                then = (result.get("cv") or {}).get(figure)
                if then is not None:
                    paired[board] = then
    notes = [str(result["note"]) for result in results if result.get("note")]
    folds = config.get("folds", 0)
    took = training_cost(scores or {})
    return Entry(
        name,
        path,
        cv=scores["nested"][figure] if scores else None,
        by_class=dict(scores["nested"].get("by_class", {})) if scores else {},
        untuned=scores.get("untuned", {}).get(figure) if scores else None,
        partial=scores is not None and len(scores.get("folds", range(folds))) < folds,
        **took,
        # Where it is logged decides nothing.
        settings={name: value for name, value in flat_settings(config).items() if name != "log"},
        **boards,
        paired=paired,
        note=notes[-1] if notes else "",
    )


def _check_numbers(entry: Entry) -> None:
    figures = [entry.cv, entry.untuned, entry.seconds, entry.cpu_seconds, entry.parameters]
    for value in [*figures, *entry.by_class.values()]:
        if value is not None and not is_number(value):
            raise TypeError(f"{str(value)[:30]!r} is no number")


def _row(entry: Entry) -> tuple[str, str, str, str, str]:
    numbers = (_text(entry.cv), _text(entry.public), _text(entry.private))
    return (entry.name, *numbers, entry.note)


def _text(value: Any) -> str:
    if value is None:
        return ""
    # repr of a float reads back as the same number; of a list, it is what YAML would write.
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _number(text: str) -> float | None:
    if not text:
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
