"""Channels on the command line: trained on, remembered, asked for otherwise, missing."""

import csv
import json

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

import somaseg as api
from somaseg.data.axes import Choice
from somaseg.data.images import read_image
from somaseg.data.ome_tiff import write_ome_tiff
from somaseg.data.synthetic_stains import STAINS, make_stained, write_stained
from somaseg.predict.load import describe_model
from tests.cli.run import somaseg

MODEL = {"family": "semantic", "network": "attention_unet", "pretrained": "none"}
MODEL |= {"widths": [4, 8], "diameter": 20}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model of actin and dapi, barely trained."""
    folder = tmp_path_factory.mktemp("channels")
    write_stained(folder / "data", 4, (64, 64))
    preset = {"model": MODEL, "training": {"steps": 2, "crop": 64, "batch": 1}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(preset))
    train = ("train", folder / "data", "--model", folder / "tiny.yaml", "--folds", 2, "--jobs", 1)
    somaseg(*train, "--channels", "actin, dapi", "--refit", "--out", folder / "run")
    somaseg(*train, "--channel", "dapi", "--out", folder / "dapi")
    return folder


def test_the_model_remembers_its_channels(run):
    config = yaml.safe_load((run / "run/config.yaml").read_text())
    assert config["data"]["channels"] == ["actin", "dapi"]
    assert describe_model(run / "run")["channels"] == ["actin", "dapi"]
    assert api.load(run / "run").channels == STAINS
    assert api.load(run / "dapi").channels == ("dapi",)


def test_predict_takes_the_models_channels(run, tmp_path):
    out = tmp_path / "masks"
    more = "cells,page,ome-zarr"
    somaseg("predict", run / "data", "-m", run / "run", "-o", out, "--write", more)
    planes = json.loads((out / "images.json").read_text())
    assert planes["stained-000"]["channel"] == [0, 1]
    with (out / "cells.csv").open() as file:
        columns = next(csv.reader(file))
    assert {"intensity_actin", "intensity_dapi"} <= set(columns)
    segmenter, image = api.load(run / "run"), make_stained(0, (64, 64))[0]
    labels = tifffile.imread(out / "labels/stained-000.tif")
    assert np.array_equal(labels, segmenter(image).to_labels())
    # What was predicted is data again, with both channels, and can be written as such.
    (sample, *_) = api.read(out).samples
    assert np.array_equal(sample.image(), image)
    somaseg("data", "convert", out, tmp_path / "mine", "--to", "labels")
    copy = tmp_path / "mine/images/stained-000.ome.tif"
    assert np.array_equal(np.moveaxis(tifffile.imread(copy), 0, -1), image)
    with tifffile.TiffFile(copy) as file:
        assert 'Name="actin"' in file.ome_metadata
    written = api.read(out / "ome-zarr", choice=Choice(channels=STAINS))
    assert np.array_equal(written["stained-000"].image(), image)
    # A model of one channel takes its own of the same files.
    somaseg("predict", run / "data", "-m", run / "dapi", "-o", tmp_path / "one", "--write", "cells")
    labels = tifffile.imread(tmp_path / "one/labels/stained-000.tif")
    assert np.array_equal(labels, api.load(run / "dapi")(image[..., 1]).to_labels())


def test_channels_of_other_names_are_asked_for(run, tmp_path):
    image = make_stained(7, (64, 64))[0]
    path = tmp_path / "other.ome.tif"
    write_ome_tiff(path, image[..., ::-1], channels=("blue", "red"))
    predict = ("predict", path, "-m", run / "run", "--write", "cells", "--no-overlays")
    done = somaseg(*predict, "-o", tmp_path / "a", check=False)
    assert done.returncode == 2
    wanted = "no channel 'actin'; it has 2 (blue, red); the model looks at actin, dapi"
    assert f"{path}" in done.stderr
    assert wanted in " ".join(done.stderr.split())
    somaseg(*predict, "-o", tmp_path / "b", "--channels", "red,blue")
    expected = api.load(run / "run")(image).to_labels()
    assert np.array_equal(tifffile.imread(tmp_path / "b/labels/other.tif"), expected)
    # Pages of a plain TIFF are channels by number.
    tifffile.imwrite(tmp_path / "pages.tif", np.moveaxis(image, -1, 0), photometric="minisblack")
    somaseg(
        *("predict", tmp_path / "pages.tif", "-m", run / "run", "-o", tmp_path / "c"),
        *("--channels", "0,1", "--write", "cells"),
    )
    assert np.array_equal(tifffile.imread(tmp_path / "c/labels/pages.tif"), expected)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--channels", "actin"), "looks at 2 channel(s) (actin, dapi), not at 1"),
        (("--channels", "actin,gfp"), "no channel 'gfp'; it has 2 (actin, dapi)"),
        (("--channels", "actin,0"), "channels actin, 0: two of them are the same"),
        (("--channels", "a,a"), "--channels a,a: give different ones"),
        (("--channels", "0,1", "--channel", "0"), "--channel and --channels: give one"),
    ],
)
def test_wrong_channels_are_one_line(run, tmp_path, words, told):
    one = run / "data/images/stained-000.tif"
    done = somaseg("predict", one, "-m", run / "run", "-o", tmp_path / "o", *words, check=False)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())


def test_families_that_cannot_are_refused_before_training(run, tmp_path):
    done = somaseg(
        *("train", run / "data", "--model", "pixel_forest", "--channels", "0,1"),
        *("--out", tmp_path / "run"),
        check=False,
    )
    assert done.returncode == 2
    assert "family 'pixel_forest'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_rgb_is_three_channels(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (sample,) = api.read(tmp_path, choice=_choice("red", "green", "blue"))
    assert np.array_equal(sample.image(), pixels)
    (sample,) = api.read(tmp_path, choice=_choice("2", "red"))
    assert np.array_equal(sample.image(), pixels[..., [2, 0]])
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


def _choice(*channels):
    return Choice(channels=channels)
