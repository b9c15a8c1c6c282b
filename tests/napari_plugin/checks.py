"""The plugin without a window: Qt draws nowhere, and the viewer is its model."""

import os
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tifffile

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
napari = pytest.importorskip("napari")
npe2 = pytest.importorskip("npe2")
QtWidgets = pytest.importorskip("qtpy.QtWidgets")

from napari.components import ViewerModel  # noqa: E402

import somaseg  # noqa: E402
from somaseg.data import load_dataset  # noqa: E402
from somaseg.data.synthetic import make_image  # noqa: E402
from somaseg.napari_plugin import widget as module  # noqa: E402
from somaseg.napari_plugin.layers import (  # noqa: E402
    add_to_dataset,
    features_of,
    plane_on_show,
    reader_of,
    write_layers,
)
from somaseg.predict.outputs import segment_samples  # noqa: E402
from tests.predict.test_outputs import sample, segmenter  # noqa: E402


@pytest.fixture
def app():
    return QtWidgets.QApplication.instance() or QtWidgets.QApplication([])


@pytest.fixture
def quick(monkeypatch):
    from somaseg.predict import load

    monkeypatch.setattr(load, "load_segmenter", lambda model, diameter: segmenter())


def wait_for(app, widget):
    end = time.monotonic() + 30
    while widget.worker is not None and time.monotonic() < end:
        app.processEvents()
        time.sleep(0.01)
    assert widget.worker is None


def test_the_manifest_names_what_there_is():
    manifest = npe2.PluginManifest.from_file(Path(somaseg.__file__).parent / "napari.yaml")
    assert manifest.name == "somaseg"
    for command in manifest.contributions.commands:
        place, name = command.python_name.split(":")
        assert callable(getattr(import_module(place), name))


def test_segment_correct_keep(app, quick, tmp_path):
    viewer = ViewerModel()
    movie = np.stack([make_image("cort", k, (60, 50))[0] for k in range(3)])
    viewer.add_image(movie, name="movie", scale=(1, 0.5, 0.5))
    shown = module.SegmentWidget(viewer)
    assert shown.image.value is viewer.layers["movie"]
    viewer.dims.set_point(0, 2)
    assert np.array_equal(plane_on_show(viewer.layers["movie"], viewer.dims.current_step), movie[2])
    shown.segment()
    wait_for(app, shown)
    layer = viewer.layers["movie cells"]
    cells = segmenter()(movie[2])
    assert np.array_equal(layer.data, cells.to_labels())
    assert shown.said.value == f"{len(cells)} cells"
    assert layer.features["score"].iloc[1:].tolist() == cells.scores.round(4).tolist()
    assert layer.scale.tolist() == [0.5, 0.5]
    layer.data[layer.data == 1] = 0  # corrected: one is gone, one is new
    layer.data[:3, :3] = 99
    shown.folder.value = tmp_path / "mine"
    shown.keep()
    (kept,) = load_dataset(tmp_path / "mine")
    assert kept.id == "movie"
    assert np.array_equal(kept.image(), movie[2])
    assert kept.pixel_size == 0.5
    assert len(kept.annotated()) == len(np.unique(layer.data)) - 1
    shown.cells.value = viewer.add_labels(np.zeros((5, 5), int))
    shown.keep()
    assert "do not fit an image of 50×60" in shown.said.value


def test_cancel_and_errors_are_told(app, monkeypatch):
    from somaseg.predict import load

    viewer = ViewerModel()
    viewer.add_image(np.zeros((60, 50), np.uint8), name="a")
    shown = module.SegmentWidget(viewer)
    monkeypatch.setattr(module, "show_error", lambda text: None)
    shown.model.value = "nowhere/model.safetensors"
    shown.segment()
    wait_for(app, shown)
    assert "nowhere/model.safetensors" in shown.said.value

    class Slow:
        def bands(self, image, progress):
            for k in range(1000):
                progress(k, 1000)
                time.sleep(0.01)

    monkeypatch.setattr(load, "load_segmenter", lambda model, diameter: Slow())
    shown.segment()
    shown.stop()
    wait_for(app, shown)
    assert shown.said.value == "cancelled"
    assert len(viewer.layers) == 1


def test_predictions_are_read_and_data_sets_written(tmp_path):
    one = sample(tmp_path, "a", 0, size=(60, 50))
    out = tmp_path / "out"
    segment_samples(segmenter(), [one], out)
    assert reader_of(str(tmp_path)) is None
    assert reader_of([str(out)]) is None
    image, labels = reader_of(str(out))(str(out))
    assert np.array_equal(image[0], one.image())
    assert np.array_equal(labels[0], tifffile.imread(out / "labels/a.tif"))
    cells = load_dataset(out)["a"].annotated()
    assert labels[1]["features"]["score"][1:] == features_of(cells)["score"][1:]
    viewer = ViewerModel()
    viewer.add_image(image[0], **image[1])
    layer = viewer.add_labels(labels[0], **labels[1])
    data = [
        (image[0], {"name": "a"}, "image"),
        (layer.data, {"features": layer.features}, "labels"),
    ]
    written = write_layers(str(tmp_path / "set"), data)
    assert [Path(path).name for path in written] == ["a.tif", "a.tif"]
    add_to_dataset(tmp_path / "set", "b", image[0], layer.data * 0)
    back = load_dataset(tmp_path / "set")
    assert back.ids == ["a", "b"]
    found = back["a"].annotated()
    assert np.array_equal(found.to_labels(), cells.to_labels())
    assert found.scores.tolist() == cells.scores.round(4).tolist()
    assert [found.names[k] for k in found.classes] == [cells.names[k] for k in cells.classes]
