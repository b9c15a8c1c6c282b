"""Run a command as the shell does, in this process: importing torch anew takes seconds."""

import contextlib
import io
import resource
import sys
from collections.abc import Iterator
from typing import NamedTuple
from unittest.mock import patch

from somaseg.cli import main


class Done(NamedTuple):
    """What :class:`subprocess.CompletedProcess` tells of a command."""

    returncode: int
    stdout: str
    stderr: str


def somaseg(*arguments, check=True) -> Done:
    """Run ``somaseg ARGUMENTS``: what is printed, and the exit code; ``check`` wants that to be 0.

    A bug of ours raises, as it would show its traceback in the shell.
    """
    # Terminals have an encoding, which the command line may change.
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    with (
        patch.object(sys, "argv", ["somaseg", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    printed, told = (stream.buffer.getvalue().decode() for stream in (out, err))
    if check:
        assert code == 0, told
    return Done(code, printed, told)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow above ``size`` bytes: a write fails in its middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
