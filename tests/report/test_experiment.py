"""The page of an experiment, above all its part on CV and the leaderboard."""

import base64
import html
import re

import pytest

from somaseg.data import load_dataset
from somaseg.data.synthetic import write_dataset
from somaseg.decide import default_settings
from somaseg.report.agreement import agreement_figure
from somaseg.report.experiment import ExperimentPage, LedgerPage, MemberPage, write_experiment
from somaseg.scoring import compare, competition_score
from somaseg.scoring.agreement import agreement

POINTS = [
    ("$one_", 0.20, 0.23),
    ("<b>two</b>", 0.22, 0.24),
    ("three", 0.25, 0.29),
    ("a (this run)", 0.28, 0.30),
    ("five", 0.30, 0.33),
    ("six", 0.31, 0.10),
]
COMMANDS = ("somaseg ledger add a --public …", "somaseg fit --resume --out a")


def boards(points, *names):
    _, cv, scores = zip(*points, strict=True)
    return {name: (points, agreement(cv, scores)) for name in names}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write a page with this ledger; the part of it on the leaderboard, and its chart."""
    folder = tmp_path_factory.mktemp("page")
    dataset = load_dataset(write_dataset(folder / "data", 1, (64, 80), seed=4))
    found = {sample.id: sample.instances for sample in dataset}
    score = competition_score(compare(dataset, found))

    def write(ledger):
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
            ledger=ledger,
        )
        write_experiment(folder / "report.html", page, pictures=1)
        text = (folder / "report.html").read_text(encoding="utf-8")
        assert re.findall(r'(?:src|href)="(?!data:)', text) == []
        _, _, part = text.partition("<h2>CV against the leaderboard</h2>")
        part = part.split("<h2>The data")[0]
        charts = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', part)
        plain = re.sub(r"<[^>]*>", "", re.sub(r"<figure><img[^>]*>", "", part))
        flowing = " ".join(html.unescape(plain).split())
        return part, flowing, [base64.b64decode(chart).decode() for chart in charts]

    return write


def test_scores_are_drawn_with_figures_and_warnings(written):
    ledger = LedgerPage(
        "runs/", *COMMANDS, boards(POINTS, "public", "private"), "a (this run)", "x"
    )
    part, text, (chart,) = written(ledger)
    assert "6 entries have CV and a public score; Pearson -0." in text
    assert "6 entries have CV and a private score; Pearson -0." in text
    assert "six stands out (CV 0.310, public 0.100)" in text
    assert "Warning: public: CV and leaderboard fall together the WRONG way" in text
    assert "Each dot is an entry in runs/ with both scores. CV: x." in text
    assert "record a score" not in text
    for name in ("a (this run)", "$one_", "&lt;b&gt;two&lt;/b&gt;", "public leaderboard"):
        assert name in chart
    assert chart.count(">this run<") == 2
    assert "<b>two" not in part


def test_what_could_not_be_compared_is_told(written):
    ledger = LedgerPage(
        "runs/", *COMMANDS, boards(POINTS[:2], "public"), None, "x", ["<i>: left out"]
    )
    part, text, (chart,) = written(ledger)
    assert "Warning: public: only 2 have both scores" in text
    assert (
        "This run is not among them: record a score with somaseg ledger add a --public …, then "
        "somaseg fit --resume --out a draws it here." in text
    )
    assert ">this run<" not in chart
    assert "&lt;i&gt;: left out" in part


def test_without_scores_a_sentence_says_how_to_add_them(written):
    _, text, charts = written(LedgerPage("runs/", *COMMANDS, {}))
    assert text == (
        "No two runs in runs/ have both CV and a leaderboard score: record a score with "
        "somaseg ledger add a --public …, then somaseg fit --resume --out a draws it here."
    )
    assert charts == []
    assert written(None)[0] == ""


def test_the_current_entry_is_named_among_many():
    points = [(f"run {i}", 0.2 + i / 100, 0.21 + i / 100) for i in range(20)]
    figure = agreement_figure(boards(points, "public"), current="run 7")
    (axes,) = figure.axes
    assert axes.get_xlabel().split("\n")[2:] == ["1  run 7"]
    stars = [c for c in axes.collections if c.get_label() == "this run"]
    assert [tuple(c.get_offsets()[0]) for c in stars] == [points[7][1:]]
