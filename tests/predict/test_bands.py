import shutil
import tracemalloc
from functools import lru_cache

import numpy as np
import pytest
import tifffile

from somaseg.data import windows
from somaseg.decide import SettleSettings, settle
from somaseg.decide.rescore import describe
from somaseg.instances import Instances
from somaseg.masks.overlap import pairwise_iou
from somaseg.predict.bands import Bands, segment
from somaseg.predict.predictor import Predictor
from somaseg.predict.store import load_predictions, save_predictions
from tests.predict.fakes import INFO, FakeDense, FakeRegion, discs

SETTINGS = {
    "small": SettleSettings(score=0, min_area=5),
    "large": SettleSettings(score=0, min_area=30, mask_threshold=0.6),
}


@lru_cache
def image(size=(400, 310), count=220, gap=0.4):
    """Discs of which some touch; 8 bit."""
    return np.round(discs(size, count, radius=(3, 9), gap=gap)[0] * 250).astype(np.uint8)


def painted(bands, height=70):
    """The label image, from strips."""
    strips = []
    for start in range(0, bands.size[0], height):
        cells, numbers = bands.strip(start, min(start + height, bands.size[0]))
        strips.append(np.concatenate([[0], numbers + 1])[cells.to_labels()])
    return np.concatenate(strips)


@pytest.mark.parametrize("one_class", [False, True])
@pytest.mark.parametrize("kind", [FakeDense, FakeRegion])
def test_bands_are_what_memory_would_give(kind, one_class, tmp_path):
    predictor = Predictor([kind()], tile=96, overlap=24)
    told = []
    bands = segment(
        predictor, SETTINGS, one_class, image(), tmp_path / "a", progress=lambda *x: told.append(x)
    )
    expected = settle(predictor(image()), SETTINGS, one_class=one_class)
    found = Instances.concat(list(bands))
    assert len(bands) == len(found) == len(expected) > 150
    assert len(bands.parts) == 6
    assert told == [(k, 24) for k in range(1, 25)]
    iou = pairwise_iou(expected, found)
    assert (iou.max(axis=1) == 1).all()
    partner = iou.argmax(axis=1)
    assert np.array_equal(found.scores[partner], expected.scores)
    assert np.array_equal(found.classes[partner], expected.classes)
    labels = painted(bands)
    assert np.array_equal(labels > 0, expected.to_labels() > 0)
    for k, cell in enumerate(found):
        assert (labels[cell.mask(0)] == k + 1).all()


def test_overlapping_raw_instances_end_up_disjoint(tmp_path):
    class Doubled(FakeRegion):
        """Also finds each cell moved by some pixels: settling has pixels to share out."""

        def find(self, gray):
            found = super().find(gray)
            moved = found.window(found.size, (3, 4))[0]
            return Instances.concat([found, moved.with_scores(moved.scores * np.float32(0.5))])

    loose = {name: SettleSettings(score=0, min_area=3, nms_iou=0.9) for name in INFO.names}
    predictor = Predictor([Doubled()], tile=96, overlap=24)
    found = Instances.concat(list(segment(predictor, loose, False, image(), tmp_path / "a")))
    assert np.array_equal(found.areas.sum(), (found.to_labels() > 0).sum())
    expected = settle(predictor(image()), loose)
    assert np.array_equal(found.to_labels() > 0, expected.to_labels() > 0)
    assert len(found) == len(expected)


def test_goes_on_after_the_last_finished_row(tmp_path):
    class Killed(Exception):
        pass

    def stop(done, total):
        if done == 14:
            raise Killed

    model = FakeRegion()
    predictor = Predictor([model], tile=96, overlap=24)
    reference = segment(predictor, SETTINGS, True, image(), tmp_path / "whole")
    model.shapes.clear()
    with pytest.raises(Killed):
        segment(predictor, SETTINGS, True, image(), tmp_path / "a", progress=stop)
    assert len(model.shapes) == 14
    model.shapes.clear()
    told = []
    bands = segment(
        predictor, SETTINGS, True, image(), tmp_path / "a", progress=lambda *x: told.append(x)
    )
    # Three rows of four tiles were done; two tiles of the fourth are done again.
    assert len(model.shapes) == 12
    assert told[:4] == [(4, 24), (8, 24), (12, 24), (13, 24)]
    assert np.array_equal(painted(bands), painted(reference))


def test_no_row_tells_of_the_cells_of_another(tmp_path):
    predictor = Predictor([FakeRegion()], tile=96, overlap=24)
    segment(predictor, SETTINGS, True, image(), tmp_path)
    rows = [load_predictions(path)["cells"] for path in sorted(tmp_path.glob("cells*"))]
    raw = predictor(image())
    joined = Instances.concat(rows)
    assert len(rows) == 6
    assert np.array_equal(joined.boxes, raw.boxes)
    assert np.array_equal(joined.pixels, raw.pixels)
    assert np.array_equal(joined.scores, raw.scores)


