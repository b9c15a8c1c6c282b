"""``somaseg import-cellpose``: a Cellpose model becomes a somaseg model."""

from pathlib import Path
from typing import Annotated

import typer


def import_cellpose(
    weights: Annotated[
        str,
        typer.Argument(
            help="A Cellpose model's file, or a name that Cellpose knows: cyto3, livecell_cp3, "
            "cpsam, ... (downloaded once).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file to write.")] = Path(
        "cellpose.safetensors"
    ),
    diameter: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Diameter of the cells in your images, in pixels; without, that of the cells "
            "which the model was trained on.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str, typer.Option("--class", help="What to call the cells.")] = "cell",
) -> None:
    """Make a Cellpose model a somaseg model: somaseg predict IMAGES --model OUT.

    It gives the masks that Cellpose gives. To train it further on your own cells, see
    `somaseg train --model cellpose_cyto3` and docs/cellpose.md.
    """
    from somaseg.errors import SomasegError
    from somaseg.models.cellpose.convert import import_cellpose

    if out.suffix != ".safetensors":
        raise SomasegError(f"--out {out}: must end in .safetensors")
    model = import_cellpose(weights, diameter, name)
    model.save(out)
    typer.echo(
        f"{out}: {model.parameter_count / 1e6:.1f} M parameters, "
        f"for cells of {model.info.diameter:.3g} pixels"
    )
