import json
import re

import cv2
import numpy as np
import pytest
import tifffile
import typer
from typer.testing import CliRunner

from somaseg.cli.evaluate import evaluate
from somaseg.cli.predict import predict
from somaseg.data.synthetic import make_image, write_dataset
from somaseg.errors import SomasegError
from somaseg.predict.load import load_segmenter, shipped_model
from somaseg.scoring import Overlaps

app = typer.Typer()
app.command()(predict)
app.command()(evaluate)


def run(*arguments):
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, [str(a) for a in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_tiles_and_whole_image_agree_with_the_model_that_comes_along():
    """Tiles lie on the grid of the network, as the whole does."""
    image = make_image("cort", 9, (376, 376))[0]
    whole = load_segmenter(tile=512)(image)
    segmenter = load_segmenter(tile=290, overlap=60)
    assert len(segmenter.predictor.grid(image.shape)) == 4
    tiled = segmenter(image)
    hits = int((Overlaps.between(whole, tiled).matches((75,))[0] >= 0).sum())
    assert len(whole) >= 8
    assert abs(len(tiled) - len(whole)) <= 1
    assert hits >= len(whole) - 1


def test_options_reach_the_prediction(tmp_path):
    image = make_image("cort", 4, (188, 220))[0]
    cv2.imwrite(str(tmp_path / "a.png"), image)
    out = tmp_path / "out"
    text = run("predict", tmp_path / "a.png", "--out", out, "--tile", 150, "--overlap", 40)
    segmenter = load_segmenter(tile=150, overlap=40)
    labels = tifffile.imread(out / "labels" / "a.tif")
    assert np.array_equal(labels, segmenter(image).to_labels())
    found = json.loads((out / "predictions.json").read_text())
    assert f"1 images, {len(found)} cells" in text
    assert len(found) == labels.max() > 0
    run("predict", tmp_path / "a.png", "--out", out, "--tta", "scales", "--no-overlays")
    labels = tifffile.imread(out / "labels" / "a.tif")
    assert np.array_equal(labels, load_segmenter(views="scales")(image).to_labels())


def test_images_of_one_name_are_refused(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "x.png"), np.zeros((50, 50), np.uint8))
    with pytest.raises(SomasegError, match="both are called 'x'"):
        run("predict", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tta", "some"), "views 'some': not one of none, flips, all, scales, flips+scales"),
        (("--tile", "300", "--overlap", "101"), "tiles of 300 pixels overlap by 0 … 100, not 101"),
    ],
)
def test_mistakes(tmp_path, options, message):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((50, 50), np.uint8))
    with pytest.raises(SomasegError, match=re.escape(message)):
        run("predict", tmp_path / "x.png", "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_evaluate_predicts_with_views(tmp_path):
    write_dataset(tmp_path / "data", 1, size=(64, 80))
    model = shipped_model()
    for views in ("none", "flips"):
        scored = json.loads(
            run("evaluate", tmp_path / "data", "--model", model, "--tta", views, "--json")
        )
        images = tmp_path / "data" / "train"
        run("predict", images, "--out", tmp_path / views, "--tta", views, "--no-overlays")
        of_files = json.loads(run("evaluate", tmp_path / "data", tmp_path / views, "--json"))
        assert scored["map"] == pytest.approx(of_files["map"])
        assert len(scored["images"]) == len(of_files["images"]) == 3


def test_evaluate_wants_predictions_or_a_model(tmp_path):
    write_dataset(tmp_path / "data", 1, size=(64, 64))
    with pytest.raises(SomasegError, match="one of both"):
        run("evaluate", tmp_path / "data")
    with pytest.raises(SomasegError, match="one of both"):
        run("evaluate", tmp_path / "data", tmp_path, "--model", shipped_model())
    with pytest.raises(SomasegError, match="give a --model"):
        run("evaluate", tmp_path / "data", tmp_path, "--tta", "flips")


def coco_with(images, path):
    categories = [{"id": 1, "name": "cell"}]
    entries = [
        {"id": i, "file_name": str(image), "width": 64, "height": 64}
        for i, image in enumerate(images)
    ]
    content = {"images": entries, "annotations": [], "categories": categories}
    path.write_text(json.dumps(content))


def test_absolute_names_in_a_coco_file_overwrite_nothing(tmp_path):
    """Equal stems in two folders make ids of whole paths; overlays once went over the images."""
    images = []
    for seed, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        images.append(tmp_path / folder / "x.png")
        cv2.imwrite(str(images[-1]), make_image("cort", seed, (64, 64))[0])
    before = [image.read_bytes() for image in images]
    (tmp_path / "data").mkdir()
    coco_with(images, tmp_path / "data" / "annotations.json")
    out = tmp_path / "out"
    run("predict", tmp_path / "data" / "annotations.json", "--out", out, "--tta", "none")
    assert [image.read_bytes() for image in images] == before
    assert all(len(list(image.parent.iterdir())) == 1 for image in images)
    assert len(list((out / "labels").iterdir())) == len(list((out / "overlays").iterdir())) == 2


def test_results_over_what_is_read_are_refused_before_anything_starts(tmp_path):
    write_label_data(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    for paths in ([tmp_path], [tmp_path / "labels"]):
        with pytest.raises(SomasegError, match=r"labels/b\.tif: would be written over .*b\.tif"):
            run("predict", *paths, "--out", tmp_path)
    table = tmp_path / "submission.csv"
    table.write_text("id,predicted\na,1 2\nb,1 2\n")
    with pytest.raises(SomasegError, match=r"submission\.csv: would be written over"):
        run("predict", table, "--out", tmp_path)
    table.unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def write_label_data(folder):
    """Two images; of the second one the labels are a TIFF, as those that predict writes."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    labels = np.zeros((64, 64), np.uint16)
    labels[4:9, 4:9] = 1
    for name, ending in (("a", "png"), ("b", "tif")):
        image = make_image("cort", 1, (64, 64))[0]
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
        cv2.imwrite(str(folder / "labels" / f"{name}.{ending}"), labels)


@pytest.fixture
def quick(monkeypatch):
    """Predict with a model of one threshold."""
    from tests.predict.test_outputs import segmenter

    monkeypatch.setattr("somaseg.predict.load.load_segmenter", lambda *_, **__: segmenter())


def ending(*arguments):
    """Exit code and all that was said."""
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_one_bad_image_does_not_cost_the_rest(tmp_path, quick):
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "day2").mkdir(parents=True)
    image = make_image("cort", 4, (64, 70))[0]
    for name in ("good.png", "cut.png", "late.png"):
        cv2.imwrite(str(folder / name), image)
    data = (folder / "late.png").read_bytes()
    (folder / "late.png").write_bytes(data[: len(data) // 2])
    (folder / "cut.png").write_bytes(b"\x89PNG")
    tifffile.imwrite(
        folder / "stack.tif", np.zeros((5, 64, 70), np.uint8), photometric="minisblack"
    )
    cv2.imwrite(str(folder / "twin.png"), image)
    cv2.imwrite(str(folder / "twin.tif"), image)
    (folder / "gone.tif").symlink_to(folder / "nowhere.tif")
    (folder / "notes.txt").write_text("a format of its own")
    code, said = ending("predict", folder, "--out", out)
    assert code == 1
    assert "7 images, " in said  # a stack is as many
    left = [line for line in said.splitlines() if line.startswith("left out: ")]
    assert len(left) == 4
    for name in ("cut.png", "late.png", "gone.tif", "twin.tif"):
        assert sum(name in line for line in left) == 1
    assert "day2: a folder within the folder" in said
    assert "1 files of .txt" in said
    names = [path.name for path in sorted((out / "labels").iterdir())]
    assert [name for name in names if not name.startswith("stack")] == ["good.tif", "twin.tif"]
    assert len(names) == 7
    for name in ("twin.png", "twin.tif", "cut.png", "late.png", "stack.tif", "gone.tif"):
        (folder / name).unlink()
    code, said = ending("predict", folder, "--out", out)
    assert code == 0
    assert "1 of them stood already" in said
    (folder / "good.png").write_bytes(b"")
    with pytest.raises(SomasegError, match=r"no image that can be predicted: .*good\.png"):
        run("predict", folder, "--out", out)


def test_images_in_which_nothing_is_found_are_told(tmp_path, quick):
    for name, value in (("a", 0), ("b", 9)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((64, 70), value, np.uint8))
    code, said = ending("predict", tmp_path, "--out", tmp_path / "out", "--write", "")
    assert code == 0
    assert "note: no cell found in 2 of 2 images; is the model of such images" in said


def test_a_stop_says_what_stands_and_how_to_go_on(tmp_path, quick, monkeypatch):
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), make_image("cort", 4, (64, 70))[0])
    images = [tmp_path / f"{name}.png" for name in "abc"]
    from somaseg.predict import image_work

    write = image_work.write_label_image

    def stop(path, bands):
        if path.stem == "c":
            raise KeyboardInterrupt
        write(path, bands)

    monkeypatch.setattr(image_work, "write_label_image", stop)
    code, said = ending("predict", *images, "--out", tmp_path / "out", "--jobs", "1")
    assert code == 130
    assert "results of 2 of 3 images stand in" in said
    assert "the same command goes on" in said
    monkeypatch.setattr(image_work, "write_label_image", write)
    code, said = ending("predict", *images, "--out", tmp_path / "out")
    assert code == 0
    assert "2 of them stood already" in said


def test_shards_share_a_folder(tmp_path, quick):
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), make_image("cort", 4, (64, 70))[0])
    images = [tmp_path / f"{name}.png" for name in "abc"]
    for part in ("1/2", "2/2"):
        code, said = ending("predict", *images, "--out", tmp_path / "out", "--shard", part)
        assert code == 0
        assert "without --shard writes the tables" in said
    code, said = ending("predict", *images, "--out", tmp_path / "out")
    assert "3 of them stood already" in said
    assert (tmp_path / "out" / "predictions.json").is_file()
    for wrong in ("0/2", "3/2", "x", "1/"):
        with pytest.raises(SomasegError, match="give K/N"):
            run("predict", *images, "--out", tmp_path / "out", "--shard", wrong)
