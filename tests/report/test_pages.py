"""The pages of an experiment and of a data set in a browser: readable by all, at any width."""

import shutil

import pytest

from somaseg.data import load_dataset
from somaseg.data.synthetic import write_dataset
from somaseg.decide import default_settings
from somaseg.report.eda import write_eda
from somaseg.report.experiment import ExperimentPage, MemberPage, write_experiment
from somaseg.scoring import compare, competition_score

CHROMIUM = shutil.which("chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
# The least contrast of any text with what is behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .04045 ? v / 12.92
    : ((v + .055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = node => { for (; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour; } return [255, 255, 255]; };
  let least = 21;
  for (const node of document.querySelectorAll("body *")) {
    if (![...node.childNodes].some(child => child.nodeType == 3 && child.data.trim())) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
    least = Math.min(least, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  return least;
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    dataset = load_dataset(write_dataset(folder / "data", 1, (64, 80), seed=4))
    write_eda(dataset, folder / "eda.html", examples=1)
    found = {sample.id: sample.instances for sample in dataset}
    score = competition_score(compare(dataset, found))
    page = ExperimentPage(
        title="t",
        dataset=dataset,
        folds={name: number % 2 for number, name in enumerate(dataset.ids)},
        members=[MemberPage("one", score, score, {}, 1.0, 1000)],
        chosen="one",
        nested=score,
        optimistic=score,
        found=found,
        settings=default_settings(dataset.names),
        ledger=None,
    )
    write_experiment(folder / "experiment.html", page, pictures=1)
    return folder


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["eda", "experiment"])
def test_a_page_is_readable(pages, browser, tmp_path, name, scheme):
    tab = browser.new_page(viewport={"width": 400, "height": 900}, color_scheme=scheme)
    lines, requests = [], []
    tab.on("console", lambda message: lines.append(message.text))
    tab.on("pageerror", lambda error: lines.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto((pages / f"{name}.html").as_uri())
    assert tab.locator("h1").count() == 1
    assert tab.locator("main").count() == 1
    assert tab.evaluate(CONTRAST) >= 4.5
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    # At 400 pixels the page does not scroll sideways; tables do, by the keyboard too.
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    wide = tab.locator(".wide").first
    assert wide.evaluate("node => node.scrollWidth > node.clientWidth") or name == "experiment"
    wide.focus()
    tab.keyboard.press("ArrowRight")
    assert wide.evaluate("node => document.activeElement === node")
    assert all(image.get_attribute("alt") for image in tab.locator("img").all())
    # Ink on paper when printed, whatever the screen's colours; nothing is cut.
    tab.emulate_media(media="print", color_scheme=scheme)
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert wide.evaluate("node => getComputedStyle(node).overflowX") == "visible"
    tab.emulate_media(media="screen")
    tab.screenshot(path=str(pages / f"{name}-{scheme}.png"))
    assert lines == []
    assert all(url.startswith(("file:", "data:")) for url in requests)
    tab.close()
