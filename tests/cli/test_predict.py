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
    image = make_image("cort", 4, (376, 376))[0]
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
    write_dataset(tmp_path / "data", 1, size=(96, 128))
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
