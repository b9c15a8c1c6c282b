"""Options that several commands share: one name, one meaning, one help text."""

import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from somaseg.data.formats.registry import format_names

if TYPE_CHECKING:
    from somaseg.data.axes import Choice
    from somaseg.data.faults import Fault
    from somaseg.data.types import Dataset
    from somaseg.runs.sources import DataConfig

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


ChannelOption = Annotated[
    str | None,
    typer.Option(
        "--channel",
        metavar="NAME|INDEX",
        help="Channel of images that have several, by name or from 0.",
        show_default=False,
    ),
]

ChannelsOption = Annotated[
    str | None,
    typer.Option(
        "--channels",
        metavar="A,B,…",
        help="Several channels that the model looks at together, by name or from 0: actin,dapi. "
        "The model remembers them.",
        show_default=False,
    ),
]

FrameOption = Annotated[
    int | None,
    typer.Option(
        "--frame",
        min=0,
        help="Frame of time series, from 0; without, each frame is an image.",
        show_default=False,
    ),
]

ZOption = Annotated[
    str | None,
    typer.Option(
        "--z",
        metavar="max|INDEX",
        help="Slice of z-stacks, from 0, or their maximum over z; without, each slice is an image.",
        show_default=False,
    ),
]


def _setting(variable: str) -> Callable[[Any], Any]:
    """Leave an option in the environment, where children inherit it.

    It is checked where a network is placed: PyTorch takes seconds to import.
    """

    def use(value: Any) -> Any:
        if value is not None:
            os.environ[variable] = str(value)
        return value

    return use


DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where networks run: auto (a CUDA GPU if there is one), cpu, cuda:N or mps; without, "
        "what SOMASEG_DEVICE says, else auto.",
        callback=_setting("SOMASEG_DEVICE"),
        show_default=False,
    ),
]


ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS|FILE",
        help="Run the tasks on a Dask cluster: the address of its scheduler (tcp://HOST:8786), or "
        "a YAML file of a SLURM, PBS, LSF or SGE queue; pip install 'somaseg[cluster]'.",
        show_default=False,
    ),
]


EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="What runs networks: torch, openvino (pip install 'somaseg[openvino]') or onnxruntime "
        "('somaseg[onnx]'), both on the processor; without, what SOMASEG_ENGINE says, else torch.",
        callback=_setting("SOMASEG_ENGINE"),
        show_default=False,
    ),
]


PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="In which networks compute: auto (half precision on a GPU, and on a processor that "
        "has bfloat16 if the model's file says that it keeps the score), float32, bfloat16, or "
        "int8 (--engine openvino, with a file that `somaseg calibrate` wrote); without, what "
        "SOMASEG_PRECISION says, else auto.",
        callback=_setting("SOMASEG_PRECISION"),
        show_default=False,
    ),
]


BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch",
        min=1,
        help="Views and tiles of one shape that go through a network at once; without, what "
        "SOMASEG_BATCH says, else 8 on a GPU and 1 on a processor, where more bring nothing.",
        callback=_setting("SOMASEG_BATCH"),
        show_default=False,
    ),
]


def load_sound(
    data: Path,
    format: str,
    images: Path | None,
    need_images: bool,
    skip_faulty: bool,
    choice: "Choice | None" = None,
) -> "Dataset":
    """Load a data set; with ``skip_faulty`` name what is left out of it, on standard error.

    Raises:
        SomasegError: faults, unless they may be skipped; nothing sound is left.
    """
    from somaseg.data.load import load_dataset, sound_part

    if not skip_faulty:
        return load_dataset(data, format, images, need_images, choice=choice)
    dataset, left_out = sound_part(data, format, images, need_images, choice)
    tell_left_out(left_out)
    return dataset


def stack_choice(
    channel: str | None, channels: str | None, frame: int | None, z: str | None
) -> "Choice":
    """What of stacks is wanted, as the four options say.

    Raises:
        SomasegError: both of the first two, or what cannot be.
    """
    from somaseg.data.axes import Choice

    several = () if channels is None else tuple(name.strip() for name in channels.split(","))
    return Choice(channel, frame, z, several)


def told_config(
    data: Path,
    format: str,
    images: Path | None,
    skip_faulty: bool,
    choice: "Choice | None" = None,
) -> "DataConfig":
    """Where a run's images are; what is left out of them is named on standard error."""
    from somaseg.data.load import sound_part
    from somaseg.runs.sources import DataConfig

    if skip_faulty:
        tell_left_out(sound_part(data, str(format), images, choice=choice)[1])
    return DataConfig.at(data, format, images, skip_faulty, choice)


def tell_left_out(faults: "Iterable[Fault]") -> None:
    """Name on standard error what is left out, a line each."""
    for fault in faults:
        typer.echo(f"left out: {fault}", err=True)
