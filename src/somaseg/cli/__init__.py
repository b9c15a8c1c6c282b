"""The command line: parse, call, print. Heavy imports wait inside the commands."""

import errno
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from somaseg import __version__
from somaseg.cli.calibrate import calibrate
from somaseg.cli.data import app as data_app
from somaseg.cli.demo import demo
from somaseg.cli.distill import distill
from somaseg.cli.eda import eda
from somaseg.cli.ensemble import ensemble
from somaseg.cli.evaluate import evaluate
from somaseg.cli.export import export
from somaseg.cli.fit import fit
from somaseg.cli.import_ import import_
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


_SYSTEM = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EIO, errno.ELOOP, errno.ENOTDIR}
"""What a file system refuses whatever the program does: told in one line, as no bug of ours."""


STANDS = {
    "train": "finished folds stand, begun ones go on at their last checkpoint: run the same "
    "command again",
    "search": "finished trials stand, begun ones go on at their last checkpoint: run the same "
    "command again",
    "distill": "what the teacher found and the training's last checkpoint stand: run the same "
    "command again to go on",
    "demo": "what is trained and segmented stands: run the same command again to go on",
    "tune": "the run can be used as it was, and its folds stand: run the same command again",
    "ensemble": "the members are as they were: run the same command again to join them anew",
    **dict.fromkeys(
        ("evaluate", "models", "info", "check"), "nothing was written: run the same command again"
    ),
    **dict.fromkeys(
        ("submit", "import", "ledger", "eda", "calibrate"),
        "the file that it writes is the old one or the new one: run the same command again",
    ),
    "export": "exported files may be missing or cut off: run the same command again",
    **dict.fromkeys(
        ("convert", "clean"),
        "files that are written are whole, but not all are there: run the same command again",
    ),
}
"""What each command leaves that does not tell it by itself, as `fit` and `predict` do."""


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
app.command("import")(import_)
app.command()(distill)
app.command()(export)
app.command()(calibrate)
app.command()(evaluate)
app.command()(submit)
data_app.command()(eda)
app.add_typer(data_app)
app.add_typer(ledger_app)


def main() -> None:
    """Run the command line; what the user can mend is told in one line, exit code 2."""
    from somaseg.errors import SomasegError

    for stream in (sys.stdout, sys.stderr):
        # A pipe or an old terminal may lack characters that names are made of.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    # What is wrong with a file is told in one line, not in one for each tag.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        _escaped(typer.main.get_command(app))()
    except SomasegError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is None or error.errno not in _SYSTEM:
            raise
        typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
        sys.exit(2)
    except SystemExit as end:
        stop = end.__context__ and end.__context__.__cause__
        if isinstance(stop, KeyboardInterrupt):  # else the command has told it
            typer.echo(f"stopped; {_stands(sys.argv[1:])}", err=True)
        raise


def _stands(words: Sequence[str]) -> str:
    """What a command that was stopped leaves, and how to go on."""
    name = next((word for word in words if word in STANDS), "")
    return STANDS.get(name, "what is written is whole: run the same command again to go on")


def _escaped(command: Any) -> Any:
    """Keep brackets in help texts from being taken for markup: pip install 'somaseg[xgboost]'."""
    from rich.markup import escape

    for part in (command, *command.params):
        if part.help:
            part.help = escape(part.help)
    for sub in getattr(command, "commands", {}).values():
        _escaped(sub)
    return command
