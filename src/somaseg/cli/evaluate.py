"""``somaseg evaluate``: score predictions, and say where the score is lost."""

import json
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from somaseg.cli.options import (
    BatchOption,
    DeviceOption,
    EngineOption,
    PrecisionOption,
    SkipOption,
    tell_left_out,
)
from somaseg.cli.predict import VIEWS_HELP

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from somaseg.cli.console import Console
    from somaseg.data.faults import Faults
    from somaseg.scoring import Comparison, Evaluation
    from somaseg.scoring.explain import Losses


class MatchingOption(StrEnum):
    """How the competition's metric counts hits."""

    maximum = "maximum"
    kaggle = "kaggle"


def evaluate(
    truth: Annotated[
        Path,
        typer.Argument(
            metavar="TRUTH",
            help="Annotations: a data set of any format, or a folder of label images.",
            show_default=False,
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Argument(
            metavar="PREDICTIONS",
            help="A folder that `somaseg predict` wrote, COCO results, a submission, a folder of "
            "label images, or any data set; or give --model instead.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="Predict the images of TRUTH first, with a run's folder or a model file. (Its "
            "training images among them score too well: `somaseg train` scores unseen ones.)",
            show_default=False,
        ),
    ] = None,
    views: Annotated[
        str | None, typer.Option("--tta", help=f"With --model. {VIEWS_HELP}", show_default=False)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of tables.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Also say where the score is lost: missed, spurious, merged, split, boundary; and "
            "what perfect detection, separation or boundaries would give.",
        ),
    ] = False,
    matching: Annotated[
        MatchingOption,
        typer.Option(
            help="maximum: one to one, as many as possible. kaggle: as public kernels count, a "
            "truth with exactly one hit."
        ),
    ] = MatchingOption.maximum,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weight of each class in one weighted score: cort=320,shsy5y=155,astro=131 is the "
            "mix of the competition.",
            show_default=False,
        ),
    ] = None,
    ignore_unknown: Annotated[
        bool,
        typer.Option(
            "--ignore-unknown", help="Leave out predicted images that the truth does not have."
        ),
    ] = False,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Score only the images that are predicted. Without, one that is missing counts as "
            "if nothing was found. (A list of COCO results leaves out images without any cell, "
            "too.)",
        ),
    ] = False,
    skip_faulty: SkipOption = False,
    device: DeviceOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    batch: BatchOption = None,
) -> None:
    """Score PREDICTIONS, or those of a model, against TRUTH.

    The score is the competition's: TP / (TP + FP + FN), averaged over IoU thresholds from 0.50 to
    0.95 and then over images. F1, panoptic quality and COCO AP stand beside it.
    """
    from somaseg.cli.console import Console
    from somaseg.cli.scores import parse_weights
    from somaseg.data.faults import Faults
    from somaseg.errors import SomasegError
    from somaseg.scoring import evaluate as all_scores

    if (predictions is None) == (model is None):
        raise SomasegError("give PREDICTIONS, or a --model to make them with: one of both")
    if views is not None and model is None:
        raise SomasegError("--tta is for predicting; give a --model")
    messages = Console(stderr=True, soft_wrap=True)
    class_weights = parse_weights(weights)
    left_out = Faults() if skip_faulty else None
    comparison = _compare(
        truth, predictions, model, views, ignore_unknown, shared, messages, left_out
    )
    tell_left_out(left_out or ())
    result = all_scores(comparison, matching.value, class_weights, with_explanation=explain)
    for note in result.notes:
        messages.print(f"warning: {note}", style="yellow")
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=1, allow_nan=False))
        return
    out = Console()
    out.print(_score_table(result))
    out.print(_legend(result), style="dim")
    if result.explanation is not None:
        losses = result.explanation
        groups = {"all": losses.total, **(losses.classes if len(losses.classes) > 1 else {})}
        out.print(_loss_table(groups))
        out.print(_remedy_table(groups))
        out.print(_threshold_table(groups, losses.thresholds))


def _compare(
    truth: Path,
    predictions: Path | None,
    model: Path | None,
    views: str | None,
    ignore_unknown: bool,
    shared: bool,
    messages: "Console",
    left_out: "Faults | None",
) -> "Comparison":
    """Read both and compare them, with progress on a terminal."""
    from somaseg.cli.progress import Bars
    from somaseg.scoring import compare
    from somaseg.scoring.inputs import is_results, read_predictions, read_truth

    with Bars(console=messages, transient=True) as progress:
        task = progress.add_task("reading the truth", total=None)
        segmenter, choice = None, None
        if predictions is None:
            from somaseg.predict.load import load_segmenter

            segmenter = load_segmenter(model, views)
            choice = segmenter.choice
        dataset = read_truth(truth, predictions, left_out, choice)
        # What is predicted for the images that were just left out is no stranger.
        ignore_unknown |= bool(left_out)
        if segmenter is not None:
            from somaseg.data.load import decoded

            if left_out is not None:
                dataset = decoded(dataset, left_out)
            samples = [sample for sample in dataset if sample.instances is not None]
            progress.update(task, description="predicting", total=len(samples))
            found = {}
            for sample in samples:
                found[sample.id] = segmenter(sample.image())
                progress.advance(task)
            progress.reset(task)
        else:
            assert predictions is not None
            progress.update(task, description="reading the predictions")
            found = read_predictions(predictions, dataset, ignore_unknown, left_out)
            if shared and is_results(predictions):  # a list speaks of images with cells alone
                found = {name: cells for name, cells in found.items() if len(cells)}
        progress.update(task, description="comparing", total=len(dataset))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it is among the notes
            return compare(
                dataset,
                found,
                source=str(predictions or model),
                ignore_unknown=ignore_unknown,
                progress=lambda: progress.advance(task),
                shared=shared,
            )


