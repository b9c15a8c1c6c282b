"""Tune a run's settings, and score them honestly."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from somaseg.data.types import Dataset
from somaseg.decide import Settle, default_settings, dump_settings, settle
from somaseg.decide.grid import AXES, ORDERS
from somaseg.decide.rescore import Rescorer, rescore_out_of_fold
from somaseg.decide.tune import Tuned, tune
from somaseg.files import atomic_path, write_json
from somaseg.instances import Instances
from somaseg.masks.parallel import map_images
from somaseg.models.bundle import load_model
from somaseg.report.html import in_figure
from somaseg.runs.run import Run
from somaseg.scoring import CompetitionScore, compare, competition_score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("score", "mask_threshold", "nms_iou", "min_area", "max_area", "order")
"""Settings in the order in which their curves are drawn."""


@dataclass(frozen=True)
class RescoredScores:
    """A run's out-of-fold scores with learned scores; see :class:`RunScores`."""

    nested: CompetitionScore
    optimistic: CompetitionScore
    tuned: Tuned


@dataclass(frozen=True)
class RunScores:
    """A run's out-of-fold scores.

    Attributes:
        untuned: with default settings.
        nested: each fold with settings tuned on the others: what to expect of new images.
        optimistic: with the settings tuned on the very images that are scored.
        tuned: the settings.
        rescored: the same with learned scores, if asked for.
    """

    untuned: CompetitionScore
    nested: CompetitionScore
    optimistic: CompetitionScore
    tuned: Tuned
    rescored: RescoredScores | None = None

    @property
    def rescoring_helps(self) -> bool:
        """Whether learned scores are better in the nested estimate, weighted if there are weights.

        That alone is no proof on a few images; but worse it is not taken.
        """
        if self.rescored is None:
            return False
        one, other = self.rescored.nested, self.nested
        if one.weighted is not None and other.weighted is not None:
            return one.weighted > other.weighted
        return one.map > other.map


def has_one_class(dataset: Dataset) -> bool:
    """Whether there are several classes, and each image has cells of one of them."""
    return len(dataset.names) > 1 and all(sample.image_class for sample in dataset)


def settle_all(
    raw: Mapping[str, Instances], settings: Mapping[str, Settle], one_class: bool
) -> dict[str, Instances]:
    """Settle raw predictions; settings are given for each image id."""
    ids = list(raw)
    done = map_images(lambda i: settle(raw[i], settings[i], one_class=one_class), ids)
    return dict(zip(ids, done, strict=True))


def tune_run(
    run: Run,
    dataset: Dataset,
    weights: Mapping[str, float] | None = None,
    search: Collection[str] = AXES,
    rescore: bool = False,
) -> RunScores:
    """Tune a run on its finished folds; write ``settle.json`` and into its model files.

    Args:
        run: the run.
        dataset: its annotated images.
        weights: weight of each class for weighted scores.
        search: the settings that are tuned, some of :data:`somaseg.decide.grid.AXES`.
        rescore: also learn scores, and tune for them. If that is better in the nested estimate,
            it is written to ``rescore.json`` and used from then on; else none is left there.

    Raises:
        SomasegError: no fold is finished; there is no such setting; XGBoost is not installed, or
            there are too few images to learn from.
    """
    raw, folds, one_class = run.raw_predictions(), run.folds(dataset), has_one_class(dataset)
    dataset = dataset.subset(list(raw))

    def scored(raw: Mapping[str, Instances], by_image: Mapping[str, Settle]) -> CompetitionScore:
        final = settle_all(raw, by_image, one_class)
        return competition_score(compare(dataset, final), weights=weights)

    found = tune(raw, dataset, folds, one_class, search=search)
    scores = RunScores(
        untuned=scored(raw, dict.fromkeys(raw, default_settings(dataset.names))),
        nested=scored(raw, found.of_images()),
        optimistic=scored(raw, dict.fromkeys(raw, found.settings)),
        tuned=found,
    )
    rescorer: Rescorer | None = None
    if rescore:
        learned = rescore_out_of_fold(raw, dataset, folds, one_class)
        again = tune(learned.raw, dataset, folds, one_class, search=search, without=learned.without)
        scores = replace(
            scores,
            rescored=RescoredScores(
                nested=scored(learned.raw, again.of_images()),
                optimistic=scored(learned.raw, dict.fromkeys(raw, again.settings)),
                tuned=again,
            ),
        )
        rescorer = replace(learned.rescorer, settings=again.settings)
    _write(run, found, rescorer if scores.rescoring_helps else None)
    return scores


def _write(run: Run, found: Tuned, rescorer: Rescorer | None) -> None:
    """Write the settings beside the run and into its model files, which know of no rescoring."""
    write_json(run.folder / "settle.json", dump_settings(found.settings))
    if rescorer is not None:
        rescorer.save(run.rescorer_path)
    else:
        run.rescorer_path.unlink(missing_ok=True)
    for fold in [*range(run.config.folds), None]:
        path = run.model_path(fold)
        if path.exists():
            model = load_model(path)
            # A fold's model is scored with what was tuned without its images.
            honest = {} if found.dealt else found.nested
            settings = found.settings if fold is None else honest.get(fold, found.settings)
            model.info = model.info.model_copy(update={"settle": dump_settings(settings)})
            model.save(path)


def settled_out_of_fold(folder: str | Path) -> dict[str, Instances]:
    """Final predictions of a run's images, each settled as tuned without its fold.

    Raises:
        SomasegError: no such run, or no fold of it is finished.
    """
    run = Run.open(folder)
    dataset = run.dataset()
    raw, one_class = run.raw_predictions(), has_one_class(dataset)
    found = tune(raw, dataset.subset(list(raw)), run.folds(dataset), one_class)
    return settle_all(raw, found.of_images(), one_class)


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
