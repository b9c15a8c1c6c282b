"""``somaseg export``: the networks of a model for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ExportFormat(StrEnum):
    """What networks are written as."""

    onnx = "onnx"
    openvino = "openvino"
    torchscript = "torchscript"


def export(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A model file or a run; without, the model that comes with somaseg.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[ExportFormat, typer.Option("--to", help="Format.")] = ExportFormat.onnx,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new or empty folder.")] = Path(
        "exported"
    ),
) -> None:
    """Write the networks of a model for other programs.

    Each network is a file, OUT/MEMBER-FOLD.onnx (.xml and .bin, .pt). OUT/model.json, whose text
    stands in each of them, too, under `somaseg`, says what goes in and comes out, and holds
    configs, classes, views, way of joining and tuned settings. Decoding is not in them: they give
    maps, of two-stage models (rcnn) the features of the pyramid only.

    `somaseg predict --engine` needs no exported file.
    """
    from somaseg.predict.export import export_networks
    from somaseg.predict.load import read_model

    for path in export_networks(read_model(model), out, to.value):
        typer.echo(path)
