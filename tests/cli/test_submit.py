import pytest
import typer
from typer.testing import CliRunner

from somaseg.cli.submit import submit
from somaseg.data.formats.label_files import write_labels
from somaseg.data.formats.results import write_results
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from tests.data.make import SIZE, competition, write_image

app = typer.Typer()
app.command()(submit)

A = Instances.from_runs(SIZE, ["1 4", "101 5"], scores=[0.5, 0.9], classes=0, names=("cort",))
OVERLAPPING = Instances.from_runs(SIZE, ["1 4", "4 2"], scores=[0.9, 0.5], names=("cort",))
EXPECTED = "id,predicted\na,1 4\na,101 5\nb,\n"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def images(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "test" / f"{name}.png")
    return tmp_path / "test"


def predictions(tmp_path, found=A):
    write_results(tmp_path / "out" / "predictions.json", {"a": found})
    return tmp_path / "out"


@pytest.mark.parametrize("given", ["folder", "results", "labels", "submission"])
def test_predictions_of_each_kind(tmp_path, images, given):
    folder = predictions(tmp_path)
    path = {"folder": folder, "results": folder / "predictions.json"}.get(given)
    if given == "labels":
        path = tmp_path / "labels_only"
        write_labels(path / "a.tif", A.to_labels())
        write_labels(path / "b.tif", A[:0].to_labels())
    elif given == "submission":
        path = tmp_path / "mine.csv"
        path.write_text(EXPECTED)
    out = tmp_path / "submission.csv"
    result = run(path, "--images", images, "--out", out)
    assert result.output == f"{out}: 2 images, 2 instances, 3 rows\n"
    assert out.read_text() == EXPECTED


def test_shared_pixels_are_refused_or_settled(tmp_path, images):
    folder = predictions(tmp_path, OVERLAPPING)
    out = tmp_path / "s.csv"
    with pytest.raises(SomasegError, match=r"s\.csv: not written: image a: 1 pixels belong to"):
        run(folder, "--images", images, "--out", out)
    assert not out.exists()
    run(folder, "--images", images, "--out", out, "--overlaps", "score")
    assert out.read_text() == "id,predicted\na,1 4\na,5 1\nb,\n"
    run(folder, "--images", images, "--out", out, "--overlaps", "smallest_first")
    assert out.read_text() == "id,predicted\na,1 3\na,4 2\nb,\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,1 4\n", "not a valid submission: image b is missing"),
        ("a,1 4\nb,\nz,1 2\n", "line 4: image 'z' is not one of those asked for"),
        ("a,9 2 1 4\nb,\n", r"line 2 \(image a\): its runs are not sorted by start"),
        ("a,190 4\nb,\n", r"line 2 \(image a\): run 190 4 ends outside the image"),
        ("a,1 4\na,2 5\nb,\n", r"image a: 3 pixels belong to several .*\(line 2, line 3\)"),
    ],
)
def test_a_submission_made_elsewhere_is_checked_row_by_row(tmp_path, images, rows, message):
    path = tmp_path / "mine.csv"
    path.write_text("id,predicted\n" + rows)
    with pytest.raises(SomasegError, match=message):
        run(path, "--images", images, "--out", tmp_path / "s.csv")
    assert not (tmp_path / "s.csv").exists()


def test_an_image_that_nobody_predicted_or_asked_for(tmp_path, images):
    write_labels(tmp_path / "some" / "a.tif", A.to_labels())
    with pytest.raises(SomasegError, match="image b is missing"):
        run(tmp_path / "some", "--images", images, "--out", tmp_path / "s.csv")
    (images / "a.png").unlink()
    with pytest.raises(SomasegError, match="'a'"):
        run(predictions(tmp_path), "--images", images, "--out", tmp_path / "s.csv")


def test_annotated_images_will_do_too(tmp_path):
    competition(tmp_path / "data", [("a", "1 2"), ("b", "1 2")])
    out = tmp_path / "s.csv"
    run(predictions(tmp_path), "--images", tmp_path / "data", "--out", out)
    assert out.read_text() == EXPECTED
