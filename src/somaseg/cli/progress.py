"""Progress of the tasks of a run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from somaseg.runs.execute import Report


def bar_columns() -> "list[ProgressColumn]":
    """What, how far, how many, time taken and time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
    ]


class FoldBars:
    """Progress bars of the folds, with time left; notes above them."""

    def __init__(self) -> None:
        from rich.progress import Progress, TextColumn

        self.progress = Progress(
            *bar_columns(),
            TextColumn("{task.fields[loss]}"),
            refresh_per_second=2,
            speed_estimate_period=120,
        )
        self.rows: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> "Report":
        self.progress.start()
        return self._report

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def _report(self, name: str, event: dict[str, Any]) -> None:
        if "note" in event:
            self.progress.console.print(f"{name}: {event['note']}", highlight=False)
        if "stage" in event:
            # An event with a label is of a task that does one thing after another in one row.
            label = event.get("label")
            key = (name, "" if label else event["stage"])
            if key not in self.rows:
                self.rows[key] = self.progress.add_task("", loss="")
            loss = event.get("loss")
            self.progress.update(
                self.rows[key],
                description=label or f"{name} {event['stage']}",
                completed=event["done"],
                total=event["total"],
                loss="" if loss is None else f"loss {loss:.3f}",
            )
