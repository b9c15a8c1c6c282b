"""Cross-validate a model: train on every fold, score the out-of-fold predictions."""

from collections.abc import Mapping

from somaseg.data.types import Dataset
from somaseg.experiments.execute import Report, execute
from somaseg.experiments.store import Run
from somaseg.experiments.tuning import RunScores, draw_curves, tune_run
from somaseg.files import read_json


def cross_validate(run: Run, jobs: int, report: Report, refit: bool = False) -> None:
    """Train and predict every fold that is not finished; at will, also a model of all images.

    Args:
        run: the run; finished folds are left as they are, begun ones go on.
        jobs: folds at a time.
        report: told what the tasks tell.
        refit: also train on all images, for predicting new ones.
    """
    folds: list[int | None] = [*range(run.config.folds), *([None] if refit else [])]
    tasks = [
        (run.part(fold).name, [str(run.folder), "all" if fold is None else str(fold)])
        for fold in folds
        if not run.finished(fold)
    ]
    if tasks:
        execute(tasks, jobs, report)


def score_run(run: Run, dataset: Dataset, weights: Mapping[str, float] | None = None) -> RunScores:
    """Tune and score a run's out-of-fold predictions; write ``scores.json`` and ``tuning.png``.

    Args:
        run: with all folds finished.
        dataset: its annotated images.
        weights: weight of each class for a weighted score.
    """
    scores = tune_run(run, dataset, weights)
    notes = [read_json(run.part(fold) / "training.json") for fold in range(run.config.folds)]
    run.save_scores(
        {
            **{
                name: getattr(scores, name).to_json()
                for name in ("nested", "untuned", "optimistic")
            },
            "training": {
                "seconds": sum(note["seconds"] for note in notes),
                "cpu_seconds": sum(note["cpu_seconds"] for note in notes),
                "parameters": notes[0]["parameters"],
            },
        }
    )
    draw_curves(run.folder / "tuning.png", scores.tuned)
    return scores
