import csv

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from somaseg.cli.data import app
from somaseg.data import load_dataset
from somaseg.data.formats.competition import write_training_table
from somaseg.data.synthetic import write_dataset


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def holed(tmp_path):
    """A competition folder in which one mask has a hole."""
    folder = tmp_path / "data"
    write_dataset(folder, n_per_class=1, size=(96, 96), n_test=0)
    dataset = load_dataset(folder)
    sample = dataset.samples[0]
    pixels = sample.instances.pixels.copy()
    row = int(sample.instances.areas.argmax())
    x0, y0, x1, y1 = sample.instances.boxes[row].tolist()
    start = sample.instances.offsets[row]
    crop = pixels[start : start + (y1 - y0) * (x1 - x0)].reshape(y1 - y0, x1 - x0)
    inside = cv2.erode(crop, np.ones((5, 5), np.uint8), borderValue=0)
    y, x = np.argwhere(inside)[0]
    crop[y, x] = 0
    cells = sample.instances.replace(pixels=pixels)
    samples = [type(sample)(sample.id, sample.size, sample.image_path, cells, sample.image_class)]
    mended = type(dataset)((*samples, *dataset.samples[1:]), dataset.names, dataset.source)
    write_training_table(folder / "train.csv", mended)
    return folder, sample.id, row


def test_a_mended_copy_with_its_changes(tmp_path, holed):
    folder, image, row = holed
    out = tmp_path / "clean"
    result = run("clean", folder, out, "--pieces", 0, "--slivers", 0, "--duplicates", 1)
    assert result.exit_code == 0, result.output
    assert "mended holes: 1; 1 pictures" in result.output
    rows = list(csv.DictReader((out / "changes.csv").open()))
    assert [(r["image"], r["instance"], r["kind"], r["what"]) for r in rows] == [
        (image, str(row), "holes", "filled 1 pixels")
    ]
    before, after = load_dataset(folder), load_dataset(out)
    assert after.ids == before.ids
    assert after[image].instances.areas[row] == before[image].instances.areas[row] + 1
    picture = cv2.imread(str(out / "changes" / f"holes-{image}-{row}.png"))
    assert picture.shape[1] > picture.shape[0] / 2
    halves = np.array_split(picture[40:], 2, axis=1)
    assert halves[0].std() > 0
    assert run("clean", out, tmp_path / "again", "--pieces", 0).output.count("holes") == 0


def test_what_is_not_allowed_is_not_mended(tmp_path, holed):
    folder, _, _ = holed
    arguments = ("--no-holes", "--pieces", 0, "--slivers", 0, "--duplicates", 1)
    result = run("clean", folder, tmp_path / "same", *arguments)
    assert "mended nothing" in result.output
    one, other = load_dataset(folder), load_dataset(tmp_path / "same")
    for sample in one:
        assert np.array_equal(sample.instances.pixels, other[sample.id].instances.pixels)
