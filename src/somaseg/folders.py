"""The folders that somaseg writes: what each of them is, what lies in it, and who writes to it.

::

    RUN/       config.yaml and folds.json: one model, cross-validated (also each trial of a search)
    FIT/       plan.yaml: a whole experiment; its members are runs in FIT/members/
    SEARCH/    search.yaml: its trials are runs in SEARCH/trial0/ …
    ENSEMBLE/  ensemble.yaml and predictions.npz: members joined
    MASKS/     predictions.json and labels/, and none of these: what `somaseg predict` wrote

Whatever it is, ``model.safetensors`` in it predicts new images, ``predictions.npz`` holds raw
predictions, ``folds.json`` the fold of each image if they are out of fold, and
``predictions.json`` final ones.
"""

import contextlib
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from somaseg.errors import SomasegError
from somaseg.files import MARK, read_json, remove_folder, write_json, writing

Kind = Literal["run", "fit", "search", "ensemble", "masks"]

CONFIG, FOLDS, PLAN, SEARCH = "config.yaml", "folds.json", "plan.yaml", "search.yaml"
ENSEMBLE = "ensemble.yaml"
"""What was joined. Fits of before 0.2 have a file of that name, too: see :data:`CHOICE`."""
CHOICE = "choice.yaml"
"""How a fit joins its members and settles."""
MODEL, PREDICTIONS = "model.safetensors", "predictions.npz"
SETTLE, RESCORER, SCORES = "settle.json", "rescore.json", "scores.json"
RESULTS, SUBMISSION, LABELS, OVERLAYS = "predictions.json", "submission.csv", "labels", "overlays"
IMAGES = "images.json"
"""In a folder of masks: path of each image, by id."""
CELLS = "cells.csv"
LEADERBOARD, REPORT = "leaderboard.json", "report.html"

LOCK, HOLDER = ".lock", ".holder.json"
"""Held while a command writes to a folder, and who holds it. They may stay: they are no data."""

_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp(\.\w+)?")


def kind_of(path: str | Path) -> Kind | None:
    """Tell what a folder is; none for what somaseg did not write, or that is not there."""
    path = Path(path)
    # A config.yaml alone may be anybody's.
    if (path / CONFIG).is_file() and (path / FOLDS).is_file():
        return "run"
    if (path / PLAN).is_file():
        return "fit"
    if (path / SEARCH).is_file():
        return "search"
    if (path / ENSEMBLE).is_file() and (path / PREDICTIONS).is_file():
        return "ensemble"
    if (path / RESULTS).is_file() and (path / LABELS).is_dir():
        return "masks"
    return None


def part_of_run(run: str | Path, fold: int | None) -> Path:
    """Folder of a fold of a run, or of the model of all images (none)."""
    return Path(run) / ("all" if fold is None else f"fold{fold}")


def model_files(run: str | Path) -> list[Path]:
    """Model files of a run to predict new images with: that of all images, or those of the folds.

    Raises:
        SomasegError: training is not finished.
    """
    run = Path(run)
    refitted = part_of_run(run, None) / MODEL
    if refitted.is_file():
        return [refitted]
    folds = read_json(run / FOLDS)
    count = folds.get("k") if isinstance(folds, dict) else None
    if not isinstance(count, int) or not 0 < count <= 1000:
        raise SomasegError(f"{run / FOLDS}: does not say how many folds there are")
    paths = [part_of_run(run, fold) / MODEL for fold in range(count)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise SomasegError(
            f"{run}: {missing[0].relative_to(run)} is missing; run the same `somaseg train` again "
            "to finish it, or give one fold's model.safetensors"
        )
    return paths


def is_leftover(path: str | Path) -> bool:
    """Whether a file is what a writer that was killed left behind: never data."""
    return _LEFTOVER.fullmatch(Path(path).name) is not None


def is_ours(path: Path) -> bool:
    """Whether a file in a folder is a lock or a leftover, which say nothing of what it is."""
    locks = path.name.startswith(".") and path.name.endswith(".lock")
    return locks or path.name == HOLDER or is_leftover(path)


@contextlib.contextmanager
def hold(folder: str | Path, wait: float = 1.0) -> Iterator[None]:
    """Hold a folder against other writers, processes or threads, while the block runs.

    Within a thread it may be held again. What killed writers left in the folder and in the folders
    right below it is cleared, but for those that are held by others. The lock is the operating
    system's: it goes with the process, however that ends.

    Args:
        folder: made if missing.
        wait: seconds to wait for another writer.

    Raises:
        SomasegError: another writer holds it; it is named.
        somaseg.files.CannotWrite: the folder cannot be written to.
    """
    folder = Path(folder)
    fresh = not (folder / LOCK).exists()
    lock = _lock(folder / LOCK)
    again = lock.is_locked
    with writing(folder):
        try:
            lock.acquire(timeout=wait)
        except Timeout as error:
            raise SomasegError(
                f"{folder}: {_holder(folder)} is writing to it; wait for it to end, or give "
                "another folder"
            ) from error
    try:
        if not again:
            clear_leftovers(folder)
            write_json(
                folder / HOLDER,
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": datetime.now().astimezone().isoformat(timespec="seconds"),
                    "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
                },
            )
        yield
    except SomasegError:
        if fresh and kind_of(folder) is None:  # refused: nothing of ours is left in it
            (folder / LOCK).unlink(missing_ok=True)
            (folder / HOLDER).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it stays if it holds anything
                folder.rmdir()
        raise
    finally:
        if not again:
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def sole(path: str | Path) -> Iterator[None]:
    """Wait until no other process changes a file by this function, and change it in the block."""
    path = Path(path)
    lock = _lock(path.with_name(f".{path.name}.lock"))
    with writing(path):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.resolve(), is_singleton=True)


def _holder(folder: Path) -> str:
    try:
        told = read_json(folder / HOLDER)
        return (
            f"process {told['pid']} on {told['host']} (`{told['command']}`, since {told['since']})"
        )
    except (SomasegError, KeyError, TypeError):
        return "another process"


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a new folder beside ``path``; rename it to ``path`` when the block ends well.

    What stood at ``path`` is replaced if this program made it.

    Raises:
        CannotWrite: the folder cannot be made, or files stand at ``path`` that are not ours.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(".tmp", f".{path.name}.", path.parent))
        try:
            (temporary / MARK).touch()
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o777 & ~umask)
            remove_folder(path)
            temporary.replace(path)
        finally:
            remove_folder(temporary)


def clear_leftovers(folder: Path) -> None:
    """Delete what killed writers left in a folder that the caller holds, and right below it.

    Folders below that have a lock of their own are left to whoever holds that.
    """
    below = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    for place in [folder, *(path for path in below if not (path / LOCK).exists())]:
        for path in list(place.iterdir()):
            if is_leftover(path) and path.is_file():
                path.unlink(missing_ok=True)
            elif is_leftover(path):
                remove_folder(path)
