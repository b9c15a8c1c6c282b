"""``somaseg import``: a model file of another library becomes a somaseg model."""

from pathlib import Path
from typing import Annotated

import typer


def import_(
    file: Annotated[
        str,
        typer.Argument(
            help="A checkpoint of detectron2, MMDetection, torchvision, "
            "segmentation-models-pytorch or Cellpose; or a name that Cellpose knows: cyto3, cpsam, "
            "... (downloaded once).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file to write.")] = Path(
        "imported.safetensors"
    ),
    library: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="torchvision, detectron2, mmdet, cellpose or smp; found by the names of its "
            "tensors otherwise.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Its config: detectron2's .yaml or MMDetection's .py, read and not run; without, "
            "that in the file, or as the library's published ones.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Names of its classes: astro,cort,shsy5y.", show_default=False),
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Diameter of the cells in your images, in pixels. For Cellpose without it, that "
            "of the cells which the model was trained on.",
            show_default=False,
        ),
    ] = None,
    chan: Annotated[
        int,
        typer.Option(
            min=0,
            help="As Cellpose's: channel of the cells, 1 (red) or higher; 0: images are gray.",
        ),
    ] = 0,
    chan2: Annotated[
        int,
        typer.Option(
            min=0, help="As Cellpose's: channel of the nuclei, 1 (red) or higher; 0: there is none."
        ),
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a field of the model's config: --set detections=1000",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a model file of another library ours: somaseg predict IMAGES --model OUT.

    It finds what it would find there. Nothing in the file is executed. What is read, and what can
    be done with the rest: docs/model_files.md.
    """
    import yaml

    from somaseg.errors import SomasegError
    from somaseg.models.foreign.convert import import_model

    if out.suffix != ".safetensors":
        raise SomasegError(f"--out {out}: must end in .safetensors")
    if chan2 and not chan:
        raise SomasegError("--chan2: of gray images there are no nuclei; give --chan, too")
    channels = [str(number - 1) for number in (chan, chan2) if number]
    if len(set(channels)) < len(channels):
        raise SomasegError(f"--chan2 {chan2}: the channel of the cells; give another, or none")
    fields = {}
    for change in settings or []:
        name, equals, text = change.partition("=")
        if not equals:
            raise SomasegError(f"--set {change}: write it as FIELD=VALUE")
        fields[name.removeprefix("model.")] = yaml.safe_load(text)
    names = [name.strip() for name in classes.split(",")] if classes else []
    model, found, notes = import_model(*(file, library, config, names, diameter, fields, channels))
    model.save(out)
    for note in notes:
        typer.echo(note)
    typer.echo(
        f"{out}: {found}, {model.parameter_count / 1e6:.1f} M parameters, "
        f"for cells of {model.info.diameter:.3g} pixels, classes {', '.join(model.names)}"
    )
