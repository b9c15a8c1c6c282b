"""The pages name files that exist, stand in the site's menu, and the texts about us agree."""

import importlib.util
import re
import tomllib
from pathlib import Path

import yaml

import somaseg
from tests.test_house import ROOMS

ROOT = Path(__file__).parent.parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_files_that_pages_name_exist():
    named = [
        (page, name)
        for page, text in PAGES.items()
        for name in re.findall(r"\b((?:benchmarks|tests|src|somaseg|docs)/[\w/.]*\w\.py)\b", text)
    ]
    assert len(named) > 10
    places = (ROOT, ROOT / "src")
    assert [x for x in named if not any((place / x[1]).is_file() for place in places)] == []


def test_the_trips_name_files_of_the_house():
    text = PAGES["docs/architecture.md"]
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", text)
    assert len(named) > 25
    places = (ROOT / "src" / "somaseg", ROOT)
    assert [name for name in named if not any((p / name).is_file() for p in places)] == []


def test_each_trip_goes_down():
    trips = PAGES["docs/architecture.md"].split("\n## ")[1:]
    trips = [trip for trip in trips if trip.startswith("Trip ")]
    assert len(trips) == 3
    for trip in trips:
        steps = re.findall(r"^\d+\. `([\w/]+)(?:\.py)?`", trip, re.M)
        floors = [ROOMS.index(step.split("/")[0]) for step in steps]
        assert len(floors) > 5
        assert floors == sorted(floors), (trip.splitlines()[0], steps)


def test_every_page_is_in_the_menu():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = set(re.findall(r": ([\w/]+\.md)$", text, re.M)) - {
        "index.md",
        "commands.md",
        "changelog.md",
    }
    assert pages == {name.removeprefix("docs/") for name in PAGES if name.startswith("docs/")}


def test_the_picture_has_every_room():
    spec = importlib.util.spec_from_file_location("draw_house", ROOT / "docs" / "draw_house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = [name for name, _ in module.FLOORS] + list(module.LOW)
    assert drawn == [room for room in ROOMS if room not in ("__main__", "weights")]
    lines, arrows = module.rooms()
    assert arrows["cli", "runs"] > 5
    picture = module.draw()
    assert [name for name in drawn if f">{name}" not in picture] == []
    assert set(lines) >= set(drawn)


def test_version_and_licences_agree():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == somaseg.__version__
    assert f"\n## {somaseg.__version__}" in PAGES["CHANGELOG.md"]
    assert PROJECT["license"] == "BSD-3-Clause AND LicenseRef-somaseg-weights"
    for name in PROJECT["license-files"]:
        assert (ROOT / name).is_file()
    assert "non-commercial" in (ROOT / "src/somaseg/weights/LICENSE").read_text(encoding="utf-8")


def test_the_format_that_is_shown_is_the_one_that_is_tested():
    package = (ROOT / "tests/plugin_package/somaseg_blobs.py").read_text(encoding="utf-8")
    shown = re.findall(r"^```python\n(def .*?)^```$", PAGES["docs/formats.md"], re.M | re.S)
    assert len(shown) == 1
    assert shown[0] in package
