import json
import sys

import pytest
from typer.testing import CliRunner

from somaseg.cli.data import app
from somaseg.errors import SomasegError
from tests.data.make import competition, labels_folder, write_image

ROWS = [
    "a,1 4 17 4,16,12,astro",
    "a,4 2,16,12,astro",
    "b,33 3 49 1 51 1 65 3,16,12,cort",
]


def run(*arguments):
    """Run a command; faults of the user's raise, as they do under ``somaseg.cli.main``."""
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_info_in_words(tmp_path):
    competition(tmp_path, ROWS)
    result = run("info", tmp_path)
    assert result.exit_code == 0
    rows = {line.split()[1]: line.split() for line in result.output.splitlines() if "│" in line}
    columns = lambda name: [word for word in rows[name] if word != "│"]  # noqa: E731
    assert columns("astro") == ["astro", "1", "1", "2", "2.0", "2", "5", "2.5", "11.1%"]
    assert columns("cort") == ["cort", "1", "1", "1", "1.0", "1", "8", "3.2", "0.0%"]
    assert columns("all")[:4] == ["all", "2", "2", "3"]
    assert "size: 16×12 (2 images)" in result.output
    assert "pixels: uint8 gray (2 images)" in result.output


def test_info_as_json(tmp_path):
    competition(tmp_path, ROWS)
    found = json.loads(run("info", tmp_path, "--json").output)
    assert found["total"]["cells"] == 3
    assert found["by_class"]["astro"]["overlap_share"] == pytest.approx(1 / 9)
    assert found["sizes"] == {"16×12": 2}
    assert found["source"] == str(tmp_path / "train.csv")


def test_info_needs_sound_data_but_not_its_images(tmp_path):
    competition(tmp_path, ROWS, images=["a"])
    with pytest.raises(SomasegError, match=r"no image b in .*; name the folder of the images"):
        run("info", tmp_path)
    assert json.loads(run("info", tmp_path, "--no-images", "--json").output)["pixels"] == {
        "uint8 gray": 1,
        "missing": 1,
    }
    write_image(tmp_path / "more" / "b.png")
    write_image(tmp_path / "more" / "a.png")
    assert run("info", tmp_path, "--images", tmp_path / "more").exit_code == 0


def test_check_of_sound_data(tmp_path):
    competition(tmp_path, ROWS[::2])
    result = run("check", tmp_path)
    assert result.exit_code == 0
    assert "2 images, 2 cells read; 0 errors, 1 warnings: fit for training" in result.output
    assert "train.csv line 3" in result.output
    assert "holes of 1 pixels in a mask of 8" in result.output


def test_check_fails_when_training_would(tmp_path):
    competition(tmp_path, [*ROWS, "b,5 1 9,16,12,cort", "b,[red]x,16,12,cort"])
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert "odd count" in result.output
    assert "train.csv line 5" in result.output
    assert "'[red]x' (number 1) is not a whole number" in result.output
    assert "2 errors, 2 warnings: training would fail" in result.output


def test_check_as_json_lists_everything(tmp_path):
    competition(tmp_path, [*ROWS, "b,5 1 9,16,12,cort"])
    result = run("check", tmp_path, "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert (found["images"], found["errors"], found["warnings"]) == (2, 1, 2)
    assert found["counts"] == {"odd count": 1, "overlap": 1, "holes": 1}
    assert found["faults"][0] == {
        "severity": "error",
        "kind": "odd count",
        "message": "3 numbers, an odd count; runs are pairs of start and length",
        "file": str(tmp_path / "train.csv"),
        "row": "line 5",
        "image": "b",
        "instance": None,
    }


def test_check_lists_all_errors_but_a_few_warnings_of_a_kind(tmp_path):
    ring = "b,33 3 49 1 51 1 65 3,16,12,cort"
    rows = [ROWS[0], *[f"b,{n} 1 9,16,12,cort" for n in range(9)], *[ring] * 9]
    competition(tmp_path, rows)
    result = run("check", tmp_path, "--limit", 2)
    assert result.output.count("│ error") == 9
    assert result.output.count("holes of") == 2
    assert result.output.count("the same mask as") == 2
    # 9 rings with holes, 36 pairs of equal ones, 1 image with overlap
    assert "… and 41 more warnings; a higher --limit, or --json, lists them" in result.output
    assert "odd count: 9, duplicate mask: 36, overlap: 1, holes: 9" in result.output


def test_check_of_annotations_alone(tmp_path):
    competition(tmp_path, ROWS[::2], images=())
    assert run("check", tmp_path).exit_code == 1
    assert run("check", tmp_path, "--no-images").exit_code == 0


def test_convert_tells_what_overlap_cost(tmp_path):
    competition(tmp_path / "from", ROWS)
    result = run("convert", tmp_path / "from", tmp_path / "to", "--to", "labels", "--ending", "png")
    assert result.exit_code == 0
    assert "2 images, 3 cells, as labels" in result.output
    assert "overlap: 1 pixels were claimed by several cells" in result.output
    assert "1 claims were dropped, 0 cells vanished" in result.output
    found = sorted(str(p.relative_to(tmp_path / "to")) for p in (tmp_path / "to").rglob("*.*"))
    assert found == ["classes.csv", "images/a.png", "images/b.png", "labels/a.png", "labels/b.png"]
    back = run("convert", tmp_path / "to", tmp_path / "back", "--to", "coco")
    assert back.output == f"{tmp_path / 'back'}: 2 images, 3 cells, as coco\n"


def test_convert_with_the_format_named(tmp_path):
    competition(tmp_path, ROWS[::2])
    labels_folder(tmp_path, {"a": [[0, 1]], "b": [[1, 2]]})
    args = ("convert", tmp_path, tmp_path / "to", "--to", "competition", "--format", "labels")
    assert "2 images, 3 cells" in run(*args).output


def test_bad_choices_are_refused(tmp_path):
    competition(tmp_path, ROWS)
    assert run("convert", tmp_path, tmp_path / "to", "--to", "voc").exit_code == 2
    assert run("convert", tmp_path, tmp_path / "to").exit_code == 2
    assert run("info", tmp_path, "--format", "voc").exit_code == 2


def test_help_needs_no_heavy_import():
    import subprocess

    code = (
        "import sys, somaseg.cli.data, somaseg.cli.submit;"
        "print([m for m in ('numpy', 'cv2', 'numba', 'torch', 'tifffile') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
