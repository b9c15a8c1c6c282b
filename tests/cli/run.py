"""Run a command as the shell does, in this process: importing torch anew takes seconds."""

import contextlib
import io
import os
import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from typing import NamedTuple
from unittest.mock import patch

from somaseg.cli import main
from somaseg.errors import SomasegError


class Done(NamedTuple):
    """What :class:`subprocess.CompletedProcess` tells of a command."""

    returncode: int
    stdout: str
    stderr: str


def execute_here(tasks, jobs, report, module="somaseg.runs.tasks", *, of=0):
    """What :func:`somaseg.runs.execute.execute` does, one after the other in this process."""
    place = import_module(module)
    for name, arguments in tasks:
        failed = []

        def work_on(work, name=name, failed=failed):
            try:
                work(lambda event: report(name, event))
            except SomasegError as error:
                failed.append(f"{name}: {error}")
                report(name, {"error": str(error)})
            return 2 if failed else 0

        with warnings.catch_warnings(), patch.object(place, "as_task", work_on):
            warnings.showwarning = lambda message, *_, name=name: report(
                name, {"note": str(message)}
            )
            report(name, {"ended": place.main(list(arguments))})
        if failed:
            raise SomasegError(failed[0])


def somaseg(*arguments, check=True, processes=False) -> Done:
    """Run ``somaseg ARGUMENTS``: what is printed, and the exit code; ``check`` wants that to be 0.

    A bug of ours raises, as it would show its traceback in the shell. Folds are trained in this
    process, too, unless ``processes`` are what is tested.
    """
    # Terminals have an encoding, which the command line may change.
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    with (
        patch.dict(os.environ),  # a process's end takes its choices with it
        patch.object(sys, "argv", ["somaseg", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        nullcontext() if processes else patch("somaseg.runs.execute.execute", execute_here),
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
