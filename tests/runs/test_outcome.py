"""What the page of an experiment knows of the ledger."""

import json

from somaseg.runs.ledger import read_ledger
from somaseg.runs.outcome import ledger_page
from somaseg.runs.recorded import add_result
from tests.runs.test_ledger import LOG, write_run


def test_runs_with_both_scores_are_compared_and_the_own_one_marked(tmp_path):
    runs = tmp_path / "runs"
    for name, cv, public in (("a", 0.25, 0.24), ("deep/b", 0.3, 0.31), ("c", 0.4, None)):
        run = write_run(runs / name, cv)
        if public:
            add_result(run, public)
    write_run(runs / "far" / "too" / "deep" / "to be found", 0.9)
    page = ledger_page(runs / "a")
    ((board, (points, found)),) = page.boards.items()
    assert board == "public"
    assert points == [("deep/b", 0.3, 0.31), ("a (this run)", 0.25, 0.24)]
    assert found.n == 2
    assert (page.current, page.folder) == ("a (this run)", "runs/")
    assert "mean over images" in page.kind
    assert page.notes == ()
    assert ledger_page(runs / "c").current is None
    assert len(ledger_page(runs / "c").boards["public"][0]) == 2


def test_a_row_that_is_called_like_the_run_is_not_marked(tmp_path):
    run = write_run(tmp_path / "a", 0.25)
    (tmp_path / "ledger.csv").write_text(LOG + "a,0.2,0.3,0.4\n")
    page = ledger_page(run)
    assert page.current is None
    assert [name for name, _, _ in page.boards["public"][0]].count("a") == 1
    assert set(page.boards) == {"public"}  # one entry alone has a private score
    add_result(run, private=0.3)
    assert {name for name, _, _ in ledger_page(run).boards["private"][0]} == {"a", "a (this run)"}


def test_too_few_scores_or_a_broken_ledger_stop_nothing(tmp_path, monkeypatch):
    run = write_run(tmp_path / "my run", 0.25)
    add_result(run, 0.3)
    monkeypatch.chdir(tmp_path)
    page = ledger_page(run.relative_to(tmp_path))
    assert (page.boards, page.current, page.notes) == ({}, None, ())
    assert page.add == "somaseg ledger add 'my run' --public …"
    assert page.again == "somaseg fit --resume --out 'my run'"
    assert page.folder == f"{tmp_path.name}/"

    other = write_run(tmp_path / "other", 0.3)
    add_result(other, 0.35)
    (write_run(tmp_path / "third", 0.4) / "leaderboard.json").write_text("no JSON")
    page = ledger_page(run)
    assert len(page.boards["public"][0]) == 2
    assert "left out" in page.notes[0]

    (tmp_path / "ledger.csv").write_text("x,y\n1,2\n")
    page = ledger_page(run)
    assert page.boards == {}
    assert "cannot be read" in page.notes[0]
    assert "ledger.csv" in page.notes[0]

    (tmp_path / "ledger.csv").unlink()
    (other / "scores.json").write_text(json.dumps({"nested": {"map": 1}, "training": {}}))
    assert ledger_page(run).boards == {}
    (problem,) = [p for p in read_ledger(tmp_path).problems if "incomplete" in p]
    assert f"{other / 'scores.json'}: incomplete (KeyError" in problem
