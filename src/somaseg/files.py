"""Write files so that a reader never meets half of one."""

import contextlib
import json
import math
import os
import re
import shutil
import stat
import struct
import tempfile
import tokenize
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError

from somaseg.errors import SomasegError

if TYPE_CHECKING:
    import numpy.typing as npt


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
    text = _read_text(path)
    try:
        value = json.loads(text)
        if _SURROGATE.search(text):  # half of a character: no file or terminal takes it
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        # ValueError: no JSON, a number of thousands of digits, half a character.
        raise SomasegError(
            f"{path}: not valid JSON ({_one_line(error)}); is the file whole?"
        ) from error
    return value


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file.

    Raises:
        SomasegError: the file is missing or not YAML; the line and column are named.
    """
    return parse_yaml(_read_text(path), path)


def parse_yaml(text: str, source: object) -> Any:
    """Read YAML that lies in memory; ``source`` is what errors call it.

    Raises:
        SomasegError: not YAML, or aliases that refer to themselves or blow up to a million values.
    """
    try:
        _check_nesting(text)
        value = yaml.safe_load(text)
        _check_aliases(value, {})
    except (yaml.YAMLError, *DAMAGE) as error:  # not of YAML: its dates, numbers, nesting
        raise SomasegError(f"{source}: not valid YAML ({_one_line(error)})") from error
    return value


def _check_nesting(text: str) -> None:
    """Refuse brackets a hundred deep: the parser's time grows with the square of the depth."""
    depth = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if depth > 100:
            raise ValueError("brackets nested more than a hundred deep")


def _check_aliases(value: Any, known: dict[int, int]) -> int:
    """Count values as often as aliases repeat them."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 0  # we are within it
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_check_aliases(part, known) for part in parts)
    if not 0 < known[id(value)] < 1_000_000:
        raise ValueError("aliases that refer to themselves or to very many values")
    return known[id(value)]


def read_arrays(path: str | Path) -> "dict[str, npt.NDArray[Any]]":
    """Read the arrays of an ``.npz`` file; what each claims to hold is checked before.

    Raises:
        SomasegError: missing, not such a file, truncated or damaged.
    """
    import numpy as np  # which what only reads texts need not wait for

    path = check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0
                    shape, _, dtype = (
                        read if version == (1, 0) else np.lib.format.read_array_header_2_0
                    )(file)
                    whole = math.prod(shape) * dtype.itemsize == member.file_size - file.tell()
                if not whole or member.file_size > _DEFLATE * (member.compress_size + 64):
                    raise ValueError(f"{member.filename} is not as large as it claims")
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except DAMAGE as error:
        raise damaged(path, error) from error


MARK = ".somaseg"
"""A file in each folder that this program made and may delete whole."""

_LONGEST = 150
"""Characters of a file name made of an id: with an ending and a temporary name's, below 255 bytes
of UTF-8 for what most ids are made of; longer ones end in a digest."""
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{n}{i}" for n in ("COM", "LPT") for i in range(1, 10))}


def file_name(name: str) -> str:
    """Make a file name of an image's id or a class's name; other names give other file names.

    A plain name stays as it is. All else (separators, control characters, what Windows refuses, a
    leading dot, a length that no file system takes) is written as ``%XX`` of its UTF-8 bytes, or
    shortened to a beginning and a digest. So a path built from data stays in its folder.

    Args:
        name: any text.

    Returns:
        a name without separators, never empty, ``.`` or ``..``; to be followed by an ending.
    """
    plain = unicodedata.normalize("NFC", name)
    kept = [
        c
        if (c.isalnum() or c in "-_. ()[]+=,;@#!~'&$^{}") and not (i == 0 and c in ". ")
        else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
        for i, c in enumerate(plain)
    ]
    out = "".join(kept)
    if out.endswith((" ", ".")):
        out = f"{out[:-1]}%{ord(out[-1]):02X}"
    if out.split(".")[0].upper() in _RESERVED:
        out = f"%{ord(out[0]):02X}{out[1:]}"
    if plain != name or not out or len(out.encode()) > _LONGEST:
        digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        # No plain name holds a percent sign: it would have been escaped.
        out = f"{out.encode()[: _LONGEST - 20].decode('utf-8', 'ignore')}%{digest}"
    return out


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DEFLATE = 1032  # deflate makes no more bytes of one


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_regular(path: str | Path) -> Path:
    """Refuse what is no regular file: a pipe would hang a reader, a device fill the memory.

    Raises:
        SomasegError: nothing is there, or a folder, pipe, socket or device.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        if isinstance(error, FileNotFoundError):
            reason = "a link to a file that is not there" if path.is_symlink() else "no such file"
        raise SomasegError(f"{path}: {reason}") from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise SomasegError(f"{path}: cannot be read: {what}, not a file")
    return path


def is_there(path: str | Path) -> bool:
    """Whether a file or folder is there; a name that no file system takes is none."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


DAMAGE = (
    OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    SyntaxError, RuntimeError, struct.error, tokenize.TokenError, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""What decoders raise of bytes that are damaged: to be caught around the decoding alone, never
around code of our own. No MemoryError: claims are checked before (:mod:`somaseg.limits`)."""


def damaged(path: Path, why: object = "", fix: str = "copy the file again") -> SomasegError:
    """Return the one line about a file whose content is not whole."""
    reason = f" ({_one_line(why)})" if why != "" else ""
    return SomasegError(f"{path}: truncated or damaged{reason}; {fix}")


def check_apart(inputs: Iterable[str | Path], outputs: Iterable[str | Path]) -> None:
    """Refuse to write over what is read, whatever links or spellings lead there.

    Args:
        inputs: files that are read.
        outputs: files that will be written, or folders that will be made.

    Raises:
        SomasegError: an output is one of the inputs; both are named.
    """
    places = {_place(path): path for path in inputs}
    places.pop(None, None)
    for path in outputs:
        source = places.get(_place(path))
        if source is not None:
            raise SomasegError(
                f"{path}: would be written over {source}, which is read; give another --out"
            )


def _place(path: str | Path) -> tuple[int, int] | None:
    """Device and inode of what is there, if anything is."""
    try:
        state = Path(path).stat()
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino


def own_folder(path: str | Path) -> Path:
    """Make a folder and mark it as this program's, or take up one that is marked.

    Raises:
        SomasegError: it holds files, and no mark.
        CannotWrite: it cannot be made.
    """
    path = Path(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        if not (path / MARK).is_file():
            # Another thread or process that takes it up at once marks it before anything else, so
            # what is seen in it without a mark after that is foreign.
            if any(path.iterdir()) and not (path / MARK).is_file():
                raise SomasegError(f"{path}: holds files that somaseg did not write; move them")
            (path / MARK).touch()
    return path


def remove_folder(path: str | Path) -> None:
    """Delete a folder that :func:`own_folder` made; any other is left alone."""
    path = Path(path)
    if not path.is_symlink() and (path / MARK).is_file():
        shutil.rmtree(path, ignore_errors=True)


def _read_text(path: str | Path) -> str:
    try:
        return check_regular(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SomasegError(
            f"{path}: not text in UTF-8 (byte {error.start + 1}); save it as UTF-8"
        ) from error
    except FileNotFoundError as error:
        raise SomasegError(f"{path}: no such file") from error
    except OSError as error:
        raise SomasegError(f"{path}: cannot be read ({error.strerror or error})") from error
