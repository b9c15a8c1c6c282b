"""``somaseg predict``: micrographs in, masks out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from somaseg.data.types import Sample


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
    views: Annotated[
        str,
        typer.Option(
            "--tta", help="Test-time views that are averaged: none, flips (4×), all (8× the time)."
        ),
    ] = "none",
    tile: Annotated[
        int, typer.Option(min=128, help="Larger images go through in tiles of this side.")
    ] = 1024,
    overlays: Annotated[bool, typer.Option(help="Also draw the outlines over the images.")] = True,
) -> None:
    """Find the cells in micrographs.

    Writes OUT/labels/ID.tif (label images), OUT/predictions.json (COCO results with scores),
    OUT/submission.csv (the competition's) and OUT/overlays/ID.png.
    """
    from rich.progress import track

    from somaseg.experiments.load import load_segmenter
    from somaseg.experiments.outputs import segment_samples

    samples = _gather(images)
    segmenter = load_segmenter(model, views, tile)
    found = segment_samples(segmenter, track(samples, description="predict"), out, overlays)
    count = sum(len(cells) for cells in found.values())
    typer.echo(f"{len(found)} images, {count} cells: {out}")


def _gather(paths: list[Path]) -> "list[Sample]":
    """Read the images of files, folders and data sets; ids must differ."""
    from somaseg.data import load_dataset
    from somaseg.errors import SomasegError

    samples: dict[str, Sample] = {}
    for path in paths:
        for sample in load_dataset(path):
            if sample.id in samples:
                raise SomasegError(
                    f"{sample.image_path} and {samples[sample.id].image_path}: "
                    f"both are called {sample.id!r}; predict them into different folders"
                )
            samples[sample.id] = sample
    return list(samples.values())
