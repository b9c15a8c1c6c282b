"""The command line: parse, call, print. Heavy imports wait inside the commands."""

import sys
from typing import Annotated

import typer

from somaseg import __version__
from somaseg.cli.cellpose import import_cellpose
from somaseg.cli.data import app as data_app
from somaseg.cli.demo import demo
from somaseg.cli.eda import eda
from somaseg.cli.ensemble import ensemble
from somaseg.cli.evaluate import evaluate
from somaseg.cli.fit import fit
from somaseg.cli.ledger import app as ledger_app
from somaseg.cli.models import models
from somaseg.cli.predict import predict
from somaseg.cli.search import search
from somaseg.cli.submit import submit
from somaseg.cli.train import train
from somaseg.cli.tune import tune

app = typer.Typer(
    name="somaseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Single cells in micrographs: from annotated images to masks you can defend.

A first look:  somaseg demo

Your images:   somaseg predict my_images/ --out masks/

Your own model:  somaseg fit DATA --budget 2h --out RUN, then
somaseg predict new_images/ --model RUN --out masks/
""",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


app.command()(demo)
app.command()(predict)
app.command()(fit)
app.command()(train)
app.command()(tune)
app.command()(search)
app.command()(models)
app.command()(ensemble)
app.command()(import_cellpose)
app.command()(evaluate)
app.command()(submit)
data_app.command()(eda)
app.add_typer(data_app)
app.add_typer(ledger_app)


def main() -> None:
    """Run the command line; what the user can mend is told in one line, exit code 2."""
    from somaseg.errors import SomasegError

    try:
        app()
    except SomasegError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on where it was", err=True)
        sys.exit(130)
