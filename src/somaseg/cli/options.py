"""Options that several commands share: one name, one meaning, one help text."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from somaseg.data.formats.registry import format_names

if TYPE_CHECKING:
    from somaseg.data.types import Dataset

ANNOTATED = "Annotated images: a competition folder, COCO JSON, or images with label images."

AnnotatedArgument = Annotated[Path, typer.Argument(help=ANNOTATED, show_default=False)]

# Made of what is installed: formats of other packages stand in the help like ours.
InputFormat = StrEnum("InputFormat", ["auto", *format_names()])  # type: ignore[misc]
"""How annotations may come."""

SkipOption = Annotated[
    bool,
    typer.Option("--skip-faulty", help="Leave faulty rows and images out, and name them."),
]

AUTO = InputFormat("auto")

FormatOption = Annotated[
    InputFormat, typer.Option("--format", help="What DATA is, if it cannot be told by itself.")
]

ImagesOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the images, if they lie elsewhere.", show_default=False),
]

ClassWeightsOption = Annotated[
    str | None,
    typer.Option(
        help="Weight of each class in the score, e.g. cort=320,shsy5y=155,astro=131.",
        show_default=False,
    ),
]

FoldsOption = Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")]

StepsOption = Annotated[
    int | None, typer.Option(help="Training steps; without, the preset's.", show_default=False)
]

FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Model file, ours or of another library, whose weights to start from.",
        show_default=False,
    ),
]

FoldViewsOption = Annotated[
    str, typer.Option(help="Test-time views of out-of-fold images: none, flips, all.")
]


def _use_device(name: str | None) -> str | None:
    # Checked where a network is placed: PyTorch takes seconds to import. Children inherit it.
    if name is not None:
        os.environ["SOMASEG_DEVICE"] = name
    return name


DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where networks run: auto (a CUDA GPU if there is one), cpu, cuda:N or mps; without, "
        "what SOMASEG_DEVICE says, else auto.",
        callback=_use_device,
        show_default=False,
    ),
]


def load_sound(
    data: Path, format: str, images: Path | None, need_images: bool, skip_faulty: bool
) -> "Dataset":
    """Load a data set; with ``skip_faulty`` name what is left out of it, on standard error.

    Raises:
        SomasegError: faults, unless they may be skipped; nothing sound is left.
    """
    from somaseg.data import read_dataset
    from somaseg.errors import SomasegError

    reading = read_dataset(data, format, images, need_images)
    if not skip_faulty:
        reading.faults.raise_errors()
        return reading.dataset
    dataset, errors = reading.sound(), reading.faults.errors
    for fault in errors:
        typer.echo(f"left out: {fault}", err=True)
    if not len(dataset):
        raise SomasegError(f"{data}: nothing sound in it; `somaseg data check` tells more")
    return dataset
