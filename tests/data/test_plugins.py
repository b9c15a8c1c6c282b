"""A format from outside: that of docs/data_formats.md, installed as its entry point says."""

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from somaseg.data import load_dataset
from somaseg.data.convert import write_dataset
from somaseg.data.formats import registry
from somaseg.errors import SomasegError
from tests.data.make import write_image

PAGE = Path(__file__).parents[2] / "docs" / "data_formats.md"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The page's module and its metadata, as pip would lay them down."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    site = tmp_path / "site"
    info = site / "boxes_format-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "boxes_format.py").write_text(code, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: boxes-format\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[somaseg.formats]\nboxes = boxes_format:FORMAT\n")
    monkeypatch.syspath_prepend(str(site))
    registry.forget()
    yield site
    registry.forget()
    sys.modules.pop("boxes_format", None)


@pytest.fixture
def data(tmp_path):
    for seed, name in enumerate("ab"):
        write_image(tmp_path / "data" / "images" / f"{name}.png", seed=seed)
    (tmp_path / "data" / "boxes.txt").write_text("a 1 2 5 6\na 8 3 12 9\nb 0 0 4 4\n")
    return tmp_path / "data"


def test_it_is_told_by_itself_and_by_name_and_comes_back(package, data, tmp_path):
    for format in ("auto", "boxes"):
        dataset = load_dataset(data, format)
        assert dataset.ids == ["a", "b"]
        assert dataset["a"].instances.areas.tolist() == [16, 24]
    write_dataset(tmp_path / "coco", dataset, "coco")
    write_dataset(tmp_path / "out", load_dataset(tmp_path / "coco"), "boxes")
    assert (tmp_path / "out" / "boxes.txt").read_text() == (data / "boxes.txt").read_text()
    assert (tmp_path / "out" / "images" / "a.png").is_file()


def test_faults_are_collected_as_those_of_other_formats(package, data):
    (data / "boxes.txt").write_text("a 1 2 5 6\nb zero\n")
    with pytest.raises(SomasegError, match=r"boxes\.txt line 2: expected: image x0 y0 x1 y1"):
        load_dataset(data)


def test_the_command_line_knows_it(package, data, tmp_path):
    def somaseg(*words):
        paths = [str(package), *sys.path]
        code = f"import sys; sys.path[:0] = {paths!r}; from somaseg.cli import main; main()"
        command = [sys.executable, "-c", code, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "boxes" in somaseg("data", "convert", "--help").stdout
    done = somaseg("data", "convert", str(data), str(tmp_path / "l"), "--to", "labels")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "l" / "labels").iterdir()) == ["a.tif", "b.tif"]
    wrong = somaseg("data", "info", str(data), "--format", "voc")
    assert wrong.returncode == 2
    assert "boxes" in wrong.stderr


def test_a_broken_package_is_named_and_disturbs_nothing(monkeypatch, data):
    broken = EntryPoint("broken", "no_such_module_at_all:FORMAT", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    registry.forget()
    with pytest.raises(SomasegError, match="format 'broken': no_such_module_at_all:FORMAT cannot"):
        load_dataset(data, "broken")
    with pytest.warns(UserWarning, match="mend or remove the package"):
        assert load_dataset(data / "images").ids == ["a", "b"]
    registry.forget()


def test_no_package_takes_the_place_of_ours(monkeypatch):
    other = EntryPoint("coco", "no_such_module_at_all:FORMAT", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [other])
    registry.forget()
    assert registry.find_format("coco").what == "COCO JSON"
    registry.forget()
