"""``somaseg models``: what there is to train."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from somaseg.models.catalogue import Measured


def models(
    name: Annotated[
        str | None,
        typer.Argument(help="A preset: print its whole config, explained.", show_default=False),
    ] = None,
    card: Annotated[
        bool,
        typer.Option(
            "--card",
            help="NAME is a model file or a run; without it, the model that comes with somaseg: "
            "print its data, licence, score, members and settings.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """List the model families and their presets: size, memory, and what each is good for.

    With a NAME, print that preset as YAML with every field explained: somaseg models flow_lite >
    my.yaml, change my.yaml, somaseg train DATA --model my.yaml.
    """
    from rich.table import Column, Table

    from somaseg.cli.console import Console
    from somaseg.models.catalogue import describe_preset, list_families, list_presets

    if card:
        from somaseg.predict.load import describe_model

        facts = describe_model(name)
        if as_json:
            typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
        else:
            import yaml

            typer.echo(
                yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=100).rstrip()
            )
        return
    if name is not None:
        text = describe_preset(name)
        if as_json:
            import yaml

            text = json.dumps(yaml.safe_load(text), ensure_ascii=False, indent=1)
        typer.echo(text.rstrip())
        return
    families, presets = list_families(), list_presets()
    if as_json:
        listed = {"families": families, "presets": [preset.model_dump() for preset in presets]}
        typer.echo(json.dumps(listed, ensure_ascii=False, indent=1))
        return
    console = Console()
    table = Table("family", "what it is", box=None)
    for family, about in families.items():
        table.add_row(family, about)
    console.print(table, "")
    # A name that is cut cannot be typed; in a narrow terminal the other columns give way.
    whole = Column("preset", no_wrap=True, min_width=max(len(p.name) for p in presets))
    heads = ("family", "steps", "param.", "memory", "good for")
    table = Table(whole, *heads, box=None, pad_edge=False)
    for preset in presets:
        size, memory = _sizes(preset.measured)
        table.add_row(preset.name, preset.family, str(preset.steps), size, memory, preset.about)
    console.print(table, "")
    console.print("Memory: peak in training. `somaseg models NAME` explains every field.")


def _sizes(measured: "Measured | None") -> tuple[str, str]:
    if measured is None:
        return "not measured", "not measured"
    return f"{measured.parameters / 1e6:.1f} M", f"{measured.train_bytes / 2**30:.1f} GiB"
