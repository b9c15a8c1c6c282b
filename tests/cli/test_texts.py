"""Texts as they are: names with markup, any encoding, narrow terminals, silence and Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import pytest
import typer

import somaseg
from somaseg import cli, numba_cache
from somaseg.cli import progress
from somaseg.cli.console import Console
from somaseg.report.html import in_figure, svg_uri
from tests.cli.run import somaseg as command_line
from tests.data.make import competition

NAMES = ("live[red]", "[/]", "$\\frac{$", ":smile:", "_hidden", "ячейка")


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "somaseg", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=300,
    )


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A data set with an image of each class."""
    root = tmp_path_factory.mktemp("named")
    images = tuple("abcdef")
    rows = [f"{i},1 3 17 3,16,12,{name}" for i, name in zip(images, NAMES, strict=True)]
    return competition(root, rows, images)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1251", "cp932", "ascii"])
@pytest.mark.parametrize("command", ["info", "check", "evaluate"])
def test_names_are_shown_as_they_are_in_any_encoding(named, encoding, command):
    arguments = ["evaluate", named, named] if command == "evaluate" else ["data", command, named]
    done = run(*arguments, PYTHONIOENCODING=encoding, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    if command != "check":
        for name in NAMES:
            assert name.encode(encoding, "replace").decode(encoding) in text


def test_help_keeps_brackets():
    for arguments in (["tune", "--help"], ["models"]):
        done = run(*arguments, COLUMNS="250", PYTHONIOENCODING="utf-8")
        assert re.search(r"somaseg\[(xgboost|cellpose)\]", done.stdout.decode())


@pytest.mark.parametrize("columns", ["60", "40", "20"])
def test_no_figure_is_cut_in_a_narrow_terminal(named, columns):
    done = run("evaluate", named, named, COLUMNS=columns, PYTHONIOENCODING="utf-8")
    lines = done.stdout.decode().splitlines()
    assert any(re.search(r"^ *all +6 +6 +6 +1\.000 .* 1\.000", line) for line in lines)
    assert "…" not in "".join(line for line in lines if "1.000" in line)


def test_plots_show_names_as_they_are():
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    for name in NAMES:
        axes.plot([0, 1], label=in_figure(name))
    axes.set_yticks(range(len(NAMES)), [in_figure(name) for name in NAMES])
    axes.set_xscale("log")
    axes.legend()
    svg_uri(figure)  # raises where a formula is read into a name
    shown = [text.get_text().replace(r"\$", "$") for text in axes.get_legend().get_texts()]
    assert [text.lstrip("\u200b") for text in shown] == list(NAMES)


def test_without_a_terminal_progress_is_a_line_a_minute(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.Bars() as bars:
        task = bars.add_task("fold [1]", total=100)
        for _ in range(90):
            clock[0] += 2
            bars.advance(task)
        bars.update(task, loss="loss 0.3")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"fold [1]: {n} of 100" for n in (30, 60, 90)]


def test_tables_keep_their_words(capsys, monkeypatch):
    from rich.table import Table

    monkeypatch.setenv("COLUMNS", "10")
    table = Table("[b]class", "score")
    table.add_row("a-very-long-name[/]", "0.123")
    Console().print(table)
    text = capsys.readouterr().out
    assert "a-very-long-name[/]" in text
    assert "[b]class" in text
    assert "0.123" in text


def test_ctrl_c_says_in_one_line_how_to_go_on(tmp_path):
    # Slow on purpose: a command that waits for a training's lock or reads much would do as well.
    code = (
        "import time, somaseg.cli as c\n"
        "from somaseg.cli import app\n"
        "@app.command()\n"
        "def wait():\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "c.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "wait"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines() == [
        "stopped; what is written is whole: run the same command again to go on"
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "data", "--out", "r"], "begun ones go on at their last checkpoint"),
        (["data", "info", "d"], "nothing was written"),
        (["data", "clean", "d", "o"], "not all are there"),
        (["ledger", "add", "run"], "the old one or the new one"),
    ],
)
def test_a_stopped_command_says_what_stands(words, told, monkeypatch):
    def stopped(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.core.TyperCommand.invoke", stopped)
    done = command_line(*words, check=False)
    assert done.returncode == 130
    (line,) = done.stderr.splitlines()
    assert line.startswith("stopped; ")
    assert told in line


def test_every_command_says_what_stands_when_it_is_stopped():
    commands = typer.main.get_command(cli.app).commands
    names = {*commands, *commands["data"].commands} - {"data"}
    assert names - set(cli.STANDS) == {"fit", "predict"}  # these tell more by themselves


def test_numba_finds_a_place_in_a_read_only_install(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(numba_cache, "_writable", lambda folder: False)
    monkeypatch.setattr(numba_cache.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    numba_cache.find_place()
    place = Path(os.environ["NUMBA_CACHE_DIR"])
    assert place.parent == tmp_path / "temporary"
    assert place.stat().st_mode & 0o077 == 0
    # A folder that others can write to is not trusted: what lies there is run.
    place.chmod(0o777)
    os.environ["NUMBA_CACHE_DIR"] = ""
    numba_cache.find_place()
    assert Path(os.environ["NUMBA_CACHE_DIR"]) != place
    assert somaseg.numba_cache is numba_cache
