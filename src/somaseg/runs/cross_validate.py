"""Cross-validate a model: train on every fold, score the out-of-fold predictions."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from somaseg.data.prepared import PREPARED
from somaseg.data.types import Dataset
from somaseg.decide import Decision
from somaseg.decide.grid import SEARCHED
from somaseg.errors import SomasegError
from somaseg.files import read_json, remove_folder
from somaseg.folders import MODEL, SETTLE, hold
from somaseg.models.bundle import Bundle, BundleMember, load_model, write_bundle
from somaseg.runs.execute import Execute, Report, execute
from somaseg.runs.machine import check_disk
from somaseg.runs.recorded import is_number
from somaseg.runs.run import Run, RunConfig
from somaseg.runs.tracking import track_scores
from somaseg.runs.tuning import decide_run, draw_curves, write_settings


def train_run(
    out: str | Path,
    config: RunConfig,
    jobs: int,
    report: Report,
    *,
    refit: bool = False,
    only: Sequence[int] | None = None,
    weights: Mapping[str, float] | None = None,
    execute: Execute = execute,
) -> tuple[Run, Decision]:
    """Cross-validate a model, tune and score it: what `somaseg train` does.

    Args:
        out: folder of the run; an unfinished one with the same config is taken up.
        config: of the run.
        jobs: folds at a time.
        report: told what the tasks tell.
        refit: also train on all images, for predicting new ones.
        only: these folds alone.
        weights: weight of each class for a weighted score.
        execute: runs the tasks; by default on this machine.

    Raises:
        SomasegError: a folder that holds something else or that another process writes to, data
            that cannot be trained on, or a task that failed.
    """
    with hold(out):
        run = Run.create(out, config)
        cross_validate(run, jobs, report, refit, only, execute)
        return run, score_run(run, run.dataset(), weights)


def cross_validate(
    run: Run,
    jobs: int,
    report: Report,
    refit: bool = False,
    only: Sequence[int] | None = None,
    execute: Execute = execute,
) -> None:
    """Train and predict every fold that is not finished; at will, also a model of all images.

    Args:
        run: the run; finished folds are left as they are, begun ones go on.
        jobs: folds at a time.
        report: told what the tasks tell.
        refit: also train on all images, for predicting new ones.
        only: these folds alone, for a quick look or a comparison that need not be of all images.
        execute: runs the tasks; by default on this machine.

    Raises:
        SomasegError: the run has no such fold, or a task failed.
    """
    chosen = range(run.config.folds) if only is None else sorted(set(only))
    for fold in chosen:
        if not 0 <= fold < run.config.folds:
            raise SomasegError(f"fold {fold}: {run.folder} has folds 0 to {run.config.folds - 1}")
    folds: list[int | None] = [*chosen, *([None] if refit else [])]
    with hold(run.folder):
        parts = [(run.part(fold).name, run, fold) for fold in folds]
        train_parts(parts, jobs, report, execute)


def train_parts(
    parts: Sequence[tuple[str, Run, int | None]],
    jobs: int,
    report: Report,
    execute: Execute = execute,
) -> None:
    """Train folds, of one run or several, that are not finished.

    Args:
        parts: what a fold is called in reports, its run, its number (none: all images).
        jobs: folds at a time.
        report: told what the tasks tell.
        execute: runs the tasks; by default on this machine.

    Raises:
        SomasegError: the disk is too small, or a task failed.
    """
    left = [(name, run, fold) for name, run, fold in parts if not run.finished(fold)]
    if left:
        check_disk([(run, fold) for _, run, fold in left], jobs)
        tasks = [
            (name, [str(run.folder.resolve()), "all" if fold is None else str(fold)])
            for name, run, fold in left
        ]
        execute(tasks, jobs, report, of=len(parts))
        for _, run, _ in left:
            remove_folder(run.folder / PREPARED)


def score_run(
    run: Run,
    dataset: Dataset,
    weights: Mapping[str, float] | None = None,
    search: Collection[str] = SEARCHED,
    rescore: bool = False,
) -> Decision:
    """Tune and score a run's out-of-fold predictions, and write down what was found.

    That is ``settle.json``, ``rescore.json`` if it helps, the settings in the model files,
    ``scores.json`` and ``tuning.png``.

    Args:
        run: with all folds finished, or some: then the score is that of their images.
        dataset: its annotated images.
        weights: weight of each class for a weighted score.
        search: the settings that are tuned, some of :data:`somaseg.decide.grid.SEARCHED`.
        rescore: also learn scores, and keep them if they help; see :func:`decide_run`.
    """
    with hold(run.folder):
        return _score_run(run, dataset, weights, search, rescore)


def _score_run(
    run: Run,
    dataset: Dataset,
    weights: Mapping[str, float] | None,
    search: Collection[str],
    rescore: bool,
) -> Decision:
    scores = decide_run(run, dataset, weights, search, rescore)
    write_settings(run, scores)
    folds = run.finished_folds()
    notes = [_read_note(run.part(fold) / "training.json") for fold in folds]
    run.save_scores(
        {
            **{
                name: getattr(scores, name).to_json()
                for name in ("nested", "untuned", "optimistic")
            },
            "rescored": scores.rescored
            and {
                "nested": scores.rescored.nested.to_json(),
                "optimistic": scores.rescored.optimistic.to_json(),
                "used": scores.rescoring_helps,
            },
            "folds": folds,
            "training": {
                "seconds": sum(note["seconds"] for note in notes),
                "cpu_seconds": sum(note["cpu_seconds"] for note in notes),
                "parameters": notes[0]["parameters"],
            },
        }
    )
    leave_model(run)
    draw_curves(run.folder / "tuning.png", scores.tuned)
    track_scores(run, dataset, scores)
    return scores


def _read_note(path: Path) -> dict[str, float]:
    """What a fold's training took."""
    note = read_json(path)
    names = ("seconds", "cpu_seconds", "parameters")
    if not isinstance(note, dict) or not all(is_number(note.get(name)) for name in names):
        raise SomasegError(f"{path}: does not say what the training took; copy it again")
    return note


def leave_model(run: Run) -> None:
    """Write ``model.safetensors``: all that predicts new images as the run was scored.

    It holds the model of all images, or those of the folds, with the views and settings that the
    run was tuned with and its rescorer. While a fold is missing there is none.
    """
    target = run.folder / MODEL
    try:
        paths = run.model_paths()
    except SomasegError:  # some folds alone were asked for
        target.unlink(missing_ok=True)
        return
    models = tuple(load_model(path) for path in paths)
    member = BundleMember(run.folder.resolve().name, 1.0, run.config.views, models)
    rescorer = read_json(run.rescorer_path) if run.rescorer_path.exists() else None
    nested = run.scores()["nested"]["map"]
    card = models[0].info.card | {
        "data": run.config.data.path,
        "nested out-of-fold mAP": round(nested, 4),
    }
    settings = read_json(run.folder / SETTLE)
    write_bundle(target, Bundle((member,), None, settings, rescorer, card))
