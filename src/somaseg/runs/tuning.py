"""Tune a run's settings, score them honestly, and write them down: three steps."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from somaseg.data.types import Dataset
from somaseg.decide import Decision, decide, dump_settings
from somaseg.decide.grid import ORDERS, SEARCHED
from somaseg.decide.tune import Tuned
from somaseg.files import atomic_path, write_json
from somaseg.instances import Instances
from somaseg.models.bundle import load_model
from somaseg.report.html import in_figure
from somaseg.runs.checking import pooled
from somaseg.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("score", "mask_threshold", "nms_iou", "min_area", "max_area", "order")
"""Settings in the order in which their curves are drawn."""


def decide_run(
    run: Run,
    dataset: Dataset,
    class_weights: Mapping[str, float] | None = None,
    search: Collection[str] = SEARCHED,
    rescore: bool = False,
) -> Decision:
    """Tune a run on its finished folds, and score it; nothing is written.

    Args:
        run: the run.
        dataset: its annotated images.
        class_weights: weight of each class for weighted scores.
        search: the settings that are tuned, some of :data:`somaseg.decide.grid.SEARCHED`.
        rescore: also learn scores, and tune for them.

    Raises:
        SomasegError: no fold is finished; there is no such setting; XGBoost is not installed, or
            there are too few images to learn from.
    """
    raw = run.raw_predictions()
    return decide(
        {run.folder.name: raw},
        dataset.subset(raw),
        run.folds(dataset),
        class_weights=class_weights,
        search=search,
        rescore=rescore,
    )


def write_settings(run: Run, decision: Decision) -> None:
    """Write ``settle.json`` beside a run and its settings into its model files.

    So are scores in lower precision, as far as folds were checked. What learned to rescore, if that
    helps, goes into ``rescore.json``; else none is left there. The model files know nothing of it.
    """
    tuned = decision.tuned
    write_json(run.folder / "settle.json", dump_settings(tuned.settings))
    if decision.rescored is not None and decision.rescoring_helps:
        decision.rescored.rescorer.save(run.rescorer_path)
    else:
        run.rescorer_path.unlink(missing_ok=True)
    checked = pooled([run.part(fold) for fold in range(run.config.folds)])
    for fold in [*range(run.config.folds), None]:
        path = run.model_path(fold)
        if path.exists():
            model = load_model(path)
            # A fold's model is scored with what was tuned without its images.
            honest = {} if tuned.dealt else tuned.nested
            settings = tuned.settings if fold is None else honest.get(fold, tuned.settings)
            known = {"settle": dump_settings(settings), "checked": checked}
            model.info = model.info.model_copy(update=known)
            model.save(path)


def settled_out_of_fold(folder: str | Path) -> dict[str, Instances]:
    """Final predictions of a run's images, each settled as tuned without its fold.

    Raises:
        SomasegError: no such run, or no fold of it is finished.
    """
    run = Run.open(folder)
    return decide_run(run, run.dataset()).found


def draw_curves(path: str | Path, tuned: Tuned) -> None:
    """Draw the score over each setting as a PNG."""
    with atomic_path(path) as temporary:
        curves_figure(tuned).savefig(temporary, dpi=110)


def curves_figure(tuned: Tuned) -> "Figure":
    """Draw the score over each setting, a line a class; dotted lines are the chosen values."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True)
    for axes, setting in zip(panels.flat, SHOWN, strict=True):
        curves = {name: dict(shown[setting]) for name, shown in tuned.curves.items()}
        # Names, and areas that rise by steps, stand side by side; numbers at their place.
        values = {value for curve in curves.values() for value in curve}
        ticks = sorted(values, key=_rank) if setting in ("order", "min_area", "max_area") else None
        for name, curve in curves.items():
            places = [ticks.index(value) if ticks else value for value in curve]
            (line,) = axes.plot(places, list(curve.values()), marker=".", label=in_figure(name))
            chosen = getattr(tuned.settings.get(name, next(iter(tuned.settings.values()))), setting)
            place = ticks.index(chosen) if ticks else chosen
            axes.axvline(place, color=line.get_color(), ls=":", lw=1)
        if ticks:
            labels = ["none" if x is None else str(x).replace("_", "\n") for x in ticks]
            step = max(1, -(-len(ticks) // 10))
            axes.set_xticks(range(0, len(ticks), step), labels[::step])
        axes.set_xlabel(setting.replace("_", " ") + (" (pixels)" if "area" in setting else ""))
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel("out-of-fold mAP")
    panels[0, 0].legend()
    return figure


def _rank(value: float | str | None) -> float:
    if value is None:
        return float("inf")
    return ORDERS.index(value) if isinstance(value, str) else value
