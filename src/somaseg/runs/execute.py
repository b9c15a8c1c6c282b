"""Run tasks as local processes, some at a time."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from somaseg.errors import SomasegError
from somaseg.models.training.loop import default_threads
from somaseg.runs.tasks import WATCHED

Report = Callable[[str, dict[str, Any]], None]
"""Called as ``report(task name, event)``; events are those of the task, and ``{"ended": code}``."""


def execute(
    tasks: Sequence[tuple[str, Sequence[str]]],
    jobs: int,
    report: Report,
    module: str = "somaseg.runs.tasks",
    *,
    of: int = 0,
) -> None:
    """Run tasks, ``jobs`` at a time, until all have ended.

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
    environment = dict(os.environ) | {WATCHED: "1"}
    # Never by how many tasks are left: with other threads, sums of floats are added in another
    # order, and a training that is taken up would end in other weights.
    threads = str(default_threads(min(jobs, max(of, len(tasks))) or 1))
    # Two processes with two threads each on two cores are many times slower than with one each.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment.setdefault(name, threads)
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
                process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    stdin=subprocess.PIPE,  # closed by the system when this process is killed
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment | gpu,
                )
                running.append(process)
            _follow(process, lambda event, name=name: tell(name, event))  # type: ignore[misc]
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


def _follow(process: "subprocess.Popen[str]", tell: Callable[[dict[str, Any]], None]) -> None:
    """Pass on a task's events until it ends."""
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
