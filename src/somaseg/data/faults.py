"""Faults of a data set: readers collect them all, and whoever reads decides what stops the work."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from somaseg.errors import SomasegError

Severity = Literal["error", "warning"]

# Every kind of fault, and whether training on the data set would fail because of it.
KINDS: dict[str, Severity] = {
    "unreadable file": "error",
    "bad row": "error",
    "missing image": "error",
    "unreadable image": "error",
    "ambiguous image": "error",
    "size mismatch": "error",
    "unknown size": "error",
    "not a number": "error",
    "odd count": "error",
    "run outside": "error",
    "run overlap": "error",
    "bad run": "error",
    "bad counts": "error",
    "bad polygon": "error",
    "empty mask": "error",
    "unknown class": "error",
    "mixed classes": "error",
    "binary mask": "error",
    "shattered masks": "error",
    "all crowd": "error",
    "no cell": "error",
    "no annotation": "error",
    "image without annotation": "warning",
    "image without cells": "warning",
    "annotation without image": "warning",
    "turned image": "warning",
    "no pixel size": "warning",
    "crowd region": "warning",
    "same field": "warning",
    "polygon outside": "warning",
    "duplicate mask": "warning",
    "near-duplicate mask": "warning",
    "overlap": "warning",
    "pieces": "warning",
    "holes": "warning",
}


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a data set.

    Attributes:
        kind: a key of :data:`KINDS`.
        message: what is wrong and what to do, in one line.
        file: the file it stands in.
        row: where in the file: ``line 17``, ``annotation 512`` (COCO id), ``label 5``.
        image: id of the image, if it concerns one.
        instance: row in the image's instances, if it concerns one that could be read.
    """

    kind: str
    message: str
    file: str
    row: str | None = None
    image: str | None = None
    instance: int | None = None

    @property
    def severity(self) -> Severity:
        """Whether training would fail (error) or only suffer (warning)."""
        return KINDS[self.kind]

    def __str__(self) -> str:
        where = f"{self.file} {self.row}" if self.row else self.file
        image = f" (image {self.image})" if self.image else ""
        return f"{where}{image}: {self.message}"


@dataclass
class Faults:
    """Collects faults while a reader goes on."""

    found: list[Fault] = field(default_factory=list)

    def add(
        self,
        kind: str,
        message: str,
        file: str | Path,
        row: str | None = None,
        image: str | None = None,
        instance: int | None = None,
    ) -> None:
        """Note one fault."""
        self.found.append(Fault(kind, message, str(file), row, image, instance))

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    @property
    def errors(self) -> list[Fault]:
        """The faults that stop a training."""
        return [fault for fault in self.found if fault.severity == "error"]

    def raise_errors(self, limit: int = 20) -> None:
        """Raise when there is an error, naming the first ``limit`` of them.

        Raises:
            SomasegError: one line for a single error, else a line each under a heading.
        """
        errors = self.errors
        if not errors:
            return
        if len(errors) == 1:
            raise SomasegError(str(errors[0]))
        lines = [f"{len(errors)} faults in the data:", *map(str, errors[:limit])]
        if len(errors) > limit:
            lines.append(f"… and {len(errors) - limit} more; `somaseg data check` lists them all")
        raise SomasegError("\n  ".join(lines))