def _score_table(result: "Evaluation") -> "Table":
    competition, coco, panoptic = result.competition, result.coco, result.panoptic
    table = _table(
        "",
        "class|images|cells|found|score|@ .50|@ .75|F1|PQ|AP",
    )
    half = competition.thresholds.index(50)
    three_quarters = competition.thresholds.index(75)
    for name, scored in competition.classes.items():
        if len(competition.classes) == 1:
            break  # the same as all
        row = panoptic.classes[name][half]
        ap = coco.classes.get(name) if coco else None
        table.add_row(
            name,
            *(str(scored.images), str(scored.truths), str(scored.predictions)),
            _bold(f"{scored.score:.3f}"),
            *(f"{scored.accuracy[half]:.3f}", f"{scored.accuracy[three_quarters]:.3f}"),
            *(f"{row.f1:.3f}", f"{row.panoptic_quality:.3f}"),
            _number(ap.precision.mean() if ap else None),
        )
    table.add_section()
    row = panoptic.rows[half]
    table.add_row(
        "all",
        str(len(competition.images)),
        str(row.hits + row.false_negatives),
        str(row.hits + row.false_positives),
        _bold(f"{competition.map:.3f}"),
        f"{competition.accuracy[half]:.3f}",
        f"{competition.accuracy[three_quarters]:.3f}",
        *(f"{row.f1:.3f}", f"{row.panoptic_quality:.3f}"),
        _number(coco.ap if coco else None),
    )
    if competition.weighted is not None:
        table.add_row("weighted", *[""] * 3, _bold(f"{competition.weighted:.3f}"))
    return table


def _legend(result: "Evaluation") -> str:
    lines = [
        "score: TP / (TP + FP + FN), mean over IoU .50 … .95, then over images",
        "F1, PQ: at IoU .50, all cells pooled; AP: COCO's, ranked by confidence, no cap",
    ]
    if result.coco is not None and result.coco.ap is None:
        agnostic = float(result.coco.agnostic.precision.mean())
        lines.append(f"AP of all cells as one class: {agnostic:.3f}")
    if result.competition.matching == "kaggle":
        lines.append("score: hits counted as in public kernels; all else one to one")
    return "\n".join(lines)


def _loss_table(groups: "dict[str, Losses]") -> "Table":
    from somaseg.scoring.explain import CAUSES

    table = _table("Where the score is lost (adds up to 1)", "class|score|" + "|".join(CAUSES))
    for name, losses in groups.items():
        shares = [losses.lost[cause].mean() for cause in CAUSES]
        worst = max(shares)
        cells = [_bold(f"{x:.3f}") if x == worst > 0 else f"{x:.3f}" for x in shares]
        table.add_row(name, f"{losses.score.mean():.3f}", *cells)
    return table


def _remedy_table(groups: "dict[str, Losses]") -> "Table":
    from somaseg.scoring.explain import REMEDIES

    table = _table("The score that perfect … would give", "class|score|" + "|".join(REMEDIES))
    for name, losses in groups.items():
        now = losses.score.mean()
        gains = [losses.perfect[remedy].mean() for remedy in REMEDIES]
        cells = [f"{score:.3f} ({score - now:+.3f})" for score in gains]
        table.add_row(name, f"{now:.3f}", *cells)
    return table


def _threshold_table(groups: "dict[str, Losses]", thresholds: tuple[int, ...]) -> "Table":
    from somaseg.scoring.explain import CAUSES

    table = _table("… by IoU threshold", "class|IoU|score|" + "|".join(CAUSES))
    for name, losses in groups.items():
        table.add_section()
        for t, percent in enumerate(thresholds):
            table.add_row(
                name if t == 0 else "",
                f"{percent / 100:.2f}",
                f"{losses.score[t]:.3f}",
                *(f"{losses.lost[cause][t]:.3f}" for cause in CAUSES),
            )
    return table


def _table(title: str, columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title or None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for place, name in enumerate(columns.split("|")):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _bold(text: str) -> "Text":
    from rich.text import Text

    return Text(text, style="bold")
