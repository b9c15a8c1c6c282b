"""``somaseg predict``: micrographs in, masks out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import TaskID

    from somaseg.data.types import Sample

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
            help="A run's folder or a model file; without, the one that comes with somaseg "
            "(neuronal cells in phase contrast).",
            show_default=False,
        ),
    ] = None,
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
) -> None:
    """Find the cells in micrographs.

    Writes OUT/labels/ID.tif (label images), OUT/predictions.json (COCO results with scores),
    OUT/submission.csv (the competition's) and OUT/overlays/ID.png.

    Images above 16 megapixels go through in bounded memory: their overlays are OUT/overlays/ID.tif,
    they are left out of submission.csv, and after a stop the same command goes on where it was.
    """
    from somaseg.predict.load import load_segmenter
    from somaseg.predict.outputs import check_outputs, segment_samples

    samples, sources = _gather(images)
    check_outputs(samples, out, sources)
    segmenter = load_segmenter(model, views, tile, overlap)
    with _Bars() as bars:
        found = segment_samples(segmenter, bars.track(samples), out, overlays, tell=bars.tell)
    typer.echo(f"{len(samples)} images, {found.total} cells: {out}")
    if found.large:
        names = ", ".join(found.large)
        typer.echo(f"left out of submission.csv, as they are large: {names}")
        if segmenter.rescorer is not None:
            typer.echo(f"not rescored, as the run's other images are: {names}")


class _Bars:
    """Progress of the images, and of the tiles of a large one."""

    def __init__(self) -> None:
        from somaseg.cli.progress import Bars

        self.progress = Bars()
        self.tiles: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def track(self, samples: "list[Sample]") -> "Iterator[Sample]":
        """Hand out the images; what has been handed out before is done."""
        task = self.progress.add_task("images", total=len(samples))
        for sample in samples:
            yield sample
            self.progress.advance(task)

    def tell(self, name: str, done: int, total: int) -> None:
        """Tiles done of a large image."""
        if name not in self.tiles:
            self.tiles[name] = self.progress.add_task(f"tiles of {name}", total=total)
        self.progress.update(self.tiles[name], completed=done)


def _gather(paths: list[Path]) -> "tuple[list[Sample], list[Path]]":
    """Read the images of files, folders and data sets, whose ids must differ.

    Returns:
        the images, and the files that they were read from.
    """
    from somaseg.data.load import read_dataset
    from somaseg.errors import SomasegError

    samples: dict[str, Sample] = {}
    sources = list(paths)
    for path in paths:
        reading = read_dataset(path)
        reading.faults.raise_errors()
        sources += set(reading.files.values())
        for sample in reading.dataset:
            if sample.id in samples:
                raise SomasegError(
                    f"{sample.image_path} and {samples[sample.id].image_path}: "
                    f"both are called {sample.id!r}; predict them into different folders"
                )
            samples[sample.id] = sample
    return list(samples.values()), sources
