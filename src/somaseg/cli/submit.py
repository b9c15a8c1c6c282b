"""``somaseg submit``: check predictions and write the competition's submission."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from somaseg.cli.data import Order

if TYPE_CHECKING:
    from somaseg.data.types import Dataset


def submit(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="Folder that `somaseg predict` wrote, COCO results, a folder of label images, or "
            "a submission to check.",
            show_default=False,
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            "--images",
            help="The images that must be there: their folder, or a data set.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="CSV to write.")] = Path("submission.csv"),
    overlaps: Annotated[
        Order | None,
        typer.Option(
            help="Give each pixel that several instances claim to the first in this order; "
            "without, they are refused.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check that every image is there, runs are sorted and inside and no pixel is shared; write.

    Nothing is written unless all is well.
    """
    from somaseg.data.formats.submission import write_submission
    from somaseg.data.load import read_dataset
    from somaseg.scoring.inputs import read_predictions

    reading = read_dataset(images)
    reading.faults.raise_errors()
    dataset = reading.dataset
    if predictions.name.lower().endswith((".csv", ".csv.gz")) and overlaps is None:
        _check_rows(predictions, dataset)
    # Their annotations, if there are any, have no say here.
    images_only = [dataclasses.replace(sample, instances=None) for sample in dataset]
    settled = read_predictions(
        predictions, dataclasses.replace(dataset, samples=tuple(images_only))
    )
    if overlaps is not None:
        settled = {name: some.disjoint(overlaps.value)[0] for name, some in settled.items()}
    rows = write_submission(out, settled, dataset.ids)
    instances = sum(len(some) for some in settled.values())
    typer.echo(f"{out}: {len(settled)} images, {instances} instances, {rows} rows")


def _check_rows(path: Path, dataset: "Dataset") -> None:
    """Look at a submission's rows as they stand: reading them into instances would sort them."""
    from somaseg.data.formats.submission import check_submission, describe, read_rows
    from somaseg.errors import SomasegError

    sizes = {sample.id: sample.size for sample in dataset}
    problems = check_submission(read_rows(path), sizes, dataset.ids)
    if problems:
        raise SomasegError(describe(path, problems, "not a valid submission"))
