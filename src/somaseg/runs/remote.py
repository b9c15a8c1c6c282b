"""What runs on a cluster's workers: the child process of a task, and a look at the machine."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import Any

from somaseg import __version__
from somaseg.runs.child import follow, start

_COMPARED = ("torch", "torchvision", "numpy", "distributed")
_EVERY = 0.2  # seconds between two looks at a child, and between two reports of progress


def versions() -> dict[str, str]:
    """Versions of what decides on results, and of Python, on this machine."""
    found = {"somaseg": __version__, "python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    for name in _COMPARED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def look(expected: Mapping[str, str], paths: Sequence[str]) -> str | None:
    """Tell what keeps this machine from running tasks; nothing if it can.

    Args:
        expected: versions that the client has.
        paths: files and folders that must be here.
    """
    here = versions()
    other = [f"{name} {here[name]} for {mine}" for name, mine in expected.items()]
    if differing := [
        line for line, name in zip(other, expected, strict=True) if here[name] != expected[name]
    ]:
        return f"has {', '.join(differing)}; install the same versions everywhere"
    for path in paths:
        deadline = time.monotonic() + 2  # network file systems show new files late
        while not Path(path).exists():
            if time.monotonic() > deadline:
                return f"does not see {path}; use a folder that all machines share"
            time.sleep(_EVERY)
    return None


def work(
    name: str,
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    topic: str,
    expected: Mapping[str, str],
    paths: Sequence[str],
) -> str | None:
    """Run a task in a child of this worker until it ends; it is stopped when it is not wanted.

    Args:
        name: of the task.
        module, arguments: of ``python -m``.
        environment: variables, besides this worker's own.
        topic: that its events are told under, as ``(name, event)``.
        expected, paths: as for :func:`look`; workers may join at any time.

    Returns:
        the error, if there was one.
    """
    from distributed import get_worker

    worker = get_worker()
    if fault := look(expected, paths):
        return f"worker {worker.address} {fault}"
    worker.log_event(topic, (name, {"began": worker.address}))
    process = start(module, arguments, environment, _of_dask())
    Thread(target=_watch, args=(process, worker, worker.get_current_task()), daemon=True).start()
    errors: list[str] = []
    last = 0.0

    def tell(event: dict[str, Any]) -> None:
        nonlocal last
        if "error" in event:
            errors.append(event["error"])
            return
        if "stage" in event and event["done"] < event["total"]:
            if time.monotonic() - last < _EVERY:
                return
            last = time.monotonic()
        worker.log_event(topic, (name, event))

    follow(process, tell)
    return "; ".join(errors) or None


def _of_dask() -> list[str]:
    """Variables by which Dask has glibc give freed memory back at once.

    That is for what a worker computes itself; a network in a child takes twice as long by it
    (:func:`somaseg.models.device.keep_memory`).
    """
    import dask

    given: dict[str, Any] = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return [
        name
        for name, value in given.items()
        if name.startswith("MALLOC_") and os.environ.get(name) == str(value)
    ]


def _watch(process: "subprocess.Popen[str]", worker: Any, key: str) -> None:
    """Stop a child whose task was cancelled or whose worker closes; Dask leaves threads alone."""
    while process.poll() is None:
        task = worker.state.tasks.get(key)
        wanted = task is not None and task.state == "executing"
        if not wanted or worker.status.name not in ("running", "paused", "closing_gracefully"):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            return
        time.sleep(_EVERY)
