"""``somaseg data``: look at a data set, check it, convert it."""

import dataclasses
import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from somaseg.cli.options import (
    AUTO,
    ChannelOption,
    FormatOption,
    FrameOption,
    SkipOption,
    ZOption,
    load_sound,
)
from somaseg.data.formats.registry import format_names

if TYPE_CHECKING:
    from rich.text import Text

    from somaseg.cli.console import Console
    from somaseg.data.audit import Audit
    from somaseg.data.faults import Fault

app = typer.Typer(
    name="data",
    no_args_is_help=True,
    help="Look at a data set, check it for faults, mend it, convert it between formats.",
)


READ_ONLY = ("images", "cells", "cellpose", "labelme", "yolo")
# What only reads says so when it is asked to write.
OutputFormat = StrEnum(  # type: ignore[misc]
    "OutputFormat", [name for name in format_names() if name not in READ_ONLY]
)
"""How annotations may be written."""


class Order(StrEnum):
    """Who has a pixel that several cells claim."""

    smallest_first = "smallest_first"
    largest_first = "largest_first"
    score = "score"


class Ending(StrEnum):
    """Files of label images."""

    tif = "tif"
    png = "png"


Data = Annotated[
    Path,
    typer.Argument(
        help="Folder with train.csv and train/, a COCO JSON and images/, images/ and labels/, or "
        "name.tif beside name_masks.tif; or the CSV or JSON itself.",
        show_default=False,
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images", help="Folder of the images, if they lie elsewhere.", show_default=False
    ),
]
NoImagesOption = Annotated[
    bool, typer.Option("--no-images", help="Only the annotations: do without the images.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def info(
    data: Data,
    format: FormatOption = AUTO,
    images: ImagesOption = None,
    no_images: NoImagesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Count and measure: images, cells of each class, their sizes and overlap."""
    from somaseg.cli.figures import figures, info_table
    from somaseg.data import load_dataset
    from somaseg.data.facts import measure
    from somaseg.data.fingerprint import summarise

    dataset = load_dataset(data, format.value, images, need_images=not no_images)
    facts = summarise(dataset, measure(dataset, decode=False))
    sizes = {f"{size.width}×{size.height}": size.images for size in facts.sizes}
    groups = len({sample.group for sample in dataset if sample.group is not None}) or None
    lacking = facts.images - sum(facts.pixel_types.values())
    pixels = Counter({**facts.pixel_types, **({"missing": lacking} if lacking else {})})
    if as_json:
        _print_json(
            {
                "source": dataset.source,
                "total": figures(facts.overall),
                "by_class": {name: figures(group) for name, group in facts.by_class.items()},
                "sizes": sizes,
                "pixels": dict(pixels.most_common()),
                "groups": groups,
            }
        )
        return
    console = _console()
    console.print(info_table(dataset.source, facts))
    for title, counts in (("size", sizes), ("pixels", dict(pixels.most_common()))):
        text = ", ".join(f"{kind} ({count} images)" for kind, count in list(counts.items())[:8])
        console.print(f"{title}: {text}{', …' if len(counts) > 8 else ''}")
    if groups is not None:
        console.print(f"groups: {groups}; images of one group share a fold")


@app.command()
def check(
    data: Data,
    format: FormatOption = AUTO,
    images: ImagesOption = None,
    no_images: NoImagesOption = False,
    as_json: JsonOption = False,
    limit: Annotated[
        int,
        typer.Option("--limit", min=0, help="Warnings of a kind to list; errors are all listed."),
    ] = 5,
) -> None:
    """Find every fault: of files, of rows, of masks. Exit code 1 if training would fail."""
    from somaseg.data.audit import audit

    report = audit(data, format.value, images, need_images=not no_images)
    if as_json:
        _print_json(
            {
                "source": report.dataset.source,
                "images": len(report.dataset),
                "errors": len(report.errors),
                "warnings": len(report.faults) - len(report.errors),
                "counts": report.counts,
                "faults": [
                    {"severity": fault.severity, **dataclasses.asdict(fault)}
                    for fault in report.faults
                ],
            }
        )
    else:
        _print_audit(report, limit)
    if report.errors:
        raise typer.Exit(1)


@app.command()
def convert(
    data: Data,
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    to: Annotated[OutputFormat, typer.Option("--to", help="Format to write.", show_default=False)],
    format: FormatOption = AUTO,
    images: ImagesOption = None,
    no_images: NoImagesOption = False,
    skip_faulty: SkipOption = False,
    order: Annotated[
        Order, typer.Option(help="For labels: which of overlapping cells has a shared pixel.")
    ] = Order.smallest_first,
    ending: Annotated[Ending, typer.Option(help="For labels: kind of file.")] = Ending.tif,
    channel: ChannelOption = None,
    frame: FrameOption = None,
    z: ZOption = None,
) -> None:
    """Write a data set in another format. Images are copied, never changed.

    Of stacks that were annotated plane by plane each plane becomes an OME-TIFF.
    """
    from somaseg.data.axes import Choice
    from somaseg.data.convert import write_dataset

    choice = Choice(channel, frame, z)
    dataset = load_sound(data, format.value, images, not no_images, skip_faulty, choice)
    loss = write_dataset(out, dataset, to.value, order.value, f".{ending.value}")
    cells = sum(len(sample.instances or ()) for sample in dataset)
    typer.echo(f"{out}: {len(dataset)} images, {cells} cells, as {to.value}")
    if loss.pixels:
        typer.echo(
            f"overlap: {loss.shared} pixels were claimed by several cells; each went to one "
            f"({order.value}), {loss.pixels} claims were dropped, {loss.hidden} cells vanished. "
            "The other formats keep overlap."
        )


@app.command("clean")
def clean_command(
    data: Data,
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    found: Annotated[
        Path | None,
        typer.Option(
            "--with",
            help="A finished run: also mend shifted and merged masks that its out-of-fold "
            "predictions disagree with.",
            show_default=False,
        ),
    ] = None,
    holes: Annotated[bool, typer.Option(help="Fill the holes of masks.")] = True,
    pieces: Annotated[
        float,
        typer.Option(min=0, max=1, help="Drop pieces below this share of a mask's largest; 0: no."),
    ] = 0.25,
    slivers: Annotated[
        int, typer.Option(min=0, help="Drop masks nowhere this many pixels wide; 0: no.")
    ] = 3,
    duplicates: Annotated[
        float, typer.Option(min=0.01, max=1, help="Of two above this IoU drop the smaller; 1: no.")
    ] = 0.5,
    shifts: Annotated[
        int, typer.Option(min=0, help="Move masks by up to this many pixels; 0: no.")
    ] = 8,
    merged: Annotated[bool, typer.Option(help="Cut masks around several cells apart.")] = True,
    confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Lowest score of predictions that may say so.")
    ] = 0.5,
    pictures: Annotated[
        int, typer.Option(min=0, help="Pictures, before and after, of changes of each kind.")
    ] = 12,
    format: FormatOption = AUTO,
    images: ImagesOption = None,
) -> None:
    """Write a copy of a data set with mended annotations, and say what was changed.

    The copy is of the same format, so that `somaseg train DATA --train-on COPY` trains on it and
    still scores against DATA. Faulty rows and images are left out, and named. OUT/changes.csv
    lists every change; OUT/changes/ shows some.
    """
    from somaseg.data.clean import CleanSettings, clean
    from somaseg.data.convert import write_dataset
    from somaseg.data.load import detect
    from somaseg.report.changes import draw_changes, write_changes
    from somaseg.runs.tuning import settled_out_of_fold

    dataset = load_sound(data, format.value, images, True, True)
    settings = CleanSettings(
        holes=holes,
        pieces=pieces,
        slivers=slivers,
        duplicates=duplicates,
        shifts=shifts,
        merged=merged,
        confidence=confidence,
    )
    mended, changes = clean(dataset, settings, settled_out_of_fold(found) if found else None)
    target = detect(data)[0].name if format is AUTO else format.value
    write_dataset(out, mended, target)
    write_changes(out / "changes.csv", changes)
    drawn = draw_changes(out / "changes", dataset, mended, changes, pictures)
    counts = Counter(change.kind for change in changes)
    listed = ", ".join(f"{kind}: {count}" for kind, count in counts.items()) or "nothing"
    typer.echo(f"{out}: {len(mended)} images; mended {listed}; {drawn} pictures in {out}/changes")


def _print_audit(report: "Audit", limit: int) -> None:
    from rich.table import Table

    console = _console()
    shown, listed = [], Counter[str]()
    for fault in report.faults:
        listed[fault.kind] += 1
        if fault.severity == "error" or listed[fault.kind] <= limit:
            shown.append(fault)
    if shown:
        table = Table(title=str(report.dataset.source), title_justify="left")
        for name in ("severity", "fault", "where", "image", "what"):
            table.add_column(name, overflow="fold")
        for fault in shown:
            table.add_row(*_fault_cells(fault))
        console.print(table)
    if len(shown) < len(report.faults):
        console.print(
            f"… and {len(report.faults) - len(shown)} more warnings; a higher --limit, or --json, "
            "lists them"
        )
    if report.faults:
        console.print(", ".join(f"{kind}: {count}" for kind, count in report.counts.items()))
    cells = sum(len(sample.instances or ()) for sample in report.dataset)
    verdict = "training would fail" if report.errors else "fit for training"
    console.print(
        f"{len(report.dataset)} images, {cells} cells read; {len(report.errors)} errors, "
        f"{len(report.faults) - len(report.errors)} warnings: {verdict}"
    )


def _console() -> "Console":
    """Return a console that does not break lines where they go to a file or a pipe."""
    from somaseg.cli.console import Console

    return Console()


def _fault_cells(fault: "Fault") -> "list[str | Text]":
    from rich.text import Text

    colour = "red" if fault.severity == "error" else "yellow"
    name = Path(fault.file).name
    where = f"{name} {fault.row}" if fault.row else name
    return [
        Text(fault.severity, style=colour),
        fault.kind,
        where,
        fault.image or "",
        fault.message,
    ]


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False))
