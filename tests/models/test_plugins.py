"""A family from outside, as docs/new_family.md has it, through the command line."""

import json
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.models import registry
from tests.cli.run import somaseg

PAGE = Path(__file__).parents[2] / "docs" / "new_family.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package of the page, installed as pip would leave it."""
    site = tmp_path_factory.mktemp("site")
    (project,) = blocks("toml")
    config, model = blocks("python")
    package = site / "somaseg_spots"
    package.mkdir()
    for name, text in (("__init__", ""), ("config", config), ("model", model)):
        (package / f"{name}.py").write_text(text)
    (entries,) = tomllib.loads(project)["project"]["entry-points"].items()
    about = site / "somaseg_spots-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: somaseg-spots\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries[1].items()]
    (about / "entry_points.txt").write_text("\n".join([f"[{entries[0]}]", *lines]) + "\n")
    return site


def test_the_page_says_how_long_it_is():
    assert sum(len(text.splitlines()) for text in blocks("python")) <= 70


@pytest.fixture
def fresh():
    """Families are looked for once; not those of before, nor for those after."""
    registry.families.cache_clear()
    yield
    registry.families.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_a_family_from_outside_is_listed_trained_and_predicts(site, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(site)
    told = json.loads(somaseg("models", "--json").stdout)
    assert told["families"]["spots"].startswith("Three")
    write_dataset(tmp_path / "data", n_per_class=2, size=(64, 80), seed=1, n_test=1)
    (text,) = blocks("yaml")
    preset = text.replace("300", "12").replace("128", "64")
    (tmp_path / "spots.yaml").write_text(preset)
    run = tmp_path / "run"
    somaseg("train", tmp_path / "data", "--model", tmp_path / "spots.yaml", "--out", run,
            "--folds", 2)  # fmt: skip
    assert json.loads((run / "scores.json").read_text())["nested"]
    somaseg("predict", tmp_path / "data" / "test", "--model", run, "--out", tmp_path / "out")
    assert list((tmp_path / "out" / "labels").iterdir())


@pytest.fixture
def entries(monkeypatch, fresh):
    found = []
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    return found


def test_a_broken_family_is_left_out_and_told(entries):
    entries.append(EntryPoint("spots", "no.such.module:FAMILY", registry.GROUP))
    entries.append(EntryPoint("pi", "math:pi", registry.GROUP))
    with pytest.warns(UserWarning, match="family 'spots': no.such.module:FAMILY is no Family"):
        assert set(registry.families()) == set(registry.OURS)
    with pytest.raises(SomasegError, match="family 'spots' is not one of flow, cellpose"):
        registry.parse_config({"family": "spots"})


def test_no_family_takes_the_place_of_ours(entries):
    entries.append(EntryPoint("flow", "somaseg.models.registry:OURS", registry.GROUP))
    with pytest.warns(UserWarning, match="is no Family"):
        assert registry.families()["flow"] == registry.OURS["flow"]
