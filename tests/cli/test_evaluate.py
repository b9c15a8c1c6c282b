import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from somaseg.cli.evaluate import evaluate
from somaseg.cli.scores import parse_weights
from somaseg.errors import SomasegError
from tests.scoring.test_inputs import NAMES, SCORE, SCORE_TWO, write_found, write_truth

app = typer.Typer()
app.command()(evaluate)


def run(*arguments, code=0):
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(a) for a in arguments])
    if code == 0 and result.exception is not None:
        raise result.exception
    assert result.exit_code == code
    return result


def failure(*arguments):
    exception = run(*arguments, code=1).exception
    assert isinstance(exception, SomasegError)
    return str(exception)


@pytest.fixture
def paths(tmp_path):
    return write_truth(tmp_path / "truth", "table"), write_found(tmp_path / "found", "results")


def rows(text):
    """Tables as lists of words by the first word of the line."""
    return {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}


def test_table(paths):
    result = run(*paths, "--weights", "astro=1,cort=3")
    table = rows(result.stdout)
    assert table["astro"][:4] == ["1", "6", "5", "0.833"]
    assert table["cort"][:4] == ["2", "4", "5", f"{SCORE_TWO / 2:.3f}"]
    assert table["all"][:4] == ["3", "10", "10", f"{SCORE:.3f}"]
    assert table["weighted"] == [f"{(5 / 6 + 3 * SCORE_TWO / 2) / 4:.3f}"]
    assert len(table["all"]) == 9
    assert result.stderr == ""
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_json(paths):
    result = json.loads(run(*paths, "--json").stdout)
    assert result["map"] == pytest.approx(SCORE, abs=1e-12)
    assert result["by_class"] == {
        "astro": pytest.approx(5 / 6),
        "cort": pytest.approx(SCORE_TWO / 2),
    }
    assert result["images"] == {
        "one": pytest.approx(5 / 6),
        "two": pytest.approx(SCORE_TWO),
        "three": 0.0,
    }
    assert 0 < result["coco_ap"] < 1
    assert set(result["coco"]["by_class"]) == set(NAMES)
    assert result["f1_50"] == pytest.approx(2 * 9 / 20)
    assert result["weighted"] is None
    assert result["explain"] is None
    assert result["matching"] == "maximum"
    assert result["notes"] == []


def test_explain(paths):
    text = run(*paths, "--explain").stdout
    assert "Where the score is lost" in text
    assert "The score that perfect … would give" in text
    assert text.count(" 0.95 ") == 3  # all, astro, cort
    explained = json.loads(run(*paths, "--explain", "--json").stdout)["explain"]
    assert explained["total"]["score"] == pytest.approx(SCORE)
    lost = explained["by_class"]["astro"]["lost"]
    assert lost["missed"] == pytest.approx(1 / 6)
    assert sum(lost.values()) == pytest.approx(1 / 6)


def test_kaggle(paths):
    assert json.loads(run(*paths, "--json", "--matching", "kaggle").stdout)["matching"] == "kaggle"
    assert "as in public kernels" in run(*paths, "--matching", "kaggle").stdout
    assert run(*paths, "--matching", "best", code=2).exit_code == 2


def test_warnings_leave_json_alone(tmp_path):
    truth = write_truth(tmp_path / "truth", "table")
    found = write_found(tmp_path / "found", "bare")
    (found / "two.png").unlink()
    result = run(truth, found, "--json")
    plain = json.loads(result.stdout)
    assert plain["coco_ap"] is None
    assert plain["images"]["two"] == 0
    lines = result.stderr.splitlines()
    assert len(lines) == len(plain["notes"]) == 3
    assert all(line.startswith("warning: ") for line in lines)
    assert "image 'two' is missing and counted as if nothing was found" in lines[0]
    assert "AP" in lines[2]


def test_predictions_without_scores_show_no_ap(tmp_path):
    truth = write_truth(tmp_path / "truth", "table")
    table = rows(run(truth, write_found(tmp_path / "found", "bare")).stdout)
    assert table["all"][-1] == "–"


def test_unknown_images(tmp_path, paths):
    truth, found = paths
    lines = (truth / "train.csv").read_text().splitlines()
    (truth / "train.csv").write_text("\n".join(x for x in lines if not x.startswith("two,")))
    assert "image 'two' is not in" in failure(truth, found)
    assert rows(run(truth, found, "--ignore-unknown").stdout)["all"][0] == "2"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("astro:1", "'astro:1' is no name=number"),
        ("astro=much", "'astro=much' is no name=number"),
        ("=3", "'=3' is no name=number"),
        ("astro=1,astro=2", "class 'astro' comes twice"),
        ("astro=1", "class 'cort' has none"),
        ("astro=1,cort=2,glia=3", "no scored image of class 'glia'"),
        ("astro=1,cort=-2", "cort=-2; give a number above 0"),
    ],
)
def test_bad_weights(paths, weights, message):
    found = failure(*paths, "--weights", weights)
    assert message in found
    assert "\n" not in found


def test_weights_are_parsed():
    assert parse_weights("a=1, b=2.5") == {"a": 1.0, "b": 2.5}
    assert parse_weights(None) is None


def test_missing_files(tmp_path, paths):
    assert "no such file or folder" in failure(tmp_path / "nowhere", paths[1])
    assert "no such file or folder" in failure(paths[0], tmp_path / "nowhere")


def test_names_are_not_taken_for_markup(tmp_path):
    truth = write_truth(tmp_path / "truth", "table")
    found = write_found(tmp_path / "[bold]found", "bare")
    (found / "two.png").unlink()
    assert "[bold]found" in run(truth, found).stderr


def test_help_loads_nothing_heavy():
    code = "import sys, somaseg.cli.evaluate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numba", "torch", "matplotlib", "rich.table"} & set(done.stdout.split())


def test_shared_scores_what_was_predicted(tmp_path):
    truth = write_truth(tmp_path / "truth", "table")
    found = write_found(tmp_path / "found", "results")
    entries = json.loads(found.read_text())
    one = entries[0]["image_id"]
    found.write_text(json.dumps([entry for entry in entries if entry["image_id"] == one]))
    counted = run(truth, found, "--json")
    shared = run(truth, found, "--json", "--shared")
    every, some = (json.loads(result.stdout) for result in (counted, shared))
    images = every["images"]
    assert set(some["images"]) == {one}
    assert some["map"] == images[one] > 0
    # An image without any cell in the truth counts where all do, and is not mentioned by the list.
    assert every["map"] == pytest.approx((some["map"] + images["three"]) / len(images))
    assert "counted as if nothing was found" in counted.stderr
    assert "left out of the score" in shared.stderr
