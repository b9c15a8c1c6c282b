import csv
import json

import cv2
import pytest
import yaml
from typer.testing import CliRunner

from somaseg.cli import app
from somaseg.errors import SomasegError
from somaseg.runs.ledger import export_rows, import_rows, read_ledger, read_rows
from somaseg.runs.recorded import add_result

LOG = """name,cv,public,private
"Net, epoch 6",0.2777,0.231,
"Net, epoch 6, threshold",0.2658,0.285,
"Net, epoch 5",0.2776,0.233,
"Net, epoch 5, threshold",0.2676,0.285,
Transfer learning,,0.300,0.306
Transfer learning,,0.300,0.306
Semantic,,0.036,
"""


def somaseg(*arguments, fails=False):
    """Run a command; the commands' own errors come out as they are."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert fails or done.exit_code == 0, done.output
    return done


def write_run(folder, nested, *, weighted=None, folds=3, finished=3, **training):
    """What a run leaves behind, as far as the ledger reads it."""
    folder.mkdir(parents=True)
    config = {"data": {"path": "d"}, "folds": folds, "model": {"family": "flow"}}
    config |= {"training": {"steps": 100, "rate": 0.001, **training}, "log": ["wandb"]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "folds.json").write_text("{}")
    if nested is not None:
        score = {"map": nested, "by_class": {"a": 0.15, "b": 0.35}}
        score |= {"weighted": weighted, "weights": weighted and {"a": 3, "b": 1}}
        scores = {"nested": score, "untuned": {**score, "map": nested / 2}}
        scores |= {"folds": list(range(finished))}
        scores |= {"training": {"seconds": 600, "cpu_seconds": 900.5, "parameters": 4_600_000}}
        (folder / "scores.json").write_text(json.dumps(scores))
    return folder


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "runs" / "a", 0.25)
    write_run(tmp_path / "runs" / "deep" / "b", 0.30, rate=0.01)
    write_run(tmp_path / "runs" / "deep" / "search" / "trial0", 0.4, finished=1)
    write_run(tmp_path / "runs" / "begun", None, steps=200)
    # A tracker's own config.yaml is no run, nor is a run's part.
    write_run(tmp_path / "runs" / "a" / "fold0", 0.9)
    (tmp_path / "runs" / "a" / "wandb").mkdir()
    (tmp_path / "runs" / "a" / "wandb" / "config.yaml").write_text("x: 1")
    return tmp_path / "runs"


def test_runs_are_found_and_sorted(runs):
    ledger = read_ledger(runs)
    assert [e.name for e in ledger.entries] == ["deep/search/trial0", "deep/b", "a", "begun"]
    assert [e.cv for e in ledger.entries] == [0.4, 0.30, 0.25, None]
    assert [e.partial for e in ledger.entries] == [True, False, False, False]
    first = ledger.entries[2]
    assert first.by_class == {"a": 0.15, "b": 0.35}
    assert (first.untuned, first.seconds, first.cpu_seconds) == (0.125, 600, 900.5)
    assert first.parameters == 4_600_000
    assert set(ledger.differing()) == {"training.steps", "training.rate"}
    assert ledger.problems == ()
    assert [e.name for e in read_ledger(runs / "a").entries] == ["a"]


def test_cv_is_weighted_where_all_runs_have_the_same_weights(tmp_path):
    write_run(tmp_path / "a", 0.25, weighted=0.2)
    write_run(tmp_path / "b", 0.3, weighted=0.15)
    ledger = read_ledger(tmp_path)
    assert ledger.weighted
    assert [(e.name, e.cv) for e in ledger.entries] == [("a", 0.2), ("b", 0.15)]
    write_run(tmp_path / "c", 0.1)
    ledger = read_ledger(tmp_path)
    assert not ledger.weighted
    assert [(e.name, e.cv) for e in ledger.entries] == [("b", 0.3), ("a", 0.25), ("c", 0.1)]
    assert "different class weights" in ledger.problems[0]


def test_an_ensemble_stands_beside_its_members(tmp_path):
    for rate, name in enumerate(("flow", "unet")):
        write_run(tmp_path / "fit" / "members" / name, 0.25, rate=rate)
    training = json.loads((tmp_path / "fit/members/flow/scores.json").read_text())["training"]
    scores = {"nested": {"map": 0.3}, "members": {key: {"training": training} for key in "ab"}}
    (tmp_path / "fit" / "scores.json").write_text(json.dumps(scores))
    assert [e.name for e in read_ledger(tmp_path).entries] == [
        "fit/members/flow",
        "fit/members/unet",
    ]
    (tmp_path / "fit" / "plan.yaml").write_text("budget: 2h")
    add_result(tmp_path / "fit", public=0.31)
    ledger = read_ledger(tmp_path)
    entry = ledger.entries[0]
    assert (entry.name, entry.cv, entry.public, entry.partial) == ("fit", 0.3, 0.31, False)
    assert (entry.seconds, entry.parameters) == (1200, 9_200_000)
    assert ledger.differing() == ("training.rate",)


def test_results_are_appended_and_the_last_counts(runs):
    somaseg("ledger", "add", runs / "a", "--public", 0.305, "--note", "first")
    somaseg("ledger", "add", runs / "a", "--public", 0.31)
    somaseg("ledger", "add", runs / "a", "--private", 0.312, "--note", "deadline")
    written = json.loads((runs / "a" / "leaderboard.json").read_text())
    assert [(r["public"], r["private"]) for r in written] == [
        (0.305, None),
        (0.31, None),
        (None, 0.312),
    ]
    assert all(r["cv"] == {"map": 0.25, "weighted": None} and r["time"] for r in written)
    entry = next(e for e in read_ledger(runs).entries if e.name == "a")
    assert (entry.public, entry.private, entry.note) == (0.31, 0.312, "deadline")


def test_cv_is_that_of_the_submission(runs):
    add_result(runs / "a", public=0.28)
    path = runs / "a" / "scores.json"
    path.write_text(path.read_text().replace('"map": 0.25', '"map": 0.27'))
    ledger = read_ledger(runs)
    assert [(e.name, cv, score) for e, cv, score in ledger.pairs("public")] == [("a", 0.25, 0.28)]
    assert "its CV was 0.250 when" in ledger.problems[0]
    add_result(runs / "a", public=0.29)
    assert read_ledger(runs).pairs("public")[0][1:] == (0.27, 0.29)
    assert read_ledger(runs).problems == ()


def test_partial_runs_are_not_compared(runs):
    add_result(runs / "deep" / "search" / "trial0", public=0.2)
    assert read_ledger(runs).agreement("public") is None


def test_import_takes_nothing_twice(runs, tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    assert "7 entries added, 0" in somaseg("ledger", "import", tmp_path / "log.csv", runs).output
    before = (runs / "ledger.csv").read_text()
    assert "0 entries added, 7" in somaseg("ledger", "import", tmp_path / "log.csv", runs).output
    assert (runs / "ledger.csv").read_text() == before
    rows = list(csv.DictReader((runs / "ledger.csv").open()))
    assert [r["name"] for r in rows].count("Transfer learning") == 2
    (tmp_path / "more.csv").write_text("name,cv,Public\nNew,0.1,0.2\nSemantic,,0.036\n")
    assert import_rows(runs, tmp_path / "more.csv") == (1, 1)
    assert [e.name for e in read_rows(runs / "ledger.csv")][-1] == "New"


def test_the_log_of_a_team_that_read_it_the_wrong_way(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    import_rows(tmp_path, tmp_path / "log.csv")
    out = somaseg("ledger", tmp_path, "--plot", tmp_path / "cv.png").output
    flowing = " ".join(out.split())
    assert "4 entries have CV and a public score; Pearson -0.99 [-1.00, -0.9" in flowing
    assert "only 4 have both scores" in flowing
    assert "WRONG way (r = -0.99)" in flowing
    picture = cv2.imread(str(tmp_path / "cv.png"))
    orange = (picture[..., 2] > 200) & (picture[..., 0] < 60)  # the line through the points
    assert orange.sum() > 200
    found = json.loads(somaseg("ledger", "--json", tmp_path).output)["agreement"]
    assert set(found) == {"public"}
    assert found["public"]["entries"][0] == "Net, epoch 6"
    assert found["public"]["pearson"]["value"] < -0.98


def test_export_reads_back(runs, tmp_path):
    add_result(runs / "a", public=0.305, private=1 / 3, note="one, two")
    (tmp_path / "log.csv").write_text(LOG)
    import_rows(runs, tmp_path / "log.csv")
    somaseg("ledger", "export", tmp_path / "all.csv", runs)
    ledger = read_ledger(runs)
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [r["name"] for r in rows] == [e.name for e in ledger.entries if e.name != "begun"]
    mine = next(r for r in rows if r["name"] == "a")
    assert float(mine["private"]) == 1 / 3
    assert (mine["cv of b"], mine["training.rate"], mine["partial"]) == ("0.35", "0.001", "false")
    assert import_rows(runs, tmp_path / "all.csv") == (0, len(rows))


def test_table_lists_what_differs(runs):
    add_result(runs / "a", public=0.305, note="submitted")
    out = somaseg("ledger", runs).output
    line = next(line for line in out.splitlines() if "│ a " in line)
    for cell in ("0.250", "0.150", "0.350", "0.125", "10.0", "4.6 M", "0.305", "submitted"):
        assert cell in line
    assert "0.400*" in out
    assert "training.rate=0.01" in out
    assert "log=" not in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,score\na,1\n", "has columns name, score; give name and one or more of cv"),
        ("name,cv\na,high\n,0.2\nb,nan\nc,\n", "line 2: cv 'high' is no number; line 3: no name;"),
        ("name,cv\na,high\n,0.2\nb,nan\nc,\n", "line 4: cv 'nan' is no number; line 5: no score"),
        ("", "empty; expected a CSV table"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(SomasegError, match=r"bad\.csv: ") as caught:
        import_rows(tmp_path, tmp_path / "bad.csv")
    assert message in str(caught.value)
    assert not (tmp_path / "ledger.csv").exists()


def test_bad_runs_are_left_out_and_named(runs):
    (runs / "begun" / "config.yaml").write_text("a: [")
    (runs / "deep" / "b" / "scores.json").write_text('{"nested": {"map": ')
    (runs / "a" / "leaderboard.json").write_text('{"public": 1}')
    ledger = read_ledger(runs)
    assert [e.name for e in ledger.entries] == ["deep/search/trial0"]
    for name in ("begun/config.yaml", "b/scores.json", "a/leaderboard.json"):
        assert any(name in problem for problem in ledger.problems)
    with pytest.raises(SomasegError, match=r"leaderboard\.json: not a list of scores"):
        add_result(runs / "a", public=0.3)


def test_bad_requests(runs, tmp_path):
    with pytest.raises(SomasegError, match="not a run"):
        add_result(tmp_path, public=0.3)
    with pytest.raises(SomasegError, match="give --public, --private or both"):
        add_result(runs / "a")
    with pytest.raises(SomasegError, match="nan is no score"):
        add_result(runs / "a", public=float("nan"))
    assert not (runs / "a" / "leaderboard.json").exists()
    with pytest.raises(SomasegError, match="no such folder"):
        read_ledger(tmp_path / "nowhere")
    with pytest.raises(SomasegError, match="nothing to draw"):
        somaseg("ledger", runs, "--plot", tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()
    export_rows(read_ledger(runs), tmp_path / "out.csv")
    (tmp_path / "empty").mkdir()
    assert "no run below it" in somaseg("ledger", tmp_path / "empty").output
