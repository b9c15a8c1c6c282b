"""What a training leaves as it goes, and what it is taken up from."""

import csv
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from somaseg.data.tables import open_csv
from somaseg.files import damaged, write_text, writing
from somaseg.models.training.checkpoint import State, save_checkpoint, take_up
from somaseg.models.training.clock import Clock
from somaseg.models.training.logs import Loggers, Row, StepProgress
from somaseg.models.training.settings import TrainSettings

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.csv"
_CLOCK = ("step", "seconds")
_FIX = "it is a log alone: delete it, or copy it again"


@dataclass(frozen=True)
class Trained:
    """What a training took.

    Attributes:
        seconds: wall-clock time, over all sittings.
        cpu_seconds: processor time of this process, over all sittings.
        steps: optimiser steps.
        losses: averages of the last logged stretch, by name.
    """

    seconds: float
    cpu_seconds: float
    steps: int
    losses: dict[str, float]


class Journal:
    """Checkpoint, metrics, loggers, progress and clock of one training, over all its sittings.

    Attributes:
        start: steps that a checkpoint holds; 0 without one.
        state: what :meth:`checkpoint` was given then; none without one.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainSettings,
        loggers: Loggers | None,
        progress: StepProgress | None,
        writes: bool = True,
    ) -> None:
        """Take up the checkpoint in a folder, or begin.

        Args:
            folder: gets ``checkpoint.safetensors`` and ``metrics.csv``.
            settings: the training; its steps, and how often it is noted.
            loggers: where losses go besides the CSV.
            progress: is told each step.
            writes: whether this process is the one that writes and logs; of several, one is.

        Raises:
            SomasegError: a checkpoint that is truncated, or of another training.
        """
        self.path, self.settings, self.writes = folder / CHECKPOINT, settings, writes
        self.loggers, self.progress = (loggers, progress) if writes else (None, None)
        self.fields = settings.model_dump(mode="json")
        self.metrics = MetricsFile(folder / METRICS)
        self.losses: dict[str, float] = {}
        self.start, self.state, note = 0, None, None
        if begun := take_up(self.path, self.fields):
            self.state, note = begun
            self.start = note["step"]
        if writes:
            self.metrics.cut(self.start)
        if self.loggers:
            self.loggers.begin(self.metrics.rows())
        self.clock, self._saved = Clock(note), time.monotonic()

    def logs_at(self, step: int) -> bool:
        """Whether the losses are noted after this step."""
        return step % self.settings.log_every == 0 or step == self.settings.steps

    def log(self, step: int, losses: Mapping[str, float], rate: float | None = None) -> None:
        """Note the losses of a stretch of steps; what is not trained by descent has no rate.

        Raises:
            SomasegError: the metrics cannot be written.
        """
        self.losses = dict(losses)
        if self.writes:
            self.metrics.add(step, self.clock.read()["seconds"], rate, self.losses)
        if self.loggers:
            self.loggers.log(step, self.losses if rate is None else {**self.losses, "rate": rate})

    def end_step(
        self, step: int, state: Callable[[], dict[str, State]], loss: float | None, whole: bool
    ) -> None:
        """Tell of a step, and save a checkpoint if it is time.

        Args:
            step: steps done.
            state: gives what a checkpoint holds.
            loss: to tell of.
            whole: whether nothing would be lost by going on from here.
        """
        if self.progress:
            self.progress(step, self.settings.steps, loss)
        stale = time.monotonic() - self._saved > 60 * self.settings.checkpoint_minutes
        if whole and (stale or step == self.settings.steps):
            self.checkpoint(step, state())

    def checkpoint(self, step: int, state: dict[str, State]) -> None:
        """Save what :attr:`state` will be when the training is taken up again."""
        if self.writes:
            note = {"step": step, **self.clock.read(), "settings": self.fields}
            save_checkpoint(self.path, state, note)
        self._saved = time.monotonic()

    def end(self) -> Trained:
        """Return what the training took."""
        losses = self.losses or self.metrics.last()
        return Trained(**self.clock.read(), steps=self.settings.steps, losses=losses)


class MetricsFile:
    """``metrics.csv``: one line per logged stretch, appended and flushed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, step: int, seconds: float, rate: float | None, means: dict[str, float]) -> None:
        """Append a line; the first also writes the header. What has no learning rate gives none.

        Raises:
            SomasegError: it cannot be written.
        """
        fields = {"step": step, "seconds": f"{seconds:.1f}"}
        fields |= {"rate": f"{rate:.3g}"} if rate is not None else {}
        fields |= {name: f"{value:.5f}" for name, value in means.items()}
        with writing(self.path), self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(fields))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(fields)

    def cut(self, step: int) -> None:
        """Drop the lines after ``step``: a killed training had logged past its checkpoint.

        Raises:
            SomasegError: damaged.
        """
        if self.path.exists():
            try:
                header, *lines = self.path.read_text("utf-8").splitlines() or [""]
                whole = [x for x in lines if x.count(",") == header.count(",")]
                kept = [x for x in whole if int(x.split(",")[0]) <= step]
            except ValueError as error:  # UnicodeDecodeError is one
                raise damaged(self.path, error, _FIX) from error
            write_text(self.path, "\n".join([header, *kept]) + "\n" if kept else "")

    def rows(self) -> list[Row]:
        """Return each line's step and its figures (losses, gradient, rate) by name.

        Raises:
            SomasegError: damaged.
        """
        if not self.path.exists() or not self.path.stat().st_size:
            return []
        try:
            with open_csv(self.path) as reader:
                return [
                    (int(row["step"]), {k: float(v) for k, v in row.items() if k not in _CLOCK})
                    for row in reader
                ]
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(self.path, error, _FIX) from error

    def last(self) -> dict[str, float]:
        """Return the losses of the last line."""
        rows = self.rows()
        return {k: v for k, v in rows[-1][1].items() if k != "rate"} if rows else {}
