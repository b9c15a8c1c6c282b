"""A task as a child process: started, watched, and what it prints passed on.

Where it runs makes no difference: on this machine (:mod:`somaseg.runs.execute`) or on a cluster's
worker (:mod:`somaseg.runs.remote`).
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

WATCHED = "SOMASEG_STDIN_IS_PARENT"
"""Set in the environment of a task that ends when its standard input does."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What the libraries take their number of threads from."""


def start(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    without: Collection[str] = (),
) -> "subprocess.Popen[str]":
    """Start ``python -m MODULE ARGUMENTS``; it ends by itself when this process does.

    Args:
        module, arguments: what is run.
        environment: variables, besides this process's own.
        without: variables of this process that it does not get.
    """
    own = {name: value for name, value in os.environ.items() if name not in without}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,  # closed by the system when this process is killed
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**own, **environment, WATCHED: "1"},
    )


def follow(process: "subprocess.Popen[str]", tell: Callable[[dict[str, Any]], None]) -> None:
    """Pass on a task's events until it ends: those it prints, an error, ``{"ended": code}``."""
    errors: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    stderr = process.stderr
    # Both pipes are read at once: a full one would stop the task.
    reader = threading.Thread(target=lambda: errors.extend(stderr), daemon=True)
    reader.start()
    told = False
    for line in process.stdout:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # a library's own print
        told |= "error" in event
        tell(event)
    code = process.wait()
    reader.join()
    if code and not told:
        reason = next((x.strip() for x in reversed(errors) if x.strip()), f"exit code {code}")
        if code < 0:
            reason = f"was stopped by signal {-code} (out of memory?); run the same command again"
        tell({"error": reason})
    tell({"ended": code})
