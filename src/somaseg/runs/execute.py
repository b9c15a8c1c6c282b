"""Run tasks, some at a time: as local processes, or on a cluster in the same way."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from somaseg.errors import SomasegError
from somaseg.models.training.loop import default_threads
from somaseg.runs.child import THREADS, follow, start

Report = Callable[[str, dict[str, Any]], None]
"""Called as ``report(task name, event)``; events are those of the task, and ``{"ended": code}``."""

TASKS = "somaseg.runs.tasks"


class Execute(Protocol):
    """Runs tasks until all have ended, wherever; :func:`execute` does it here."""

    def __call__(
        self,
        tasks: Sequence[tuple[str, Sequence[str]]],
        jobs: int,
        report: Report,
        module: str = TASKS,
        *,
        of: int = 0,
    ) -> None:
        """As :func:`execute`."""


@dataclass(frozen=True)
class Executor:
    """Where tasks run.

    Attributes:
        execute: runs them.
        jobs: tasks at a time that there is room for.
        cluster: whether that is on other machines.
    """

    execute: Execute
    jobs: int
    cluster: bool = False


@contextlib.contextmanager
def executor(
    cluster: str | None, out: str | Path, reads: Sequence[str | Path | None] = ()
) -> Iterator[Executor]:
    """Give what runs tasks; a cluster is looked at before anything starts.

    Args:
        cluster: none for this machine; the address of a Dask scheduler, or a YAML file of a
            cluster (:mod:`somaseg.runs.queues`).
        out: folder that the tasks write to; it is made for a cluster, whose workers must see it.
        reads: files and folders that workers must see, too.

    Raises:
        SomasegError: the cluster cannot be used; it is said why.
    """
    if cluster is None:
        yield Executor(execute, default_jobs())
        return
    from somaseg.runs.cluster import connected

    with connected(cluster, Path(out), [Path(path) for path in reads if path is not None]) as found:
        yield Executor(found.execute, found.jobs, cluster=True)


def execute(
    tasks: Sequence[tuple[str, Sequence[str]]],
    jobs: int,
    report: Report,
    module: str = TASKS,
    *,
    of: int = 0,
) -> None:
    """Run tasks as local processes, ``jobs`` at a time, until all have ended.

    Args:
        tasks: name and arguments of ``python -m MODULE``.
        jobs: processes at a time; they share the machine's cores.
        report: told what they print; called from several threads, one at a time.
        module: what is run; it prints its events as ``tasks`` does.
        of: tasks in all, those included that are done already, if there are more than ``tasks``.

    Raises:
        SomasegError: a task failed; the others that were running have been let finish.
        KeyboardInterrupt: the running tasks have been stopped.
    """
    # Never by how many tasks are left: with other threads, sums of floats are added in another
    # order, and a training that is taken up would end in other weights.
    threads = str(default_threads(min(jobs, max(of, len(tasks))) or 1))
    # Two processes with two threads each on two cores are many times slower than with one each.
    # Who has set OpenMP's alone means all of them: PyTorch would follow MKL's.
    threads = os.environ.get("OMP_NUM_THREADS", threads)
    environment = {name: os.environ.get(name, threads) for name in THREADS}
    gpus = free_gpus(jobs)
    waiting = list(tasks)
    running: list[subprocess.Popen[str]] = []
    failures: list[str] = []
    lock = threading.Lock()

    def tell(name: str, event: dict[str, Any]) -> None:
        with lock:
            if "error" in event:
                failures.append(f"{name}: {event['error']}")
            report(name, event)

    def work() -> None:
        while True:
            with lock:
                if not waiting or failures:
                    return
                name, arguments = waiting.pop(0)
                gpu = gpus.pop(0) if gpus else {}
                process = start(module, arguments, environment | gpu)
                running.append(process)
            follow(process, lambda event, name=name: tell(name, event))  # type: ignore[misc]
            with lock:
                gpus.extend([gpu] if gpu else [])

    threads_running = [threading.Thread(target=work, daemon=True) for _ in range(max(jobs, 1))]
    try:
        for thread in threads_running:
            thread.start()
        for thread in threads_running:
            # A join without a time limit would not let Ctrl-C through.
            while thread.is_alive():
                thread.join(0.2)
    except BaseException:
        with lock:
            waiting.clear()
            for process in running:
                process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)  # what comes after must not meet a writer
        raise
    if failures:
        raise SomasegError("; ".join(failures))


def default_jobs() -> int:
    """Tasks at a time that the chosen devices bear: one a GPU, else one a core."""
    import torch

    from somaseg.models.device import VARIABLE, choose_device

    if choose_device().type == "cpu":
        return default_threads(1)
    # Without a word all GPUs are used; one that was named is alone.
    return torch.cuda.device_count() if os.environ.get(VARIABLE, "auto") == "auto" else 1


def free_gpus(jobs: int) -> list[dict[str, str]]:
    """Environments of tasks, by which each sees one GPU and no two the same, as far as there are.

    Args:
        jobs: tasks at a time; those beyond the GPUs share them in turn.
    """
    import torch

    from somaseg.models.device import VARIABLE, choose_device

    device = choose_device()
    if device.type != "cuda":
        return []
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    seen = seen or [str(i) for i in range(torch.cuda.device_count())]
    if os.environ.get(VARIABLE, "auto") != "auto":
        seen = [seen[device.index]]
    chosen = [{"CUDA_VISIBLE_DEVICES": name, VARIABLE: "cuda:0"} for name in seen]
    return [chosen[i % len(chosen)] for i in range(max(jobs, 1))]
