"""The page of an experiment: what was trained on, how it went, what it scores, where it fails."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from somaseg.data.types import Dataset
from somaseg.decide import Settle
from somaseg.files import write_text
from somaseg.instances import Instances
from somaseg.models.training.journal import MetricsFile
from somaseg.report.agreement import Points, agreement_figure, agreement_text
from somaseg.report.eda import data_sections
from somaseg.report.html import in_figure, jpeg_uri, render, svg_uri
from somaseg.report.overlays import side_by_side
from somaseg.scoring import CompetitionScore, compare
from somaseg.scoring.agreement import Agreement
from somaseg.scoring.explain import CAUSES, Losses, explain_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Chart = dict[str, str]
_COLOURS = {
    "score": "#0072b2",
    "missed": "#d55e00",
    "spurious": "#f0e442",
    "merged": "#cc79a7",
    "split": "#e69f00",
    "boundary": "#999999",
}


@dataclass(frozen=True)
class MemberPage:
    """What the page shows of one trained model family.

    Attributes:
        name: of the member.
        nested, optimistic: its out-of-fold scores.
        metrics: ``metrics.csv`` of each fold, by the fold's name; files that are not there (a
            family that is not trained in steps) are left out.
        minutes: of processor time for all folds.
        parameters: of one model.
    """

    name: str
    nested: CompetitionScore
    optimistic: CompetitionScore
    metrics: Mapping[str, Path]
    minutes: float
    parameters: int


@dataclass(frozen=True)
class LedgerPage:
    """What the page shows of CV against the leaderboard.

    Attributes:
        folder: whose runs are compared.
        add, again: commands that record a score of this run, and that write its page again.
        boards: for each board of which two or more runs have a score: name, CV and score of each,
            and how they go together.
        current: name of this run among them, if it is.
        kind: what CV is, in a few words.
        notes: what could not be read or compared, one sentence each.
    """

    folder: str
    add: str
    again: str
    boards: Mapping[str, tuple[Points, Agreement]]
    current: str | None = None
    kind: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ExperimentPage:
    """All that the page of an experiment is made of.

    Attributes:
        title: heading.
        dataset: the annotated images.
        folds: fold of each image.
        members: in the order of the table.
        chosen: what the final predictions are, in a few words.
        nested, optimistic: their scores.
        found: final out-of-fold predictions by image id, those of the nested score.
        settings: tuned, by class name.
        tuning: curves of the tuned settings, drawn; none without.
        ledger: CV against leaderboard; without, nothing is said of it.
        start: nested and optimistic score of the model that was fine-tuned, as it was.
        verdict: what came of that, in a sentence.
    """

    title: str
    dataset: Dataset
    folds: Mapping[str, int]
    members: Sequence[MemberPage]
    chosen: str
    nested: CompetitionScore
    optimistic: CompetitionScore
    found: Mapping[str, Instances]
    settings: Settle
    tuning: "Figure | None" = None
    ledger: LedgerPage | None = None
    start: tuple[CompetitionScore, CompetitionScore] | None = None
    verdict: str = ""


def write_experiment(path: str | Path, page: ExperimentPage, *, pictures: int = 2) -> None:
    """Write the page: one HTML file that needs no other and no network.

    Args:
        path: file to write, such as ``report.html``.
        page: what to show.
        pictures: of best and of worst images, for each class.

    Raises:
        SomasegError: an image cannot be read, or the file not written.
    """
    _, data = data_sections(page.dataset, examples=1)
    html = render(
        "experiment",
        title=page.title,
        summary=_summary(page),
        scores=_scores(page),
        losses=_losses(page),
        pictures=_pictures(page, pictures),
        folds=_folds(page),
        curves=[chart for member in page.members if (chart := _curves(member))],
        settings=_settings(page.settings),
        tuning=[
            _shown(
                page.tuning,
                "Tuning",
                "Out-of-fold mAP over each setting, the others as chosen; dotted: the choice.",
            )
        ]
        if page.tuning is not None
        else [],
        ledger=_ledger(page.ledger) if page.ledger is not None else None,
        **data,
    )
    write_text(path, html)


def _shown(figure: "Figure", title: str, caption: str) -> Chart:
    return {"title": title, "caption": caption, "uri": svg_uri(figure)}


def _chart(title: str, caption: str, draw: "Callable[[Axes], None]") -> Chart:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.0))
    axes = figure.subplots()
    draw(axes)
    axes.set_title(in_figure(title), loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return _shown(figure, title, caption)


# Tables.


def _summary(page: ExperimentPage) -> str:
    score = page.nested.map if page.nested.weighted is None else page.nested.weighted
    kind = "" if page.nested.weighted is None else ", classes weighted"
    best = max(page.members, key=lambda m: m.nested.weighted or m.nested.map)
    alone = best.nested.weighted or best.nested.map
    text = f"Chosen: {page.chosen}. It scores {score:.3f} (nested out-of-fold mAP{kind})"
    if len(page.members) > 1:
        text += f"; the best member alone, {best.name}, {alone:.3f}"
    return " ".join(filter(None, [text + ".", page.verdict]))


def _scores(page: ExperimentPage) -> dict[str, Any]:
    classes = list(page.nested.classes)
    weighted = page.nested.weighted is not None
    kinds = ["nested", "optimistic"]
    head = ["", *classes, *kinds, *(f"{kind}, weighted" for kind in kinds if weighted)]
    head += ["CPU minutes", "parameters"]
    rows = [
        [
            member.name,
            *_row(member.nested, member.optimistic, classes),
            f"{member.minutes:.0f}",
            f"{member.parameters / 1e6:.1f} M",
        ]
        for member in page.members
    ]
    if page.start is not None:
        rows.insert(0, ["the model it started from", *_row(*page.start, classes), "", ""])
    minutes = sum(member.minutes for member in page.members)
    last = [page.chosen, *_row(page.nested, page.optimistic, classes), f"{minutes:.0f}", ""]
    return {"head": head, "rows": [*rows, last]}


def _row(nested: CompetitionScore, optimistic: CompetitionScore, classes: list[str]) -> list[str]:
    cells = [f"{nested.by_class[name]:.3f}" for name in classes]
    cells += [f"{score.map:.3f}" for score in (nested, optimistic)]
    return cells + [
        f"{score.weighted:.3f}" for score in (nested, optimistic) if score.weighted is not None
    ]


def _folds(page: ExperimentPage) -> dict[str, Any]:
    by_id = {image.id: image.score for image in page.nested.images}
    names = page.dataset.names
    rows = []
    for fold in sorted(set(page.folds.values())):
        own = [sample for sample in page.dataset if page.folds[sample.id] == fold]
        cells = sum(len(sample.annotated()) for sample in own)
        counts = [sum(sample.image_class == name for sample in own) for name in names]
        mean = float(np.mean([by_id[sample.id] for sample in own]))
        rows.append([str(fold), str(len(own)), *map(str, counts), str(cells), f"{mean:.3f}"])
    head = ["fold", "images", *(f"of {name}" for name in names), "cells", "mAP"]
    return {"head": head, "rows": rows}


def _settings(settings: Settle) -> dict[str, Any]:
    fields = list(next(iter(settings.values())).model_dump())
    rows = [
        [name, *("–" if value is None else f"{value}" for value in one.model_dump().values())]
        for name, one in settings.items()
    ]
    return {"head": ["class", *(field.replace("_", " ") for field in fields)], "rows": rows}


# Charts.


def _ledger(ledger: LedgerPage) -> dict[str, Any]:
    if not ledger.boards:
        return {"chart": None, "facts": [], "warnings": [], **_advice(ledger)}
    figure = agreement_figure(ledger.boards, current=ledger.current)
    facts, warnings = [], []
    for board, (points, found) in ledger.boards.items():
        facts.append(agreement_text(board, found) + ".")
        facts += [
            f"{points[i][0]} stands out (CV {points[i][1]:.3f}, {board} {points[i][2]:.3f})."
            for i in found.outliers
        ]
        warnings += [f"{board}: {warning}" for warning in found.warnings]
    caption = f"Each dot is an entry in {ledger.folder} with both scores. CV: {ledger.kind}."
    return {
        "chart": _shown(figure, "CV against the leaderboard", caption),
        "facts": facts,
        "warnings": warnings,
        **_advice(ledger),
    }


def _advice(ledger: LedgerPage) -> dict[str, Any]:
    """Say what is missing, if anything, and the commands that mend it."""
    missing = "" if ledger.current else "This run is not among them"
    if not ledger.boards:
        missing = f"No two runs in {ledger.folder} have both CV and a leaderboard score"
    return {"missing": missing, "add": ledger.add, "again": ledger.again, "notes": ledger.notes}


def _losses(page: ExperimentPage) -> list[Chart]:
    explained = explain_score(compare(page.dataset, page.found))
    groups = explained.classes if len(explained.classes) > 1 else {"all images": explained.total}
    percents = explained.thresholds
    return [
        _chart(
            name,
            "Share of the score at each IoU threshold, and what the rest is lost to. Perfect "
            + ", ".join(f"{what}: {score.mean():.3f}" for what, score in losses.perfect.items())
            + f" instead of {losses.score.mean():.3f}.",
            lambda axes, losses=losses: _stack(axes, losses, percents),  # type: ignore[misc]
        )
        for name, losses in groups.items()
    ]


def _stack(axes: "Axes", losses: Losses, percents: Sequence[int]) -> None:
    parts = {"score": losses.score, **{cause: losses.lost[cause] for cause in CAUSES}}
    base = np.zeros(len(percents))
    for name, share in parts.items():
        axes.bar(percents, share, 4.2, base, color=_COLOURS[name], label=name)
        base = base + share
    axes.set_xlabel("IoU threshold, %")
    axes.set_xticks(list(percents))
    axes.set_ylim(0, 1)
    axes.legend(fontsize=7, ncols=1, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _curves(member: MemberPage) -> Chart | None:
    curves = {fold: _read(path) for fold, path in member.metrics.items() if path.exists()}
    if not curves:
        return None

    def draw(axes: "Axes") -> None:
        for fold, (steps, losses) in curves.items():
            axes.plot(steps, losses, lw=1, label=in_figure(fold))
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.set_yscale("log")
        axes.legend(fontsize=8, frameon=False)

    return _chart(member.name, "Sum of the training losses.", draw)


def _read(path: Path) -> tuple[list[int], list[float]]:
    rows = MetricsFile(path).rows()
    return [step for step, _ in rows], [figures.get("total", math.nan) for _, figures in rows]


# Pictures.


def _pictures(page: ExperimentPage, count: int) -> list[dict[str, Any]]:
    groups: dict[str, list[tuple[float, str]]] = {}
    for image in page.nested.images:
        groups.setdefault(image.image_class or "all images", []).append((image.score, image.id))
    out = []
    for name, scored in sorted(groups.items()):
        scored.sort(reverse=True)
        half = min(count, -(-len(scored) // 2))
        best, worst = scored[:half], scored[max(half, len(scored) - half) :]
        pictures = [
            _picture(page, identity, f"{kind}: {identity}, mAP {score:.3f}")
            for kind, chosen in (("best", best), ("worst", worst))
            for score, identity in chosen
        ]
        out.append({"name": name, "pictures": pictures})
    return out


def _picture(page: ExperimentPage, identity: str, caption: str) -> dict[str, str]:
    sample = page.dataset[identity]
    drawn = side_by_side(sample.image(), sample.annotated(), page.found[identity])
    return {"uri": jpeg_uri(drawn), "caption": caption}
