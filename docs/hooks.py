"""Pages of the site that stand elsewhere: README, changelog, and the help of every command."""

import re
import sys
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from other files."""
    for name, text in (
        ("index.md", _from_root("README.md")),
        ("changelog.md", _from_root("CHANGELOG.md")),
        ("commands.md", commands()),
    ):
        files.append(File.generated(config, name, content=text))
    sys.path.insert(0, str(ROOT / "docs"))
    from draw_house import draw

    if drawn := files.get_file_from_path("house.svg"):
        files.remove(drawn)
    files.append(File.generated(config, "house.svg", content=draw()))
    return files


def _from_root(name: str) -> str:
    """A file of the repository's root, its links as they are within docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    text = text.replace("](CHANGELOG.md)", "](changelog.md)")
    # What is not on the site is named, not linked to.
    return re.sub(r"\[([^]]+)\]\((?:CONTRIBUTING\.md|src/[^)]*)\)", r"\1", text)


def commands() -> str:
    """The reference of the command line, from the commands themselves."""
    from somaseg.cli import app

    root = typer.main.get_command(app)
    lines = ["# Commands", "", "`somaseg COMMAND --help` tells the same.", ""]
    for name, command in root.commands.items():
        lines += _command(f"somaseg {name}", command)
    return "\n".join(lines)


def _command(path: str, command) -> list[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines = [f"## {path}", "", "```text", usage, "```", "", *_prose(command.help or ""), ""]
    rows = [_row(parameter, context) for parameter in command.get_params(context)]
    if rows:
        lines += ["| | | |", "|---|---|---|", *rows, ""]
    for name, child in getattr(command, "commands", {}).items():
        lines += _command(f"{path} {name}", child)
    return lines


def _row(parameter, context) -> str:
    names = parameter.opts + parameter.secondary_opts
    if parameter.param_type_name == "argument":
        names = parameter.get_usage_pieces(context)
    help = " ".join((getattr(parameter, "help", None) or "").split())
    default = "" if callable(parameter.default) else parameter.default
    shown = (
        ""
        if default in (None, "", False, ()) or not isinstance(default, str | int | float | Path)
        else f"`{default}`"
    )
    return (
        "| "
        + " | ".join(
            (
                ", ".join(f"`{name}`" for name in names).replace("|", "\\|"),
                help.replace("|", "\\|"),
                shown,
            )
        )
        + " |"
    )


def _prose(text: str) -> list[str]:
    return [line.strip() for line in text.replace("\b", "").splitlines()]
