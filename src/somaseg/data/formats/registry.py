"""Formats by name: those of this package, and those that other packages bring along.

A package adds a format by an entry point of the group ``somaseg.formats`` whose value is a
:class:`Format`. The formats here go the same way, so that nothing knows more of them than of any
other. docs/data_formats.md and docs/formats.md show some from outside.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from somaseg.errors import SomasegError

if TYPE_CHECKING:
    from somaseg.data.faults import Faults
    from somaseg.data.formats.label_files import Loss
    from somaseg.data.reading import Reading
    from somaseg.data.types import Dataset
    from somaseg.masks.resolve import OrderName

GROUP = "somaseg.formats"
_OURS = (
    "competition",
    "labelme",
    "coco",
    "labels",
    "cells",
    "rois",
    "geojson",
    "cellpose",
    "yolo",
    "images",
)
OURS = {name: EntryPoint(name, f"somaseg.data.formats.{name}:FORMAT", GROUP) for name in _OURS}


class Reader(Protocol):
    """Reads a data set."""

    def __call__(
        self,
        path: Path,
        faults: "Faults",
        images: Path | None,
        need_images: bool,
        sizes: Mapping[str, tuple[int, int]] | None,
    ) -> "Reading":
        """Read what is sound, and note the rest.

        Args:
            path: what :attr:`Format.detect` found, or what the user gave with ``--format``.
            faults: takes what is wrong with rows and images; these are left out.
            images: folder of the images, where the user named one.
            need_images: whether an image that is not found is a fault.
            sizes: ``(height, width)`` by image id, for files that do not say.

        Raises:
            SomasegError: the file cannot be read at all.
        """


class Writer(Protocol):
    """Writes annotations; images are copied by whoever calls it."""

    def __call__(
        self, folder: Path, dataset: "Dataset", order: "OrderName", ending: str
    ) -> "Loss | None":
        """Write the annotations of a data set into ``folder``.

        Args:
            folder: made if missing.
            dataset: images that are all annotated. Files are called by
                :func:`somaseg.files.file_name` of an image's id.
            order: for formats without overlap, who has a pixel that several instances claim.
            ending: of label images.

        Returns:
            what was lost to overlap, if the format cannot hold it.

        Raises:
            SomasegError: what the format cannot hold.
        """


@dataclass(frozen=True)
class Format:
    """One way to keep annotated images on disk.

    Attributes:
        name: as ``--format`` takes it.
        what: what a user gives, in a few words: ``COCO JSON``.
        detect: the files (or folders) of this format at a path: the path itself if it is one,
            those in it if it is a folder; empty if there are none. It looks at names and at first
            bytes only.
        read: the reader.
        write: the writer, if it can be written.
        image_folder: where images are copied to, beside what ``write`` makes.
        sure: names of files that decide by themselves, whatever else lies in the folder.
        folders: whether it reads a folder as such, so that one can be given that ``detect`` does
            not recognise.
    """

    name: str
    what: str
    detect: Callable[[Path], Sequence[Path]]
    read: Reader
    write: Writer | None = None
    image_folder: str = "images"
    sure: tuple[str, ...] = ()
    folders: bool = False

    def known(self, folder: Path) -> Path | None:
        """Return the file in a folder that decides by itself."""
        return next((folder / name for name in self.sure if (folder / name).is_file()), None)


def format_names() -> tuple[str, ...]:
    """Names of all formats: those of this package first; none is loaded."""
    return tuple(_entries())


def find_format(name: str) -> Format:
    """Return a format.

    Raises:
        SomasegError: there is none of that name, or the package that brings it is broken.
    """
    entry = _entries().get(name)
    if entry is None:
        raise SomasegError(f"format {name!r}: choose one of {', '.join(['auto', *_entries()])}")
    return _load(entry)


def formats() -> list[Format]:
    """All formats, those of other packages first; a broken one is left out, with a warning."""
    found = []
    for entry in sorted(_entries().values(), key=lambda entry: entry.name in OURS):
        try:
            found.append(_load(entry))
        except SomasegError as error:
            warnings.warn(f"{error}; left out", stacklevel=2)
    return found


def writable() -> dict[str, Format]:
    """The formats that can be written, by name."""
    return {format.name: format for format in formats() if format.write is not None}


def forget() -> None:
    """Look anew at what is installed, the next time a format is asked for."""
    _entries.cache_clear()
    _load.cache_clear()


@cache
def _entries() -> dict[str, EntryPoint]:
    """Entry points by name; no package can take the place of a format of ours."""
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {**OURS, **{name: entry for name, entry in others.items() if name not in OURS}}


@cache
def _load(entry: EntryPoint) -> Format:
    try:
        format = entry.load()
    except Exception as error:  # whatever another package raises when it is imported
        raise SomasegError(
            f"format {entry.name!r}: {entry.value} cannot be loaded ({error}); mend or remove the "
            "package that brings it"
        ) from error
    if not isinstance(format, Format) or format.name != entry.name:
        raise SomasegError(f"format {entry.name!r}: {entry.value} is no Format of that name")
    return format
