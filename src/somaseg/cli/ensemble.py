"""``somaseg ensemble``: join what several members found."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from somaseg.cli.options import (
    BatchOption,
    ClassWeightsOption,
    ClusterOption,
    DeviceOption,
    EngineOption,
    PrecisionOption,
)

if TYPE_CHECKING:
    from rich.progress import TaskID

    from somaseg.cli.console import Console
    from somaseg.decide import Fusion
    from somaseg.runs.ensemble import Outcome


def ensemble(
    members: Annotated[
        list[Path],
        typer.Argument(
            help="Runs, model files, folders that this command wrote, or predictions from "
            "anywhere: raw ones (.npz), COCO results, a folder of label images, a submission.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path(
        "ensemble"
    ),
    method: Annotated[
        str,
        typer.Option(
            help="nms, soft-nms, nmw, wbf or average; several, with commas between, are compared "
            "on --data, and the first one is written."
        ),
    ] = "wbf",
    weights: Annotated[
        str | None,
        typer.Option(help="Weight of each member, as 2,1,1; without, equal.", show_default=False),
    ] = None,
    iou: Annotated[
        float, typer.Option(help="Masks of one cell overlap by more than this (IoU).")
    ] = 0.55,
    within_class: Annotated[
        bool, typer.Option("--within-class", help="Only masks of one class are one cell.")
    ] = False,
    absent: Annotated[
        str,
        typer.Option(
            help="A member that lacks a cell pulls its mask towards 0 (zero) or has no say (skip)."
        ),
    ] = "zero",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Annotations: score each member and method, tuned without the fold that is "
            "scored.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            help="Images to predict with runs and models. Without, runs give their out-of-fold "
            "predictions, and models predict the images of --data.",
            show_default=False,
        ),
    ] = None,
    select: Annotated[
        bool,
        typer.Option(
            "--select",
            help="Choose members and weights by the score on --data: greedily, with replacement.",
        ),
    ] = False,
    second_pass: Annotated[
        bool,
        typer.Option(
            "--second-pass",
            help="Let the mask heads of the members (R-CNNs) draw the joined cells again.",
        ),
    ] = False,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="Settle with these: settle.json, or the run or ensemble it is in. Without, with "
            "those tuned on --data, or the defaults.",
            show_default=False,
        ),
    ] = None,
    class_weights: ClassWeightsOption = None,
    views: Annotated[
        str | None,
        typer.Option(
            "--tta",
            help="Test-time views of --images: none (default), flips, all.",
            show_default=False,
        ),
    ] = None,
    tile: Annotated[
        int, typer.Option(min=128, help="Larger images go through in tiles of this side.")
    ] = 1024,
    ignore_unknown: Annotated[
        bool,
        typer.Option("--ignore-unknown", help="Leave out images that --data does not have."),
    ] = False,
    device: DeviceOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    batch: BatchOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Join what several members found to one set of masks.

    Writes OUT/predictions.npz (raw, as a run's), OUT/labels/ID.tif, OUT/predictions.json,
    OUT/submission.csv, OUT/settle.json and OUT/ensemble.yaml, which says what was joined; if all
    members are models, OUT/model.safetensors for `somaseg predict --model OUT`, too. OUT can be a
    member itself.
    """
    from somaseg.cli.console import Console
    from somaseg.cli.progress import Bars
    from somaseg.cli.scores import parse_weights
    from somaseg.runs.ensemble import Request, run_ensemble
    from somaseg.runs.execute import executor

    request = Request(
        members=tuple(members),
        fusions=_fusions(method, iou=iou, within_class=within_class, absent=absent),
        weights=_numbers(weights) if weights is not None else None,
        data=data,
        images=images,
        choose=select,
        redraw=second_pass,
        settings=settings,
        class_weights=parse_weights(class_weights, "--class-weights"),
        views=views,
        tile=tile,
        ignore_unknown=ignore_unknown,
    )
    messages = Console(stderr=True, soft_wrap=True)
    with Bars(console=messages) as bars:
        rows: dict[str, TaskID] = {}

        def report(member: str, done: int, total: int) -> None:
            if member not in rows:
                rows[member] = bars.add_task(f"predict with {member}", total=total)
            bars.update(rows[member], completed=done)

        with executor(cluster, out, [*members, images or data]) as found:
            outcome = run_ensemble(request, out, report, found)
    for note in outcome.notes:
        messages.print(note)
    if outcome.table:
        _print_table(outcome, len(members), Console())
    cells = sum(len(found) for found in outcome.final.values())
    weighed = ", ".join(
        f"{member.path}" + (f" ×{weight:g}" if weight != 1 else "")
        for member, weight in zip(outcome.joined.members, outcome.joined.weights, strict=True)
    )
    typer.echo(f"joined by {outcome.joined.label}: {weighed}")
    typer.echo(f"{len(outcome.final)} images, {cells} cells: {out}")


def _fusions(methods: str, **fields: object) -> "tuple[Fusion, ...]":
    """The ways of joining that ``--method a,b`` names."""
    from somaseg.decide import METHODS, Fusion
    from somaseg.errors import SomasegError
    from somaseg.models.registry import validate

    names = [name.strip() for name in methods.split(",")]
    for name in names:
        if name not in METHODS:
            raise SomasegError(f"--method {name!r}: choose from {', '.join(METHODS)}")
        if names.count(name) > 1:
            raise SomasegError(f"--method: {name} comes twice")
    return tuple(validate(Fusion, {"method": name, **fields}, "ensemble") for name in names)


def _numbers(weights: str) -> tuple[float, ...]:
    from somaseg.errors import SomasegError

    try:
        numbers = tuple(float(text) for text in weights.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise SomasegError(f"--weights {weights}: give a number above 0 for each member, as 2,1,1")
    return numbers


def _print_table(outcome: "Outcome", members: int, console: "Console") -> None:
    """Print the scores of each member and each way of joining."""
    from rich import box
    from rich.table import Table

    from somaseg.decide.nested import headline

    first = next(iter(outcome.table.values()))
    names = list(first.nested.classes) if len(first.nested.classes) > 1 else []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"mAP of {len(outcome.final)} images" + (
        ", classes weighted" if first.nested.weights is not None else ""
    )
    table.add_column("", overflow="fold")
    for column in ("untuned", "nested", "optimistic", *names):
        table.add_column(column, justify="right", no_wrap=True)
    for place, (name, scores) in enumerate(outcome.table.items()):
        if place == members:
            table.add_section()
        table.add_row(
            name,
            *(f"{headline(getattr(scores, k)):.3f}" for k in ("untuned", "nested", "optimistic")),
            *(f"{scores.nested.by_class.get(name, float('nan')):.3f}" for name in names),
        )
    console.print(table)
    if names:
        console.print("by class: nested", style="dim")
    console.print(
        "nested: settings tuned (and members chosen) without the fold that is scored",
        style="dim",
    )
    if outcome.selection is not None:
        for fold, choice in outcome.selection.by_fold.items():
            chosen = ", ".join(f"{name} ×{n}" for name, n in choice.member_weights.items())
            console.print(f"chosen without fold {fold}: {chosen}")
