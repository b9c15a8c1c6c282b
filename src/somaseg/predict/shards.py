"""What was found, image by image: appended to files as it comes, joined to tables at the end.

::

    OUT/.predict/SHARD/index.jsonl    a line for each finished image, where its results lie
    OUT/.predict/SHARD/results.jsonl  a COCO result a line
    OUT/.predict/SHARD/rows.csv       rows of the submission
    OUT/.predict/SHARD/cells.csv      rows of the table of cells, if it is asked for

An image counts as finished when its line in the index is whole; what a killed process left behind
it is cut off. Memory holds the index only. Several processes may each write a shard of their own.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from somaseg import __version__
from somaseg.data.predicted import image_entry
from somaseg.data.state import file_state
from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.files import atomic_path, file_name, own_folder, writing
from somaseg.folders import hold

WORK = ".predict"
"""Folder in ``OUT`` for what is found on the way."""


@dataclass(frozen=True)
class Entry:
    """A finished image.

    Attributes:
        id: of the image.
        key: fingerprint of the image, the model and the options.
        cells: found.
        results, rows, table: first byte and number of bytes in the three files.
        diameter: of the cells in pixels, that the image was scaled by, if it was.
    """

    id: str
    key: str
    cells: int
    results: tuple[int, int]
    rows: tuple[int, int]
    table: tuple[int, int]
    diameter: float | None = None


class Shards:
    """Finished images of a folder, and a shard to append to.

    Args:
        out: folder of the results.
        name: of the shard that this process writes.

    Attributes:
        finished: the shard and the entry of each finished image, by id; the last one counts.
    """

    def __init__(self, out: str | Path, name: str = "1-of-1") -> None:
        self.folder = own_folder(Path(out) / WORK)
        self.name = name
        self._lock = threading.Lock()
        self.finished: dict[str, tuple[str, Entry]] = {}
        for index in sorted(self.folder.glob("*/index.jsonl"), key=_age):
            for entry in _read_index(index):
                self.finished[entry.id] = index.parent.name, entry
        mine = own_folder(self.folder / name)
        entries = list(_read_index(mine / "index.jsonl"))
        whole = "".join(json.dumps(asdict(entry)) + "\n" for entry in entries)
        self._ends = {
            "index.jsonl": len(whole.encode()),
            "results.jsonl": max((sum(entry.results) for entry in entries), default=0),
            "rows.csv": max((sum(entry.rows) for entry in entries), default=0),
            "cells.csv": max((sum(entry.table) for entry in entries), default=0),
        }
        for file, end in self._ends.items():
            with writing(mine / file), (mine / file).open("ab") as opened:
                opened.truncate(end)

    def has(self, name: str, key: str) -> bool:
        """Whether an image is finished, with this fingerprint."""
        return name in self.finished and self.finished[name][1].key == key

    def add(
        self,
        name: str,
        key: str,
        results: Iterable[dict[str, Any]],
        rows: Iterable[str],
        table: Iterable[str] = (),
        diameter: float | None = None,
    ) -> None:
        """Append what was found in an image; it is on the disk when this returns.

        Args:
            name: id of the image.
            key: fingerprint of image, model and options.
            results: COCO results, an entry a cell.
            rows: of the submission, each with its line's end.
            table: rows of the table of cells, likewise.
            diameter: that the image was scaled by.
        """
        with self._lock:
            count = 0

            def lines() -> Iterator[str]:
                nonlocal count
                for result in results:
                    count += 1
                    yield json.dumps(result, allow_nan=False) + "\n"

            placed = self._append("results.jsonl", lines())
            places = self._append("rows.csv", rows), self._append("cells.csv", table)
            entry = Entry(name, key, count, placed, *places, diameter)
            self._append("index.jsonl", [json.dumps(asdict(entry)) + "\n"])
            self.finished[name] = self.name, entry

    def _append(self, file: str, texts: Iterable[str]) -> tuple[int, int]:
        """Add to the end of a file; returns the first byte and the number of bytes."""
        path, begin = self.folder / self.name / file, self._ends[file]
        with writing(path), path.open("rb+") as opened:
            # Where the last whole entry ends: what a failure left behind it is written over.
            opened.truncate(begin)
            opened.seek(begin)
            for text in texts:
                opened.write(text.encode())
            opened.flush()
            os.fsync(opened.fileno())
            self._ends[file] = opened.tell()
        return begin, self._ends[file] - begin

    def join(
        self, ids: Iterable[str], results: Path, submission: Path, cells: Path | None, head: str
    ) -> None:
        """Write the tables of some finished images, in this order, a line at a time.

        Args:
            ids: of the images.
            results: JSON of COCO results.
            submission: CSV of the competition.
            cells: CSV of the cells, if there is one, with ``head`` as its first line.
        """
        ids = [name for name in ids if name in self.finished]
        with atomic_path(results) as temporary, temporary.open("w", encoding="utf-8") as file:
            separator = "["
            for line in self._lines(ids, "results.jsonl"):
                file.write(separator + line.rstrip("\n"))
                separator = ", "
            file.write("]\n" if separator == ", " else "[]\n")
        with atomic_path(submission) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write("id,predicted\n")
            file.writelines(self._lines(ids, "rows.csv"))
        if cells is not None:
            with atomic_path(cells) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.write(head)
                file.writelines(self._lines(ids, "cells.csv"))

    def results(self, name: str) -> list[dict[str, Any]]:
        """COCO results of a finished image, in the order in which they were found."""
        return [json.loads(line) for line in self._lines([name], "results.jsonl")]

    def _lines(self, ids: Iterable[str], file: str) -> Iterator[str]:
        opened: dict[str, Any] = {}
        try:
            for name in ids:
                shard, entry = self.finished[name]
                if shard not in opened:
                    opened[shard] = (self.folder / shard / file).open("rb")
                places = {"results.jsonl": entry.results, "rows.csv": entry.rows}
                begin, length = places.get(file, entry.table)
                opened[shard].seek(begin)
                while length > 0:
                    line = opened[shard].readline()
                    if not line or len(line) > length:
                        raise SomasegError(
                            f"{self.folder / shard / file}: shorter than its index says; remove "
                            f"{self.folder} and predict again"
                        )
                    length -= len(line)
                    yield line.decode()
        finally:
            for stream in opened.values():
                stream.close()


def fingerprint_of(facts: str, sample: Sample) -> str:
    """Tell an image's file, and ``facts`` of all that decides on its cells, from others."""
    parts: list[Any] = [__version__, facts, sample.size]
    if sample.image_path is not None:
        with contextlib.suppress(OSError):
            parts += [str(sample.image_path.resolve()), *file_state(sample.image_path)[-2:]]
    if sample.plane is not None:
        parts.append(sample.plane.to_json())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def place_of_rows(out: str | Path, sample: Sample) -> tuple[Path, list[Any]]:
    """Folder for rows of tiles of a large image, and what tells its file from others."""
    assert sample.image_path is not None
    folder = own_folder(own_folder(Path(out) / WORK) / "tiles") / file_name(sample.id)
    return folder, [*file_state(sample.image_path), image_entry(sample)]


@contextlib.contextmanager
def hold_shard(out: str | Path, shard: tuple[int, int]) -> Iterator[None]:
    """Hold shard (k, n) of a folder of results against other writers while the block runs.

    Raises:
        SomasegError: another process writes to it; it is named.
    """
    folder = own_folder(own_folder(Path(out) / WORK) / shard_name(shard))
    with hold(folder, wait=10):  # one whose worker was killed ends by itself within that
        yield


def shard_name(shard: tuple[int, int]) -> str:
    """Name of shard (k, n)."""
    return f"{shard[0]}-of-{shard[1]}"


def _age(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, str(path)


def _read_index(path: Path) -> Iterator[Entry]:
    """Whole entries of an index, up to the first that is not."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                fields = json.loads(line)
                places = {key: tuple(fields[key]) for key in ("results", "rows", "table")}
                yield Entry(**{**fields, **places})
            except (ValueError, TypeError, KeyError):
                return
