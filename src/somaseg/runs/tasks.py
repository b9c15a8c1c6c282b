"""The tasks of a run: each takes files and leaves files, and does nothing that is done already.

A task is a process of its own (``python -m somaseg.runs.tasks RUN FOLD``). So folds run
side by side, a crash in one leaves the others alone, and a cluster's scheduler can run them as
well as we do. What it has to tell it prints to standard output, one JSON object a line.
"""

import json
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.files import write_json
from somaseg.folders import hold
from somaseg.runs.child import WATCHED
from somaseg.runs.run import Run

Report = Callable[[dict[str, Any]], None]


def run_fold(run: Run, fold: int | None, report: Report) -> None:
    """Train on all images but the fold's, then predict the fold's.

    Args:
        run: the run.
        fold: its number; none trains on all images and predicts none.
        report: told ``{"stage", "done", "total", "loss"}`` as it goes.
    """
    if run.finished(fold):
        return
    # A training whose command was killed ends by itself within the time that is waited here.
    with hold(run.part(fold), wait=10):
        _run_fold(run, fold, report)


def _run_fold(run: Run, fold: int | None, report: Report) -> None:
    from somaseg.models.bundle import load_model
    from somaseg.predict.predictor import Predictor, predict_images
    from somaseg.predict.store import save_predictions
    from somaseg.runs.checking import FILE, check_precision

    if run.finished(fold):
        return
    dataset = run.dataset()
    folds = run.folds(dataset)
    if not run.model_path(fold).exists():
        train_fold(run, run.training_samples(dataset, fold), fold, report)
    if fold is None:
        return
    held_out = [s for s in dataset if folds[s.id] == fold]
    checked = check_precision(load_model(run.model_path(fold)), run.config.views, held_out)
    if checked is not None:
        write_json(run.part(fold) / FILE, checked.model_dump())
    predictions = predict_images(
        Predictor([load_model(run.model_path(fold))], run.config.views),
        [(s.id, s.image) for s in held_out],
        len(held_out),
        lambda done, total: report({"stage": "predict", "done": done, "total": total}),
    )
    save_predictions(run.predictions_path(fold), predictions)


def train_fold(run: Run, samples: list[Sample], fold: int | None, report: Report) -> None:
    """Train a model on samples; leave it in the fold's folder.

    A training that was interrupted goes on from its checkpoint, which is deleted when the model
    file stands.
    """
    import torch

    from somaseg.models.base import Network
    from somaseg.models.registry import build_model, parse_config
    from somaseg.models.training.fit import train_model
    from somaseg.models.training.info import learn_info
    from somaseg.models.training.journal import CHECKPOINT
    from somaseg.models.training.logs import Loggers
    from somaseg.models.training.transfer import start_from

    config, folder = run.config, run.part(fold)
    # Layers that no weights file fills start from noise: the same noise in every sitting.
    torch.manual_seed(config.training.seed)
    info = learn_info(samples, config.data.channels)
    # Weights to start from take the place of the preset's own, which are not fetched then.
    model = build_model(parse_config(config.model), info, not config.start_from)
    if config.start_from:
        if not isinstance(model, Network):
            raise SomasegError(
                f"--from: family {model.config.family!r} has no weights to start from"
            )
        if not (folder / CHECKPOINT).exists():
            report({"note": start_from(model, config.start_from)})
    fields = config.model_dump(mode="json")
    name = f"{run.folder.resolve().name}-{folder.name}"
    loggers = Loggers(folder, name, fields, config.log, run.folder)
    trained = train_model(
        model,
        samples,
        config.training,
        folder,
        loggers=loggers,
        progress=lambda done, total, loss: report(
            {"stage": "train", "done": done, "total": total, "loss": loss}
        ),
    )
    loggers.close()
    write_json(
        folder / "training.json",
        {
            "seconds": round(trained.seconds, 1),
            "cpu_seconds": round(trained.cpu_seconds, 1),
            "steps": trained.steps,
            "losses": trained.losses,
            "images": [sample.id for sample in samples],
            "parameters": model.parameter_count,
        },
    )
    model.save(run.model_path(fold))
    (folder / CHECKPOINT).unlink(missing_ok=True)


def as_task(work: Callable[[Report], None]) -> int:
    """Do the work of a process whose events go to standard output.

    Returns:
        the exit code: 2 after an error that the user can mend.
    """

    def report(event: dict[str, Any]) -> None:
        print(json.dumps(event), flush=True)

    if WATCHED in os.environ:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    # A shown warning would go to standard error without a word of which fold it is of.
    warnings.showwarning = lambda message, *_, **__: report({"note": str(message)})
    try:
        work(report)
    except SomasegError as error:
        report({"error": str(error)})
        return 2
    return 0


def _end_with_parent() -> None:
    """End when standard input does: the process that waits for this one was killed."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def main(arguments: list[str]) -> int:
    """Run one task: a run's folder, and a fold's number or ``all``."""
    folder, fold = arguments
    return as_task(
        lambda report: run_fold(Run.open(folder), None if fold == "all" else int(fold), report)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
