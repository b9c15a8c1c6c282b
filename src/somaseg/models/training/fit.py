"""Train a model of any family; fit those that are not trained by gradient descent."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.models.base import Estimator, Model, Network, Table
from somaseg.models.training.checkpoint import save_checkpoint, take_up
from somaseg.models.training.clock import Clock
from somaseg.models.training.logs import Loggers, Progress
from somaseg.models.training.loop import CHECKPOINT, METRICS, MetricsFile, Trained, train_network
from somaseg.models.training.settings import USED, TrainSettings


def train_model(
    model: Model,
    samples: Sequence[Sample],
    settings: TrainSettings,
    folder: str | Path,
    *,
    loggers: Loggers | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a model in place, by :func:`train_network` or :func:`fit_estimator`.

    Raises:
        SomasegError: what these raise, or a family that is not trained at all.
    """
    if isinstance(model, Network):
        return train_network(model, samples, settings, folder, loggers=loggers, progress=progress)
    if isinstance(model, Estimator):
        return fit_estimator(model, samples, settings, folder, loggers=loggers, progress=progress)
    raise SomasegError(f"family {model.config.family!r} is not trained; use it as it is")


def fit_estimator(
    model: Estimator,
    samples: Sequence[Sample],
    settings: TrainSettings,
    folder: str | Path,
    *,
    loggers: Loggers | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Fit a model in place.

    A checkpoint in ``folder`` is taken up where it stands: it holds what was drawn from the
    images, and the rounds that are done.

    Args:
        model: fresh.
        samples: annotated images.
        settings: the training; its steps are the model's rounds.
        folder: gets ``checkpoint.safetensors`` and ``metrics.csv``.
        loggers: where losses go besides the CSV.
        progress: is told each round; before the first, each image that was drawn from.

    Raises:
        SomasegError: no images, settings of gradient descent, or a checkpoint of another training.
    """
    folder = Path(folder)
    _check(model, samples, settings)
    path, metrics = folder / CHECKPOINT, MetricsFile(folder / METRICS)
    fields = settings.model_dump(mode="json")
    clock = Clock()
    table: Table = {}
    start = 0
    if begun := take_up(path, fields):
        saved, note = begun
        table = {name: column.numpy() for name, column in saved["table"].items()}
        model.take_parts({name: part.numpy().tobytes() for name, part in saved["parts"].items()})
        start, clock = note["step"], Clock(note)
    metrics.cut(start)
    if loggers:
        loggers.begin(metrics.rows())

    def checkpoint(step: int) -> None:
        parts = {
            name: torch.from_numpy(np.frombuffer(part, np.uint8).copy())
            for name, part in model.parts().items()
        }
        columns = {name: torch.from_numpy(column) for name, column in table.items()}
        note = {"step": step, **clock.read(), "settings": fields}
        save_checkpoint(path, {"table": columns, "parts": parts}, note)

    if not table:
        table = _draw(model, samples, settings, progress)
        checkpoint(0)
    saved_at = time.monotonic()
    losses: dict[str, float] = {}
    for done, found in enumerate(model.rounds(table, settings.steps), start + 1):
        losses = {**found, "total": sum(found.values())}
        if done % settings.log_every == 0 or done == settings.steps:
            metrics.add(done, clock.read()["seconds"], None, losses)
            if loggers:
                loggers.log(done, losses)
        if progress:
            progress(done, settings.steps, losses["total"])
        stale = time.monotonic() - saved_at > 60 * settings.checkpoint_minutes
        if stale or done == settings.steps:
            checkpoint(done)
            saved_at = time.monotonic()
    return Trained(**clock.read(), steps=settings.steps, losses=losses or metrics.last())


def _draw(
    model: Estimator, samples: Sequence[Sample], settings: TrainSettings, progress: Progress | None
) -> Table:
    """Join the rows that are drawn from all images."""
    parts = []
    for part in model.draw(samples, settings.seed):
        parts.append(part)
        if progress:
            progress(0, settings.steps, None)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check(model: Estimator, samples: Sequence[Sample], settings: TrainSettings) -> None:
    family = model.config.family
    if not samples:
        raise SomasegError("no annotated image to train on; check the data set with `data check`")
    plain: dict[str, Any] = TrainSettings().model_dump()
    changed = [
        name
        for name, value in settings.model_dump().items()
        if name not in USED and value != plain[name]
    ]
    if changed:
        raise SomasegError(
            f"training.{changed[0]}: family {family!r} is fitted, not trained by gradient descent, "
            f"and has no such setting; it has {', '.join(sorted(USED))}"
        )
