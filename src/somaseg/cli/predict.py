"""``somaseg predict``: micrographs in, masks out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from somaseg.cli.options import (
    BatchOption,
    ChannelOption,
    ChannelsOption,
    ClusterOption,
    DeviceOption,
    EngineOption,
    FrameOption,
    PrecisionOption,
    ZOption,
    stack_choice,
)

if TYPE_CHECKING:
    from rich.progress import TaskID

    from somaseg.predict.segmenter import Segmenter
    from somaseg.runs.predicting import Request

VIEWS_HELP = (
    "Test-time views that are averaged: none, flips (4× the time), all (8×: also right angles), "
    "scales (3×), flips+scales (12×)."
)


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(help="Images, folders of images, or a data set.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path(
        "masks"
    ),
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="A run's folder, a model file, or the name of a model that comes with somaseg; "
            "without, neurons-phase-contrast.",
            show_default=False,
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Take the model's fast sibling, one network in place of an ensemble: "
            "MODEL-fast.safetensors beside it (`somaseg distill` makes one).",
        ),
    ] = False,
    views: Annotated[str | None, typer.Option("--tta", help=VIEWS_HELP, show_default=False)] = None,
    tile: Annotated[
        int,
        typer.Option(min=128, help="Larger images go through in tiles of this side, in pixels."),
    ] = 1024,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Least overlap of tiles in pixels; without, eight of the model's cell diameters.",
            show_default=False,
        ),
    ] = None,
    overlays: Annotated[bool, typer.Option(help="Also draw the outlines over the images.")] = True,
    write: Annotated[
        str,
        typer.Option(
            help="What else to write, of: cells (OUT/cells.csv, a table of measurements), rois "
            "(OUT/rois/ID.zip for Fiji), geojson (OUT/geojson/ID.geojson for QuPath), page "
            "(OUT/report.html), ome-tiff (OUT/ome-tiff/ID.ome.tif, labels with the pixel size), "
            "ome-zarr (OUT/ome-zarr/ID.ome.zarr, image and labels).",
        ),
    ] = "cells,page",
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="Side of a pixel in µm: the table has sizes in µm, too; without, what the images' "
            "files say.",
            show_default=False,
        ),
    ] = None,
    channel: ChannelOption = None,
    channels: ChannelsOption = None,
    frame: FrameOption = None,
    z: ZOption = None,
    diameter: Annotated[
        str | None,
        typer.Option(
            metavar="PX|auto",
            help="Diameter of the cells in pixels, where it is not that of the model's images: "
            "they are scaled by it. auto: estimated from each image.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Images that are segmented at once; without, as many as there are cores. With "
            "--cluster, tasks at a time.",
            show_default=False,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="K/N",
            help="Do every N-th image only, from the K-th: for the tasks of a cluster, which share "
            "OUT. The same command without it then writes the tables.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    batch: BatchOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Find the cells in micrographs.

    Writes OUT/labels/ID.tif (label images), OUT/predictions.json (COCO results with scores),
    OUT/submission.csv (the competition's), OUT/overlays/ID.png and OUT/images.json (their files);
    OUT/cells.csv, OUT/report.html and whatever --write names.

    Each frame and slice of a stack is an image of its own, called NAME_t000_z00; --frame and --z
    choose. Of several channels a model takes those that it was trained on, by their names; where
    they are called otherwise, or the model is of gray images, choose with --channel or --channels.

    Images that cannot be read are left out and named at the end; the exit code is then 1. After a
    stop the same command goes on: images whose results stand are not done again. Images above 16
    megapixels go through in bounded memory, and their overlays are OUT/overlays/ID.tif.
    """
    from somaseg.cli.sources import gather
    from somaseg.errors import SomasegError
    from somaseg.folders import hold
    from somaseg.predict.load import find_model
    from somaseg.predict.outputs import check_outputs, segment_samples
    from somaseg.predict.shards import hold_shard
    from somaseg.runs.predicting import Request

    part = _part(shard)
    if cluster is not None and shard is not None:
        raise SomasegError("--shard: leave it out; --cluster deals the images itself")
    more = tuple(filter(None, (name.strip() for name in write.split(","))))
    asked = stack_choice(channel, channels, frame, z)
    request = Request(
        model=None if model is None and not fast else str(find_model(model, fast).absolute()),
        views=views,
        tile=tile,
        overlap=overlap,
        diameter=diameter,
        overlays=overlays,
        more=more,
        pixel_size=pixel_size,
    )
    segmenter = request.segmenter()
    given = gather(images, segmenter.choice_for(asked))
    check_outputs(given.samples, out, overlays, given.sources, more=more, pixel_size=pixel_size)
    mine = given.samples[part[0] - 1 :: part[1]]
    try:
        bars = _Bars(len(mine))
        with hold(out) if part == (1, 1) else hold_shard(out, part), bars:
            if cluster is not None:
                _on_cluster(cluster, request.of(mine), segmenter, out, jobs, bars)
            found = segment_samples(
                segmenter,
                given.samples,
                out,
                overlays,
                tell=bars.tell,
                done=bars.done if cluster is None else None,
                workers=jobs,
                shard=part,
                more=more,
                pixel_size=pixel_size,
            )
    except KeyboardInterrupt:
        typer.echo(
            f"stopped: results of {bars.finished} of {len(mine)} images stand in {out}; the same "
            "command goes on with the others",
            err=True,
        )
        raise typer.Exit(130) from None
    again = len(mine) - len(found.done) - len(found.failed)
    typer.echo(f"{len(found.cells)} images, {found.total} cells: {out}")
    if again > 0 and cluster is None:
        typer.echo(f"{again} of them stood already, from the same model and options")
    if found.diameters and diameter == "auto":
        taken = sorted(found.diameters.values())
        middle = taken[len(taken) // 2]
        typer.echo(f"diameters taken: {taken[0]:.0f} … {taken[-1]:.0f} px, half below {middle:.0f}")
    if part != (1, 1):
        typer.echo("once all shards are done, the same command without --shard writes the tables")
    left = [*given.left_out, *found.failed.values()]
    for line in given.ignored:
        typer.echo(f"not looked at: {line}", err=True)
    empty = sum(count == 0 for count in found.cells.values())
    if 2 * empty > len(found.cells):
        typer.echo(
            f"note: no cell found in {empty} of {len(found.cells)} images; is the model of such "
            "images (--model), and are their cells as large as it knows them (--diameter)?",
            err=True,
        )
    for line in given.notes:
        typer.echo(f"note: {line}", err=True)
    for line in left:
        typer.echo(f"left out: {line}", err=True)
    if left:
        raise typer.Exit(1)


def _on_cluster(
    cluster: str,
    request: "Request",
    segmenter: "Segmenter",
    out: Path,
    jobs: int | None,
    bars: "_Bars",
) -> None:
    """Have the images done by tasks on a cluster."""
    from somaseg.runs.execute import executor
    from somaseg.runs.predicting import predict_by_tasks

    folders = {Path(image.path).parent for image in request.images if image.path is not None}
    with executor(cluster, out, [request.model, *sorted(folders)]) as found:
        room = jobs or found.jobs
        predict_by_tasks(request, segmenter, out, found.execute, room, bars.of_tasks)


def _part(text: str | None) -> tuple[int, int]:
    """Shard K of N, from ``K/N``."""
    from somaseg.data.tables import whole_number
    from somaseg.errors import SomasegError

    if text is None:
        return 1, 1
    k, _, n = text.partition("/")
    part, parts = whole_number(k) or 0, whole_number(n) or 0
    if not 1 <= part <= parts:
        raise SomasegError(f"--shard {text}: give K/N, K from 1 to N, as 2/10")
    return part, parts


class _Bars:
    """Progress of the images, and of the tiles of a large one."""

    def __init__(self, images: int) -> None:
        from somaseg.cli.progress import Bars

        self.progress = Bars()
        self.images = self.progress.add_task("images", total=images)
        self.tiles: dict[str, TaskID] = {}
        self.by_task: dict[str, int] = {}
        self.finished = 0
        self.tiles_of: dict[str, dict[str, tuple[int, int]]] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def done(self, name: str) -> None:
        """An image is done."""
        self.finished += 1
        self.progress.update(self.images, completed=self.finished)

    def of_tasks(self, name: str, event: dict[str, Any]) -> None:
        """A task has told something."""
        if "note" in event:
            self.progress.console.print(f"{name}: {event['note']}")
        if event.get("stage") == "images":
            self.by_task[name] = event["done"]
            self.finished = sum(self.by_task.values())
            self.progress.update(self.images, completed=self.finished)
        if event.get("stage") == "tiles":
            parts = self.tiles_of.setdefault(event["image"], {})
            parts[name] = event["done"], event["total"]
            done, total = map(sum, zip(*parts.values(), strict=True))
            self.tell(event["image"], done, total)

    def tell(self, name: str, done: int, total: int) -> None:
        """Tiles done of a large image."""
        if name not in self.tiles:
            self.tiles[name] = self.progress.add_task(f"tiles of {name}", total=total)
        self.progress.update(self.tiles[name], completed=done, total=total)
