"""Run tasks on the workers of a Dask cluster, as :mod:`somaseg.runs.execute` runs them here.

A task is the same child process, started by a worker. It reads and writes files that all machines
share; through Dask go its command and its events alone. A task whose worker dies is given to
another one, up to the scheduler's ``allowed-failures``, and goes on from its checkpoint.
"""

import contextlib
import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from somaseg.errors import SomasegError
from somaseg.files import writing
from somaseg.runs.child import THREADS
from somaseg.runs.execute import TASKS, Report
from somaseg.runs.queues import Needs, Queue, read_needs
from somaseg.runs.remote import look, versions, work

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT = 10.0
"""Seconds that a scheduler, and the first worker at an address, have to answer."""
_LOOK = 1.0  # seconds between two looks whether a batch system has refused its jobs


class Cluster:
    """Workers that were looked at.

    Args:
        client: of their scheduler.
        needs: what a task takes.
        paths: that every worker must see.

    Attributes:
        jobs: tasks at a time that there is room for.
    """

    def __init__(self, client: "Client", needs: Needs, paths: Sequence[str]) -> None:
        self.client, self.needs, self.paths = client, needs, list(paths)
        self.jobs = self._room()
        if not self.jobs:
            asked = " ".join(f"{name}={amount:.0f}" for name, amount in needs.resources.items())
            raise SomasegError(
                f"{needs.scheduler}: no worker offers {asked}, which a task takes; start them so: "
                f"dask worker {needs.scheduler} --resources '{asked}'"
            )

    def execute(
        self,
        tasks: Sequence[tuple[str, Sequence[str]]],
        jobs: int,
        report: Report,
        module: str = TASKS,
        *,
        of: int = 0,
    ) -> None:
        """Run tasks on the workers, at most ``jobs`` at a time, until all have ended.

        Args, and what is raised, are those of :func:`somaseg.runs.execute.execute`. Files that
        tasks name must have absolute paths. With Ctrl-C their processes end on the workers.

        Raises:
            SomasegError: also, the scheduler is gone.
        """
        from distributed import as_completed

        topic = f"somaseg-{uuid4().hex[:12]}"
        environment = {k: v for k, v in os.environ.items() if k.startswith("SOMASEG_")}
        environment |= dict.fromkeys(THREADS, str(self.needs.cores))
        running: set[str] = set()
        lock = threading.Lock()

        def hear(message: tuple[float, Any]) -> None:
            name, event = message[1]
            with lock:
                (running.discard if "ended" in event else running.add)(name)
                report(name, event)

        names: dict[Future, str] = {}
        failures: list[str] = []
        waiting = deque(tasks)
        ended = as_completed([], loop=self.client.loop)
        self.client.subscribe_topic(topic, hear)

        def submit() -> None:
            name, arguments = waiting.popleft()
            future = self.client.submit(
                *(work, name, module, list(arguments), environment, topic, versions(), self.paths),
                key=f"{topic}-{name}",
                resources=self.needs.resources,
                pure=False,
            )
            names[future] = name
            ended.add(future)

        def fill() -> None:
            # Workers that have joined since are given work, too.
            room = jobs if jobs < self.jobs else max(self._room(), 1)
            while waiting and not failures and len(names) < room:
                submit()

        try:
            fill()
            for future in ended:
                name = names.pop(future)
                if error := self._error(future):
                    failures.append(f"{name}: {error}")
                    with lock:
                        report(name, {"error": error})
                fill()
        except BaseException:
            self.client.cancel(list(names), force=True)
            deadline = time.monotonic() + CONNECT
            while running and time.monotonic() < deadline:  # what comes after must meet no writer
                time.sleep(0.1)
            raise
        finally:
            with contextlib.suppress(Exception):  # the scheduler is gone, with its topics
                self.client.unsubscribe_topic(topic)
        if failures:
            raise SomasegError("; ".join(failures))

    def _room(self) -> int:
        """Tasks at a time that there is room for now."""
        if isinstance(self.needs, Queue):
            return self.needs.workers
        room, asked = 0, self.needs.resources.items()
        for worker in self.client.scheduler_info(n_workers=-1)["workers"].values():
            shares = [worker["resources"].get(name, 0) // amount for name, amount in asked]
            room += int(min([worker["nthreads"], *shares]))
        return room

    def _error(self, future: "Future") -> str | None:
        if future.status == "finished":
            return future.result()
        if future.status == "error":
            return " ".join(str(future.exception()).split())
        raise SomasegError(
            f"{self.needs.scheduler}: the scheduler has gone; what was done stands: run the same "
            "command again when it is back"
        )


@contextlib.contextmanager
def connected(cluster: str, out: Path, reads: Sequence[Path]) -> Iterator[Cluster]:
    """Connect to a cluster, or have a batch system start one, and look whether it can be used.

    Args:
        cluster: address of the scheduler, or a YAML file (:mod:`somaseg.runs.queues`).
        out: folder that tasks write to.
        reads: files and folders that they read.

    Raises:
        SomasegError: Dask is not installed; no scheduler or worker is there; versions differ; a
            worker does not see the files, or none has what a task needs.
    """
    try:
        import distributed
    except ImportError as error:
        raise SomasegError("--cluster: run `pip install 'somaseg[cluster]'` first") from error
    # What goes wrong is told here, in one line.
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    needs = read_needs(cluster)
    with contextlib.ExitStack() as stack:
        at: Any = needs.scheduler
        refusals: list[str] = []
        if isinstance(needs, Queue):
            at, refusals = needs.start()
            stack.enter_context(at)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # versions are compared below
                client = distributed.Client(at, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SomasegError(
                f"--cluster {cluster}: no scheduler answers ({error}); start one: dask scheduler"
            ) from error
        stack.enter_context(client)
        while not _joined(client, _LOOK if isinstance(needs, Queue) else CONNECT):
            if refusals:
                raise SomasegError(
                    f"--cluster {cluster}: {needs.scheduler} takes no job: {refusals[0]}"
                )
            if not isinstance(needs, Queue):
                raise SomasegError(
                    f"--cluster {cluster}: no worker has joined; start some: dask worker "
                    f"{client.scheduler_info()['address']}"
                )
        marker = stack.enter_context(_marked(out))
        paths = [str(path.absolute()) for path in (marker, *reads)]
        _check(client, cluster, paths)
        yield Cluster(client, needs, paths)


def _joined(client: "Client", seconds: float) -> bool:
    """Whether there is a worker within some time."""
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError:
        return False
    return True


@contextlib.contextmanager
def _marked(out: Path) -> Iterator[Path]:
    """Put a file into a folder that workers look for; a folder that was made for it goes again."""
    marker = out / f".cluster-{uuid4().hex[:8]}.lock"
    fresh = not out.exists()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        marker.touch()
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)
        if fresh:
            with contextlib.suppress(OSError):  # it stays if it holds anything
                out.rmdir()


def _check(client: "Client", cluster: str, paths: Sequence[str]) -> None:
    """Refuse workers that lack somaseg, have other versions or do not see the files."""
    found: Any = client.get_versions(packages=["somaseg"])
    for worker, facts in found["workers"].items():
        if facts["packages"]["somaseg"] is None:
            raise SomasegError(
                f"--cluster {cluster}: worker {worker} has no somaseg; install it there"
            )
    for worker, fault in client.run(look, versions(), paths, on_error="return").items():
        if fault is not None:
            raise SomasegError(f"--cluster {cluster}: worker {worker} {fault}")
