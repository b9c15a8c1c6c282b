"""``somaseg calibrate``: a model made ready for lower precision, and what that costs."""

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    data: Annotated[
        Path,
        typer.Argument(
            help="Images such as will be predicted: a folder of them, or any data set. Annotated "
            "ones are scored.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file to write.")] = Path(
        "calibrated.safetensors"
    ),
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="A run's folder or a model file; without, the model that comes with somaseg.",
            show_default=False,
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            help="Quantise the networks to int8 for `predict --engine openvino --precision int8`; "
            "needs somaseg[openvino,int8]. Without, only bfloat16 is tried."
        ),
    ] = True,
) -> None:
    """Make a model ready for lower precision on your images, and say what that costs.

    Networks are quantised to int8 on 12 images, and 8 others are segmented in float32, bfloat16
    (where the processor has it) and int8. Printed, and kept in the file: the score where there are
    annotations; else how far the cells are those of float32.

    `predict --precision auto` takes bfloat16 with the file written here if that kept the score.
    """
    from rich.table import Table

    from somaseg.cli.console import Console
    from somaseg.data.load import load_dataset
    from somaseg.files import check_apart
    from somaseg.models.bundle import write_bundle
    from somaseg.predict.load import find_model, read_model
    from somaseg.runs.calibrating import calibrate as run

    source = find_model(model)
    check_apart([source, data], [out])
    made, rows = run(
        read_model(source), load_dataset(data), int8, lambda text: typer.echo(text, err=True)
    )
    write_bundle(out, made)
    console = Console()
    table = Table("precision", "engine", "CPU s an image", "F1 with float32", "score", box=None)
    for row in rows:
        score = "not annotated" if row.score is None else f"{row.score:.4f}"
        table.add_row(
            *(row.precision, row.engine, f"{row.seconds:.2f}", f"{row.agreement:.3f}", score)
        )
    console.print(table)
    typer.echo(out)
