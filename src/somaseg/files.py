"""Write files so that a reader never meets half of one."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from somaseg.errors import SomasegError


class CannotWrite(SomasegError):
    """A file cannot be written: the disk is full, the folder is not ours, …"""


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong in writing ``path`` into the message a user can act on.

    Raises:
        CannotWrite: the disk is full, the folder cannot be written to, …
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CannotWrite(
            f"{path}: cannot be written ({reason}); free some space or choose another folder"
        ) from error


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` when the block ends well.

    An exception, a full disk or a killed process leaves what stood at ``path`` untouched. The
    temporary name keeps the ending of ``path``, because many writers choose the format by it.

    Raises:
        CannotWrite: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(
                dir=path.parent, prefix=f".{path.name}.", suffix=".tmp" + path.suffix
            )
            os.close(handle)
            temporary = Path(name)
            yield temporary
            # Flush to the disk before the rename: else a power cut can leave an empty new file.
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            # mkstemp makes files private; give the mode an ordinary open() would have given.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write ``value`` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        SomasegError: the file is missing or not JSON; the line and column are named.
    """
    try:
        return json.loads(_read_text(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SomasegError(f"{path}: not valid JSON ({error}); is the file whole?") from error


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file.

    Raises:
        SomasegError: the file is missing or not YAML; the line and column are named.
    """
    try:
        return yaml.safe_load(_read_text(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SomasegError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SomasegError(f"{path}: no such file") from error
    except OSError as error:
        raise SomasegError(f"{path}: cannot be read ({error.strerror or error})") from error
