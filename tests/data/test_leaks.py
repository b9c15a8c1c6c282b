"""Images of one field: synthetic series that move, blur and divide."""

import cv2
import numpy as np
import pytest

from somaseg.data import Dataset, Sample, make_folds
from somaseg.data.audit import audit
from somaseg.data.leaks import Pair, fields, find_leaks, keep_together, threshold
from somaseg.data.synthetic import make_image

SIZE = (260, 352)


def frames(seed, shift=(0, 0), blur=0.0, moved=0, size=SIZE):
    """A frame of a field: shifted, out of focus, with cells that went elsewhere, and new noise."""
    height, width = size
    scene, cells = make_image("cort", seed, (height + 80, width + 80))
    scene = scene.astype(np.float32)
    rng = np.random.default_rng([seed, *np.abs(shift), moved])
    for x0, y0, x1, y1 in cells.boxes[:moved].tolist():  # a cell divides: two smaller ones lie here
        part = scene[y0:y1, x0:x1]
        half = cv2.resize(part, (max(1, (x1 - x0) // 2), y1 - y0))
        scene[y0:y1, x0:x1] = np.hstack([half, half, half])[:, : x1 - x0]
    if blur:
        scene = cv2.GaussianBlur(scene, (0, 0), blur)
    dy, dx = 40 + shift[0], 40 + shift[1]
    image = scene[dy : dy + height, dx : dx + width]
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def dataset_of(folder, images, group=None):
    folder.mkdir(exist_ok=True)
    samples = []
    for name, image in images.items():
        cv2.imwrite(str(folder / f"{name}.png"), image)
        samples.append(Sample(name, image.shape[:2], folder / f"{name}.png", group=group))
    return Dataset(tuple(samples), (), str(folder))


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Three fields with two or three frames each, among six others."""
    images = {f"other{k}": frames(k) for k in range(6)}
    images |= {"a0": frames(10), "a1": frames(10, (7, -22)), "a2": frames(10, (-15, 30))}
    images |= {"b0": frames(11), "b1": frames(11, (3, 4), blur=1.2)}
    images |= {"c0": frames(12), "c1": frames(12, (-9, 2), moved=6)}
    return dataset_of(tmp_path_factory.mktemp("series"), images)


def test_series_that_move_blur_and_divide_are_found_and_nothing_else(series):
    pairs = find_leaks(series)
    assert fields(pairs) == [("a0", "a1", "a2"), ("b0", "b1"), ("c0", "c1")]
    shifts = {(pair.first, pair.second): pair.shift for pair in pairs}
    assert np.abs(np.subtract(shifts["a0", "a1"], (-7, 22))).max() <= 1


def test_what_shows_one_field_shares_a_fold(series):
    with pytest.warns(UserWarning, match="7 images show a field that another one shows"):
        grouped = keep_together(series, 3)
    folds = make_folds(grouped, 3)
    for members in (("a0", "a1", "a2"), ("b0", "b1"), ("c0", "c1")):
        assert len({folds[name] for name in members}) == 1
    # Groups that the data give are not touched.
    given = dataset_of(series.samples[0].image_path.parent, {"x": frames(10)}, group="g")
    assert keep_together(given, 3) is given


def test_too_few_fields_are_told_and_left(tmp_path):
    same = dataset_of(
        tmp_path / "s", {"a": frames(1), "b": frames(1, (4, 4)), "c": frames(1, (9, 0))}
    )
    with pytest.warns(UserWarning, match="too few fields for 2 folds"):
        assert keep_together(same, 2) is same


def test_large_images_are_reduced_and_sizes_may_differ(tmp_path):
    big = {f"big{k}": frames(20, (0, 12 * k), size=(560, 900)) for k in range(2)}
    big |= {"alone": frames(21, size=(560, 900)), "small": frames(20)}
    assert fields(find_leaks(dataset_of(tmp_path / "s", big))) == [("big0", "big1")]


def test_the_check_names_them(series):
    folder = series.samples[0].image_path.parent
    named = [fault for fault in audit(folder).faults if fault.kind == "same field"]
    assert {fault.image for fault in named} >= {"a1", "b1", "c1"}
    assert all("moved by" in fault.message and fault.severity == "warning" for fault in named)


def test_fields_join_chains():
    pairs = [Pair("a", "b", 50, (0, 0)), Pair("c", "d", 40, (0, 0)), Pair("b", "c", 30, (0, 0))]
    assert fields(pairs) == [("a", "b", "c", "d")]


def test_the_threshold_rises_with_the_peaks_of_unrelated_pairs():
    rng = np.random.default_rng(0)
    low, high = rng.normal(6, 0.3, 500), rng.normal(20, 2, 500)
    assert threshold(low.astype(np.float32)) == 16
    assert 30 < threshold(high.astype(np.float32)) < 45
