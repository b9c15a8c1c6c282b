"""``somaseg data eda``: a page that shows what a data set is like."""

from pathlib import Path
from typing import Annotated

import typer

from somaseg.cli.data import Data, ImagesOption, NoImagesOption
from somaseg.cli.options import AUTO, FormatOption, SkipOption, load_sound


def eda(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")] = Path(
        "eda.html"
    ),
    format: FormatOption = AUTO,
    images: ImagesOption = None,
    no_images: NoImagesOption = False,
    skip_faulty: SkipOption = False,
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="Pictures to show of each class.")
    ] = 3,
) -> None:
    """Show a data set on one HTML page: examples, sizes, density, gray values, overlap."""
    from somaseg.report.eda import write_eda

    dataset = load_sound(data, format.value, images, not no_images, skip_faulty)
    fingerprint = write_eda(dataset, out, examples=examples)
    typer.echo(f"{out}: {fingerprint.images} images, {fingerprint.overall.cells} cells")
