"""Tune a run's settings, and score them honestly."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from somaseg.data.types import Dataset
from somaseg.evaluation import CompetitionScore, compare, competition_score
from somaseg.experiments.store import Run
from somaseg.files import atomic_path, write_json
from somaseg.instances import Instances
from somaseg.masks.parallel import map_images
from somaseg.models.registry import load_model
from somaseg.settle import Settle, default_settings, dump_settings, settle
from somaseg.settle.tune import Tuned, tune

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RunScores:
    """A run's out-of-fold scores.

    Attributes:
        untuned: with default settings.
        nested: each fold with settings tuned on the others: what to expect of new images.
        optimistic: with the settings tuned on the very images that are scored.
        tuned: the settings.
    """

    untuned: CompetitionScore
    nested: CompetitionScore
    optimistic: CompetitionScore
    tuned: Tuned


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


def tune_run(run: Run, dataset: Dataset, weights: Mapping[str, float] | None = None) -> RunScores:
    """Tune a run on its finished folds; write ``settle.json`` and into its model files.

    Args:
        run: the run.
        dataset: its annotated images.
        weights: weight of each class for weighted scores.
    """
    raw, folds, one_class = run.raw_predictions(), run.folds(dataset), has_one_class(dataset)
    dataset = dataset.subset(list(raw))
    found = tune(raw, dataset, folds, one_class)
    chosen: dict[str, dict[str, Settle]] = {
        "untuned": dict.fromkeys(raw, default_settings(dataset.names)),
        "nested": {i: found.nested[found.folds[i]] for i in raw},
        "optimistic": dict.fromkeys(raw, found.settings),
    }
    scores = {
        name: competition_score(
            compare(dataset, settle_all(raw, settings, one_class)), weights=weights
        )
        for name, settings in chosen.items()
    }
    write_json(run.folder / "settle.json", dump_settings(found.settings))
    for fold in [*range(run.config.folds), None]:
        path = run.model_path(fold)
        if path.exists():
            model = load_model(path)
            # A fold's model is scored with what was tuned without its images.
            honest = {} if found.dealt else found.nested
            settings = found.settings if fold is None else honest.get(fold, found.settings)
            model.info = model.info.model_copy(update={"settle": dump_settings(settings)})
            model.save(path)
    return RunScores(**scores, tuned=found)


def settled_out_of_fold(folder: str | Path) -> dict[str, Instances]:
    """Final predictions of a run's images, each settled as tuned without its fold.

    Raises:
        SomasegError: no such run, or no fold of it is finished.
    """
    run = Run.open(folder)
    dataset = run.dataset()
    raw, one_class = run.raw_predictions(), has_one_class(dataset)
    found = tune(raw, dataset.subset(list(raw)), run.folds(dataset), one_class)
    return settle_all(raw, {i: found.nested[found.folds[i]] for i in raw}, one_class)


def draw_curves(path: str | Path, tuned: Tuned) -> None:
    """Draw the score over each setting as a PNG."""
    with atomic_path(path) as temporary:
        curves_figure(tuned).savefig(temporary, dpi=110)


def curves_figure(tuned: Tuned) -> "Figure":
    """Draw the score over each setting, a line a class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, setting in zip(
        figure.subplots(1, 3, sharey=True), ("score", "mask_threshold", "min_area"), strict=True
    ):
        for name, curves in tuned.curves.items():
            values, scores = zip(*curves[setting], strict=True)
            (line,) = axes.plot(values, scores, label=name)
            if name in tuned.settings:
                axes.axvline(
                    getattr(tuned.settings[name], setting), color=line.get_color(), ls=":", lw=1
                )
        axes.set_xlabel(setting.replace("_", " ") + (" (pixels)" if "area" in setting else ""))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("out-of-fold mAP")
    figure.axes[0].legend()
    return figure
