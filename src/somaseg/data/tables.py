"""Tables in CSV: read row by row, written as text."""

import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from somaseg.errors import SomasegError
from somaseg.files import check_regular
from somaseg.limits import check_table


class _Unpacked(gzip.GzipFile):
    """A gzip file that ends with an error before it fills the memory."""

    _count = 0

    def read1(self, size: int = -1) -> bytes:
        data = super().read1(size)
        self._count += len(data)
        check_table(self.name, self._count)
        return data


@contextlib.contextmanager
def open_csv(path: Path) -> Iterator["csv.DictReader[str]"]:
    """Open a CSV table with a header, plain or gzip, UTF-8 with or without byte order mark.

    Raises:
        SomasegError: missing, empty, truncated or not text; also while rows are read.
    """
    limit = csv.field_size_limit(1 << 30)  # the default cuts cells of 131,072 characters
    try:
        opener = _Unpacked if path.name.lower().endswith(".gz") else open
        with (
            opener(check_regular(path), "rb") as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file,
        ):
            reader = csv.DictReader(file)
            if not reader.fieldnames:
                raise SomasegError(f"{path}: empty; expected a CSV table with a header")
            reader.fieldnames = [name.strip() for name in reader.fieldnames]
            yield reader
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SomasegError(f"{path}: truncated or no gzip file ({error}); copy it again") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SomasegError(
            f"{path}: not a CSV table in UTF-8 ({error}); export it again"
        ) from error
    except OSError as error:
        raise SomasegError(f"{path}: cannot be read ({error.strerror or error})") from error
    finally:
        csv.field_size_limit(limit)


def csv_columns(path: Path) -> list[str]:
    """Return the column names of a CSV table."""
    with open_csv(path) as reader:
        return list(reader.fieldnames or ())


def row_text(row: Mapping[str | None, object], column: str) -> str:
    """Return a cell without surrounding blanks; empty if the row is too short."""
    value = row.get(column)
    return value.strip() if isinstance(value, str) else ""


def whole_number(text: str) -> int | None:
    """Return the whole number that a text is; none if it is no such, or has above 18 digits."""
    # Python itself refuses to read a number of thousands of digits.
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def csv_text(header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    """Return a CSV table as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
