"""Every shell and Python block of the README and of the pages runs, in order, as a reader would.

A page runs in a folder of its own in which small synthetic data stand for DATA, my_images/ and the
like, and one tiny fit for every run. Commands run in this process. Those that train (`LONG`) are
parsed with all their options, and then leave what that fit left; a file of a cluster is read, and
done without; `pip install` is held against the extras. A block that cannot run has the line
``<!-- not run: REASON -->`` above it.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
import typer
import yaml
from typer.testing import CliRunner

import somaseg.cli
from somaseg.data.synthetic import make_image, write_dataset
from somaseg.models.registry import load_preset
from somaseg.predict.store import load_predictions, save_predictions
from somaseg.runs.queues import read_needs
from somaseg.runs.run import Run
from tests.cli import run
from tests.decide.test_rescore import blind

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
)
NOT_RUN = 18  # may only shrink
IMAGES = ("my_images", "new_images", "images", "new")
RUNS = ("run", "RUN", "runs/flow", "runs/unet", "runs/rcnn", "run2", "runs/mask_rcnn")
LONG = ("fit", "train", "search")
MODEL = {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16, "pretrained": "none"}
TRAINING = {"steps": 2, "batch": 1, "crop": 64, "log_every": 1}


class Block(NamedTuple):
    language: str
    text: str
    line: int
    mark: str | None


def blocks(page):
    """The fenced blocks of a page."""
    found, lines = [], iter(enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1))
    mark = None
    for number, line in lines:
        if line.strip().startswith("```"):
            indent = len(line) - len(line.lstrip())
            text = []
            for _, inner in lines:
                if inner.strip() == "```":
                    break
                text.append(inner[indent:])
            found.append(Block(line.strip("` "), "\n".join(text), number, mark))
            mark = None
        elif line.strip():
            comment = re.fullmatch(r"<!-- (not run: .+|main|test) -->", line.strip())
            mark = comment[1] if comment else None
    return found


def statements(text):
    """The commands of a shell block: continued lines joined, here-documents whole."""
    lines = iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        here = re.search(r"<<\s*'?(\w+)'?", line)
        if here:
            body = [line]
            for inner in lines:
                body.append(inner)
                if inner == here[1]:
                    break
            yield "\n".join(body)
        elif line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """What stands for the reader's data and runs: one set of images, one fit."""
    folder = tmp_path_factory.mktemp("pages")
    # Two of each class: every fold has all classes.
    write_dataset(folder / "DATA", n_per_class=2, size=(96, 96), n_test=1)
    plan = {
        "data": {"path": str(folder / "DATA")},
        "folds": 2,
        "jobs": 1,
        "members": [{"name": "flow_lite", "model": MODEL, "training": TRAINING}],
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    run.somaseg("fit", "--plan", folder / "plan.yaml", "--out", folder / "fit")
    (folder / "few").mkdir()
    for path in sorted((folder / "DATA/train").iterdir())[::3]:
        os.link(path, folder / "few" / path.name)
    # Predictions that are partly right, as those of a trained model; two steps find nothing.
    member = Run.open(folder / "fit/members/flow_lite")
    for fold in range(2):
        path = member.predictions_path(fold)
        raw = {
            name: blind(member.dataset()[name].annotated(), 1) for name in load_predictions(path)
        }
        save_predictions(path, raw)
    (folder / "score-log.csv").write_text("name,cv,public\nfirst,0.21,0.24\nsecond,0.23,0.25\n")
    command("predict", folder / "DATA/train", "--model", folder / "fit", "-o", folder / "found")
    return folder


@pytest.fixture
def place(fitted, tmp_path, monkeypatch):
    """A folder with everything that a page may name."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATA", "LIVECELL", "TRUTH", "data"):
        link(fitted / "DATA", name)
    for name in IMAGES:
        link(fitted / "few", name)
    for name in RUNS:
        link(
            fitted / ("fit/members/flow_lite" if "runs/" in name or name == "RUN" else "fit"), name
        )
    link(fitted / "found", "PREDICTIONS")
    for name in ("huge.tif", "image.tif"):
        tifffile.imwrite(name, make_image("cort", 1, (96, 112))[0])
    stack = np.stack([make_image("cort", k, (96, 96))[0] for k in range(6)]).reshape(3, 2, 96, 96)
    names = {"axes": "ZCYX", "Channel": {"Name": ["actin", "dapi"]}}
    tifffile.imwrite("stack.ome.tif", stack, ome=True, metadata=names)
    os.link(fitted / "score-log.csv", "score-log.csv")
    return tmp_path


def link(source, target):
    shutil.copytree(source, target, copy_function=os.link)


def command(*arguments):
    result = CliRunner().invoke(somaseg.cli.app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, f"somaseg {shlex.join(map(str, arguments))}\n{result.output}"


def leave(arguments, fitted):
    """Parse a command that trains; leave what the shared fit left in the folder it names."""
    root = typer.main.get_command(somaseg.cli.app)
    parsed = root.commands[arguments[0]].make_context(arguments[0], list(arguments[1:])).params
    for name in ("data", "pretrain", "train_on"):
        assert parsed.get(name) is None or Path(parsed[name]).exists(), parsed[name]
    if parsed.get("model"):
        load_preset(parsed["model"])
    out = Path(parsed["out"])
    if arguments[0] == "search":
        assert yaml.safe_load(Path(parsed["space"]).read_text())
        shutil.rmtree(out, ignore_errors=True)
        link(fitted / "fit/members/flow_lite", out / "trial0")
        (out / "best.yaml").write_text(yaml.safe_dump({"model": MODEL, "training": TRAINING}))
        return
    shutil.rmtree(out, ignore_errors=True)
    link(fitted / ("fit" if arguments[0] == "fit" else "fit/members/flow_lite"), out)


def expanded(word):
    """What a shell makes of a word with a star."""
    found = sorted(map(str, Path().glob(word))) if "*" in word else []
    return found or [word]


def shell(text, fitted):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for statement in statements(text):
        words = shlex.split(statement, comments=True)
        if words[0] == "somaseg":
            arguments = [x for word in words[1:] for x in expanded(word)]
            if "--cluster" in arguments:
                at = arguments.index("--cluster")
                read_needs(arguments[at + 1])
                del arguments[at : at + 2]
            if arguments[0] in LONG and "--resume" not in arguments:
                leave(arguments, fitted)
            else:
                command(*arguments)
        elif words[:2] == ["pip", "install"]:
            assert set(re.findall(r"[\w-]+", words[2].partition("[")[2])) <= set(extras)
        else:
            subprocess.run(["bash", "-euo", "pipefail", "-c", statement], check=True)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language in ("bash", "python") for b in blocks(p))]
)
def test_the_blocks_of(page, place, fitted):
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if block.mark:
            continue
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, page, "exec"), names)
        elif block.language == "bash":
            shell(block.text, fitted)
        elif block.language == "yaml" and "model:" in block.text:
            Path("preset.yaml").write_text(block.text)
            load_preset("preset.yaml")


def test_few_blocks_are_left_out():
    marked = [f"{p}:{b.line}: {b.mark}" for p in PAGES for b in blocks(p) if b.mark]
    marked = [line for line in marked if "not run" in line]
    assert len(marked) == NOT_RUN, "\n".join(marked)


def test_blocks_that_name_no_language_hold_no_command():
    plain = [(p, b) for p in PAGES for b in blocks(p) if b.language in ("", "text")]
    assert [f"{p}:{b.line}" for p, b in plain if re.search("^somaseg |^pip ", b.text, re.M)] == []


def test_the_main_command_is_the_demo(tmp_path, monkeypatch):
    """The one command of the README; with fewer images and steps, and without its installation."""
    (main,) = [block.text for block in blocks("README.md") if block.mark == "main"]
    install, _, run = main.rpartition("&& ")
    assert install.strip() == "python3 -m venv .venv && .venv/bin/pip install ."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["somaseg.cli.demo"], "_IMAGES", 1)
    command(*shlex.split(run)[1:], "--steps", 1)
    assert Path("somaseg-demo/demo.png").stat().st_size > 10_000