@pytest.mark.parametrize("change", ["image", "model", "tile", "stamp"])
def test_starts_over_when_anything_else_is_predicted(tmp_path, change):
    model = FakeRegion(threshold=0.4 if change == "model" else 0.5)
    segment(
        Predictor([FakeRegion()], tile=96, overlap=24), SETTINGS, True, image(), tmp_path, stamp=[1]
    )
    other = image(count=100) if change == "image" else image()
    predictor = Predictor([model], tile=120 if change == "tile" else 96, overlap=24)
    stamp = [2] if change == "stamp" else [1]
    bands = segment(predictor, SETTINGS, True, other, tmp_path, stamp=stamp)
    assert len(model.shapes) == len(predictor.grid(other.shape))
    shutil.rmtree(tmp_path)
    again = segment(predictor, SETTINGS, True, other, tmp_path)
    assert np.array_equal(painted(bands), painted(again))


def test_other_settings_need_no_network(tmp_path):
    model = FakeRegion()
    predictor = Predictor([model], tile=96, overlap=24)
    few = {name: SettleSettings(score=0.99) for name in INFO.names}
    all_of_them = len(segment(predictor, SETTINGS, False, image(), tmp_path))
    model.shapes.clear()
    assert 0 < len(segment(predictor, few, False, image(), tmp_path)) < all_of_them
    assert not model.shapes


@pytest.mark.parametrize("kind", [FakeDense, FakeRegion])
def test_an_image_without_cells(kind, tmp_path):
    predictor = Predictor([kind()], tile=96, overlap=24)
    blank = np.full((200, 300), 9, np.uint8)
    bands = segment(predictor, SETTINGS, True, blank, tmp_path)
    assert len(bands) == 0
    assert not painted(bands).any()
    assert bands.strip(0, 10)[0].names == INFO.names


def test_memory_does_not_grow_with_the_height(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "_STRIP", 1 << 14)
    part = image((200, 310), 100)
    predictor = Predictor([FakeRegion()], tile=96, overlap=24)
    segment(predictor, SETTINGS, True, part, tmp_path / "warm")  # what is compiled stays
    peaks = []
    for times in (4, 20):
        path = tmp_path / f"{times}.tif"
        tifffile.imwrite(path, np.tile(part, (times, 1)))
        tracemalloc.start()
        bands = segment(predictor, SETTINGS, True, windows.map_image(path), tmp_path / str(times))
        cells = sum(len(bands.strip(y, y + 100)[0]) for y in range(0, times * 200, 100))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert cells > len(bands) > times * 50
    assert peaks[1] < 1.1 * peaks[0]


def test_strips_number_the_cells_of_all_bands(tmp_path):
    labels = discs((90, 60), 14, radius=(4, 10))[1]
    cells = Instances.from_labels(labels, names=("a",))
    cells = cells[np.argsort(cells.boxes[:, 1], kind="stable")]
    parts = [cells[:5], cells[5:5], cells[5:]]
    for i, part in enumerate(parts):
        save_predictions(tmp_path / f"{i}.npz", {"band": part})
    bands = Bands((90, 60), [tmp_path / f"{i}.npz" for i in range(3)])
    assert len(bands) == len(cells)
    assert bands.counts == [5, 0, len(cells) - 5]
    assert np.array_equal(painted(bands, 13), cells.to_labels())


class Sizes:
    """Stands for a learned rescoring: a score that tells of the rank and of the whole image."""

    def __call__(self, raw, whole=None):
        rows = describe(raw, INFO.names, {"small": 30.0}, True, whole)
        weights = np.linspace(0.1, 1, rows.shape[1])
        return raw.with_scores(1 / (1 + np.exp(-np.tanh(rows) @ weights / 4)))


@pytest.mark.parametrize("kind", [FakeDense, FakeRegion])
def test_rescoring_by_bands_is_that_of_the_whole_image(kind, tmp_path):
    """Ranks, medians and votes are the image's, neighbours those of the next rows."""
    predictor = Predictor([kind()], tile=96, overlap=24)
    raw = Sizes()(predictor(image()))
    expected = settle(raw, SETTINGS, one_class=True)
    for folder in (None, tmp_path / "a"):
        bands = segment(predictor, SETTINGS, True, image(), folder, rescorer=Sizes())
        found = bands.whole()
        assert len(found) == len(expected) > 150
        iou = pairwise_iou(expected, found)
        assert (iou.max(axis=1) == 1).all()
        partner = iou.argmax(axis=1)
        assert np.allclose(found.scores[partner], expected.scores, atol=1e-6)
        assert np.array_equal(found.classes[partner], expected.classes)
    plain = segment(predictor, SETTINGS, True, image(), tmp_path / "b").whole()
    assert not np.array_equal(np.sort(plain.scores), np.sort(found.scores))


def test_what_memory_holds_is_what_files_hold(tmp_path):
    predictor = Predictor([FakeRegion()], tile=96, overlap=24)
    held = segment(predictor, SETTINGS, False, image())
    stored = segment(predictor, SETTINGS, False, image(), tmp_path / "a")
    assert np.array_equal(painted(held), painted(stored))
    assert np.array_equal(held.whole().to_labels(), painted(held))
