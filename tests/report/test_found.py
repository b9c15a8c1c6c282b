"""The page of what was found: its content, and in Chromium what it does."""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from somaseg.data.synthetic import make_image
from somaseg.instances import Instances
from somaseg.report import found
from somaseg.report.found import write_found

CHROMIUM = shutil.which("chromium")


def scenes() -> dict[str, tuple[np.ndarray, Instances]]:
    out = {}
    for k, kind in enumerate(("cort", "astro", "shsy5y")):
        image, cells = make_image(kind, k, (96, 128))
        cells, _ = cells.disjoint()
        scores = np.linspace(0.3, 0.99, len(cells)).astype(np.float32)
        out[f"{kind} <b>{k}</b>"] = image, cells.replace(scores=scores)
    return out


def page(path: Path, **options: Any) -> dict[str, tuple[np.ndarray, Instances]]:
    made = scenes()
    write_found(path, list(made), lambda n: made[n][0], lambda n: made[n][1], "What was found")
    return made


def test_the_page_holds_itself_and_every_cell(tmp_path: Path) -> None:
    made = page(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    cells = sum(len(c) for _, c in made.values())
    assert text.count("<path ") == cells
    assert f"3 images, {cells} cells" in text
    assert "<b>0</b>" not in text
    assert text.count("<h1>") == 1


def test_of_many_images_some_are_shown_and_all_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "SHOWN", 2)
    page(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text.count("<figure id=") == 2
    assert "Pictures of 2 of the 3 images" in text
    assert text.count("<tr><td>") == 3


def test_nothing_found_is_a_page_too(tmp_path: Path) -> None:
    image = np.zeros((20, 30), np.uint8)
    write_found(
        tmp_path / "x.html", ["a"], lambda _: image, lambda _: Instances.empty((20, 30)), "None"
    )
    assert "1 images, 0 cells" in (tmp_path / "x.html").read_text("utf-8")


@pytest.fixture
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    quiet = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*quiet, "--disable-component-update", "--no-first-run"]
        )
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [400, 1400])
def test_sort_filter_and_enlarge_in_a_browser(browser: Any, tmp_path: Path, width: int) -> None:
    made = page(tmp_path / "report.html")
    tab = browser.new_page(viewport={"width": width, "height": 900})
    lines, requests = [], []
    tab.on("console", lambda message: lines.append(message.text))
    tab.on("pageerror", lambda error: lines.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto((tmp_path / "report.html").as_uri())
    # Nothing but the table, which scrolls by itself, is wider than the window.
    assert tab.evaluate("document.documentElement.scrollWidth") <= width

    counts = [len(cells) for _, cells in made.values()]
    column = tab.locator("tbody td:nth-child(2)")
    tab.get_by_role("button", name="cells", exact=True).click()
    assert [int(n) for n in column.all_text_contents()] == sorted(counts)
    tab.keyboard.press("Enter")
    assert [int(n) for n in column.all_text_contents()] == sorted(counts, reverse=True)

    tab.locator("#least").fill("60")
    kept = sum(int((np.floor(cells.scores * 100) >= 60).sum()) for _, cells in made.values())
    assert tab.locator("#count").text_content() == f"{kept} cells shown"
    assert tab.locator("#shots path:not(.low)").count() == kept

    tab.locator("#outlines").uncheck()
    assert not tab.locator("#shots svg").first.is_visible()
    tab.locator("#shots .shot").first.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("dialog .shot img").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("dialog").is_visible()
    assert not lines
    assert all(url.startswith(("file:", "data:")) for url in requests)


def test_ticks_of_charts_are_whole_and_plain(tmp_path: Path) -> None:
    """Areas over one decade: labels such as 2×10² would lie over each other."""
    page(tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text("utf-8")
    charts = [
        base64.b64decode(uri).decode()
        for uri in re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", text)
    ]
    assert len(charts) == 2
    for chart in charts:
        labels = re.findall(r">([^<]*\d[^<]*)</t", chart)
        assert len(labels) > 3
        assert all(re.fullmatch(r"\d+", label) or label.startswith("shsy5y") for label in labels)
