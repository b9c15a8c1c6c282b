"""Train a model of any family; fit those that are not trained by gradient descent."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.models.base import Estimator, Model, Network, Table
from somaseg.models.training.checkpoint import State
from somaseg.models.training.journal import Journal, Trained
from somaseg.models.training.logs import Loggers, StepProgress
from somaseg.models.training.loop import train_network
from somaseg.models.training.settings import USED, TrainSettings


def train_model(
    model: Model,
    samples: Sequence[Sample],
    settings: TrainSettings,
    folder: str | Path,
    *,
    loggers: Loggers | None = None,
    progress: StepProgress | None = None,
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
    progress: StepProgress | None = None,
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
    _check(model, samples, settings)
    journal = Journal(Path(folder), settings, loggers, progress)
    table: Table = {}
    if journal.state:
        table = {name: column.numpy() for name, column in journal.state["table"].items()}
        parts = journal.state["parts"].items()
        model.take_parts({name: part.numpy().tobytes() for name, part in parts})

    def state() -> dict[str, State]:
        parts = {
            name: torch.from_numpy(np.frombuffer(part, np.uint8).copy())
            for name, part in model.parts().items()
        }
        columns = {name: torch.from_numpy(column) for name, column in table.items()}
        return {"table": columns, "parts": parts}

    if not table:
        table = _draw(model, samples, settings, progress)
        journal.checkpoint(0, state())
    for done, found in enumerate(model.rounds(table, settings.steps), journal.start + 1):
        losses = {**found, "total": sum(found.values())}
        if journal.logs_at(done):
            journal.log(done, losses)
        journal.end_step(done, state, losses["total"], whole=True)
    return journal.end()


def _draw(
    model: Estimator,
    samples: Sequence[Sample],
    settings: TrainSettings,
    progress: StepProgress | None,
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
