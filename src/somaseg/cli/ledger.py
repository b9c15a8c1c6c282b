"""``somaseg ledger``: all runs in one table, and whether CV and the leaderboard agree."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from somaseg.cli.console import Console
    from somaseg.runs.ledger import Board, Entry, Ledger
    from somaseg.scoring.agreement import Agreement


class _ListByDefault(TyperGroup):
    """``ledger FOLDER`` is ``ledger list FOLDER``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, "-h", "--help"}:
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="ledger",
    cls=_ListByDefault,
    help="All runs with their CV, what they scored on a leaderboard, and whether both agree.",
)

FolderArgument = Annotated[Path, typer.Argument(help="Folder that holds runs, at any depth.")]


@app.command("list")
def list_runs(
    folder: FolderArgument = Path(),
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw CV against the leaderboard as this PNG.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """List the runs below FOLDER, best CV first; compare CV with the leaderboard. The default."""
    from somaseg.runs.ledger import BOARDS, read_ledger

    ledger = read_ledger(folder)
    found = {board: result for board in BOARDS if (result := ledger.agreement(board))}
    if as_json:
        typer.echo(json.dumps(_to_json(ledger, found), ensure_ascii=False, indent=1))
    else:
        _print(ledger, found)
    if plot:
        _draw(plot, ledger, found)


@app.command()
def add(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)],
    public: Annotated[
        float | None, typer.Option(help="Public leaderboard, or any test score.")
    ] = None,
    private: Annotated[float | None, typer.Option(help="Private leaderboard.")] = None,
    note: Annotated[str, typer.Option(help="What was submitted, and where.")] = "",
) -> None:
    """Record what a run scored elsewhere, in RUN/leaderboard.json; the last score counts."""
    from somaseg.folders import LEADERBOARD
    from somaseg.runs.recorded import add_result

    add_result(run, public, private, note)
    typer.echo(f"recorded in {run / LEADERBOARD}")


@app.command("import")
def import_table(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV with the columns name and any of cv, public, private, note.",
            show_default=False,
        ),
    ],
    folder: FolderArgument = Path(),
) -> None:
    """Take entries from elsewhere into FOLDER/ledger.csv; nothing is taken twice."""
    from somaseg.runs.ledger import EXTERNAL, import_rows

    added, known = import_rows(folder, table)
    typer.echo(f"{folder / EXTERNAL}: {added} entries added, {known} were known")


@app.command("export")
def export_table(
    table: Annotated[Path, typer.Argument(help="CSV to write.", show_default=False)],
    folder: FolderArgument = Path(),
) -> None:
    """Write all scored entries, by class, with the settings that differ, as one CSV."""
    from somaseg.runs.ledger import export_rows, read_ledger

    typer.echo(f"{table}: {export_rows(read_ledger(folder), table)} entries")


def _print(ledger: "Ledger", found: "dict[Board, Agreement]") -> None:
    from somaseg.cli.console import Console

    console = Console()
    if not ledger.entries:
        console.print(f"{ledger.folder}: no run below it, and no ledger.csv")
    else:
        _print_table(console, ledger)
    for problem in ledger.problems:
        console.print(f"note: {problem}", style="yellow")
    for board, result in found.items():
        _print_agreement(console, board, result, ledger)


def _print_table(console: "Console", ledger: "Ledger") -> None:
    from rich.table import Table

    classes = list(dict.fromkeys(name for e in ledger.entries for name in e.by_class))
    differing = ledger.differing()
    columns = {"run": [e.name for e in ledger.entries]}
    columns["CV"] = [_number(e.cv) + ("*" if e.partial else "") for e in ledger.entries]
    for name in classes:
        columns[name] = [_number(e.by_class.get(name)) for e in ledger.entries]
    columns["untuned"] = [_number(e.untuned) for e in ledger.entries]
    columns["minutes"] = [
        "" if e.seconds is None else f"{e.seconds / 60:.1f}" for e in ledger.entries
    ]
    columns["parameters"] = [
        "" if e.parameters is None else f"{e.parameters / 1e6:.1f} M" for e in ledger.entries
    ]
    columns["public"] = [_number(e.public) for e in ledger.entries]
    columns["private"] = [_number(e.private) for e in ledger.entries]
    columns["settings, note"] = [
        "; ".join(filter(None, [_chosen(e, differing), e.note])) for e in ledger.entries
    ]
    kind = "weighted by class" if ledger.weighted else "mean over images"
    table = Table(
        title=str(ledger.folder),
        title_justify="left",
        caption=f"CV: nested out-of-fold mAP, {kind}; * of some folds only; minutes of training, "
        "all folds; settings: those in which the runs differ",
        caption_justify="left",
    )
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    for name in shown:
        if name in ("run", "settings, note"):
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*cells)
    console.print(table)


def _chosen(entry: "Entry", differing: tuple[str, ...]) -> str:
    return " ".join(f"{n}={entry.settings[n]}" for n in differing if n in entry.settings)


def _print_agreement(
    console: "Console", board: "Board", result: "Agreement", ledger: "Ledger"
) -> None:
    from somaseg.report.agreement import agreement_text

    console.print(agreement_text(board, result))
    pairs = ledger.pairs(board)
    for i in result.outliers:
        entry, cv, score = pairs[i]
        console.print(f"  stands out: {entry.name} (CV {cv:.3f}, {board} {score:.3f})")
    for warning in result.warnings:
        console.print(f"  warning: {warning}", style="red")


def _draw(path: Path, ledger: "Ledger", found: "dict[Board, Agreement]") -> None:
    from somaseg.errors import SomasegError
    from somaseg.files import atomic_path
    from somaseg.report.agreement import agreement_figure

    if not found:
        raise SomasegError(
            f"{ledger.folder}: no entry has both CV and a leaderboard score, so there is nothing "
            "to draw; record one with `somaseg ledger add RUN --public …`"
        )
    points = {
        str(board): ([(e.name, cv, score) for e, cv, score in ledger.pairs(board)], result)
        for board, result in found.items()
    }
    with atomic_path(path) as temporary:
        agreement_figure(points).savefig(temporary, dpi=120)


def _to_json(ledger: "Ledger", found: "dict[Board, Agreement]") -> dict[str, Any]:
    return {
        "folder": str(ledger.folder),
        "weighted": ledger.weighted,
        "entries": [_entry_json(entry) for entry in ledger.entries],
        "differing": ledger.differing(),
        "agreement": {
            board: {**dataclasses.asdict(result), "entries": [e.name for e, _, _ in pairs]}
            for board, result in found.items()
            for pairs in [ledger.pairs(board)]
        },
        "problems": ledger.problems,
    }


def _entry_json(entry: "Entry") -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "folder": entry.folder and str(entry.folder)}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
