"""Progress: bars on a terminal, else a line a minute."""

import time
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from somaseg.cli.console import Console

if TYPE_CHECKING:
    from somaseg.runs.execute import Report

EVERY = 60.0  # seconds between two lines where there is no terminal


class Bars(Progress):
    """What, how far, how many, time taken and left; a task may have a field ``loss``.

    Where no one watches (a log, a pipe) a line a minute goes to standard error, of each task that
    has moved since.
    """

    def __init__(self, *, console: Console | None = None, transient: bool = False) -> None:
        console = console or Console()
        self.watched = console.is_terminal
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[loss]}", markup=False),
            console=console if self.watched else Console(stderr=True, soft_wrap=True),
            transient=transient,
            disable=not self.watched,
            refresh_per_second=2,
            speed_estimate_period=300,
        )
        self._last, self._told = time.monotonic(), {}  # type: ignore[var-annotated]

    def start(self) -> None:
        """Show the bars; without a terminal nothing yet."""
        if self.watched:
            super().start()

    def stop(self) -> None:
        """Show them a last time."""
        if self.watched:
            super().stop()

    def add_task(self, description: str, *args: Any, **fields: Any) -> Any:
        """Add a row."""
        return super().add_task(description, *args, **{"loss": "", **fields})

    def update(self, *args: Any, **changes: Any) -> None:
        """Change a row."""
        super().update(*args, **changes)
        self._tell()

    def advance(self, *args: Any, **changes: Any) -> None:
        """Count on in a row."""
        super().advance(*args, **changes)
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if self.watched or now - self._last < EVERY:
            return
        self._last = now
        for task in self.tasks:
            if self._told.get(task.id) != task.completed and task.total:
                self._told[task.id] = task.completed
                self.console.print(_line(task))


def _line(task: Task) -> str:
    parts = [
        f"{task.description}: {task.completed:g} of {task.total:g}",
        f"{_minutes(task.elapsed)} so far",
    ]
    if not task.finished:
        parts.append(f"{_minutes(task.time_remaining)} left")
    return ", ".join(filter(None, [*parts, task.fields.get("loss")]))


def _minutes(seconds: float | None) -> str:
    return "?" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class FoldBars:
    """Progress of the folds; notes above it."""

    def __init__(self) -> None:
        self.progress = Bars()
        self.rows: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> "Report":
        self.progress.start()
        return self._report

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def _report(self, name: str, event: dict[str, Any]) -> None:
        if "note" in event:
            self.progress.console.print(f"{name}: {event['note']}")
        if "stage" in event:
            # An event with a label is of a task that does one thing after another in one row.
            label = event.get("label")
            key = (name, "" if label else event["stage"])
            if key not in self.rows:
                self.rows[key] = self.progress.add_task("")
            loss = event.get("loss")
            self.progress.update(
                self.rows[key],
                description=label or f"{name} {event['stage']}",
                completed=event["done"],
                total=event["total"],
                loss="" if loss is None else f"loss {loss:.3f}",
            )
