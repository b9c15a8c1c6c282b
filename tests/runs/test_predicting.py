"""Predictions by tasks, run one after the other in this process: what one process finds."""

import json
from functools import cache

import numpy as np
import pytest
import tifffile
import zarr

from somaseg.data.load import load_dataset
from somaseg.data.synthetic import make_image
from somaseg.errors import SomasegError
from somaseg.predict.load import load_segmenter
from somaseg.predict.outputs import segment_samples
from somaseg.predict.predictor import Predictor
from somaseg.runs import predicting
from somaseg.runs.predicting import Request, main, predict_by_tasks

OPTIONS = {
    "model": None,
    "views": None,
    "tile": 150,
    "overlap": 40,
    "diameter": None,
    "overlays": False,
    "more": ("cells",),
    "pixel_size": None,
    "large": 64 * 64,
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A slide as OME-Zarr that knows the size of its pixels, and three small images."""
    folder = tmp_path_factory.mktemp("slides")
    slide = make_image("shsy5y", 2, (260, 200))[0]
    group = zarr.open_group(folder / "scan.ome.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=slide, chunks=(100, 100))
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    level = {"path": "0", "coordinateTransformations": scale}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]
    for number in range(3):
        tifffile.imwrite(folder / f"{number}.tif", make_image("cort", number, (60, 60))[0])
    return list(load_dataset(folder))


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    monkeypatch.setattr(predicting, "load_segmenter", cache(load_segmenter))


def execute(tasks, jobs, report, module, *, of=0):
    for name, words in tasks:
        code = main(words)
        report(name, {"ended": code})


def tables(out):
    names = ("predictions.json", "submission.csv", "cells.csv", "images.json")
    return {name: (out / name).read_text() for name in names}


def test_slides_by_rows_and_images_by_shards_are_those_of_one_process(
    samples, tmp_path, monkeypatch
):
    assert len(samples) == 4
    request = Request(**OPTIONS)
    segmenter = request.segmenter()
    alone = segment_samples(segmenter, samples, tmp_path / "alone", False, 64 * 64, more=["cells"])
    assert alone.cells["scan"] > 2
    out, told = tmp_path / "out", []

    def report(name, event):
        told.append(name)

    arguments = (segmenter, out, execute, 2, report)
    predict_by_tasks(request.of(samples), *arguments)
    names = ["", "1/2", "2/2", "scan 1/2", "scan 2/2"]
    assert sorted(told) == names
    # Nothing is left for the network.
    monkeypatch.setattr(Predictor, "find", lambda *_: pytest.fail("predicted again"))
    joined = segment_samples(segmenter, samples, out, False, 64 * 64, more=["cells"])
    assert joined.cells == alone.cells
    assert tables(out) == tables(tmp_path / "alone")
    for path in (tmp_path / "alone" / "labels").iterdir():
        assert np.array_equal(tifffile.imread(path), tifffile.imread(out / "labels" / path.name))
    assert "area_um2" in (out / "cells.csv").read_text()
    # And nothing for tasks, when it is asked again.
    told.clear()
    predict_by_tasks(request.of(samples), *arguments)
    assert told == [""]


def test_a_slide_that_changes_while_it_is_predicted(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "slide.tif", make_image("cort", 4, (160, 150))[0])
    (slide,) = load_dataset(tmp_path / "slide.tif")

    def change(tasks, *_):
        content = tifffile.imread(slide.image_path)
        tifffile.imwrite(slide.image_path, content[:, ::-1], photometric="minisblack")
        assert main(tasks[0][1]) == 2
        raise SomasegError(json.loads(capsys.readouterr().out)["error"])

    request = Request(**OPTIONS)
    with pytest.raises(SomasegError, match=r"slide\.tif: has changed since; run the same"):
        predict_by_tasks(
            request.of([slide]), request.segmenter(), tmp_path / "out", change, 2, lambda *_: None
        )


def test_tasks_are_as_many_as_there_is_room_for(monkeypatch):
    parts = predicting._parts
    assert list(parts(3, 500, 3, 20)) == ["1/3", "2/3", "3/3"]
    assert len(list(parts(20_000, 500, 20_000, 2))) == 40
    assert len(list(parts(1001, 500, 1001, 2))) == 4
    assert list(parts(0, 500, 0, 2)) == []
