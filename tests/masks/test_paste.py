import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from somaseg.instances import Instances
from somaseg.masks import paste
from somaseg.masks.flat import from_crops
from tests.masks.strategies import full, is_tight, loose


@given(loose(soft=True))
def test_tighten_changes_no_pixel(case):
    x, values = case
    flat, rows = paste.tighten(*x.flat)
    assert rows.tolist() == list(range(len(x)))
    assert (full(flat, x.size) == values).all()
    assert is_tight(flat, x.size)


def test_tighten_drops_what_is_empty():
    crops = [np.zeros((2, 2), np.uint8), np.array([[0, 0, 7], [0, 0, 0]], np.uint8)]
    flat, rows = paste.tighten(*from_crops([[0, 0, 2, 2], [1, 1, 4, 3]], crops))
    assert rows.tolist() == [1]
    assert flat.boxes.tolist() == [[3, 1, 4, 2]]
    assert flat.pixels.tolist() == [7]


@given(loose(soft=True), st.floats(0, 0.999))
def test_binarise_is_above_the_threshold(case, threshold):
    x, values = case
    hard = x.binary(threshold, keep_empty=True)
    assert not hard.soft
    assert (full(hard.flat, x.size) == (values > threshold * 255)).all()
    tight = x.binary(threshold)
    left = (values > threshold * 255).any((1, 2))
    assert (full(tight.flat, x.size) == (values > threshold * 255)[left]).all()
    assert is_tight(tight.flat, x.size)
    assert (tight.scores == x.scores[left]).all()


@given(loose(soft=True), st.integers(0, 2**32 - 1))
def test_a_threshold_for_each_row(case, seed):
    x, values = case
    thresholds = np.random.default_rng(seed).random(len(x))
    hard = x.binary(thresholds, keep_empty=True)
    assert (full(hard.flat, x.size) == (values > thresholds[:, None, None] * 255)).all()


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 45, float("nan"), [0.5, 2]])
def test_thresholds_are_probabilities(threshold):
    x = Instances.from_masks(np.full((2, 3, 3), 9, np.uint8), soft=True)
    with pytest.raises(ValueError, match="mask thresholds lie in 0 <= t < 1"):
        x.binary(threshold)


def test_hard_masks_are_only_tightened_by_binary():
    crop = np.zeros((3, 3), np.uint8)
    crop[2, 0] = 1
    x = Instances.from_crops((5, 5), [[0, 0, 3, 3]], [crop])
    assert x.binary(0.9).boxes.tolist() == [[0, 2, 1, 3]]
    assert x.binary(0.9, keep_empty=True) is x


@given(
    loose(soft=True), st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 15), st.integers(1, 15)
)
def test_window_is_the_shifted_image(case, dx, dy, height, width):
    x, values = case
    seen, rows = x.window((height, width), (dx, dy))
    large = np.zeros((len(x), 60, 60), np.uint8)
    large[:, 20 : 20 + x.size[0], 20 : 20 + x.size[1]] = values
    expected = large[:, 20 - dy : 20 - dy + height, 20 - dx : 20 - dx + width]
    left = expected.any((1, 2))
    assert rows.tolist() == np.flatnonzero(left).tolist()
    assert seen.size == (height, width)
    assert (full(seen.flat, seen.size) == expected[left]).all()
    assert is_tight(seen.flat, seen.size)
    assert (seen.scores == x.scores[left]).all()


@given(loose(soft=True, least=1), st.integers(0, 2**32 - 1))
def test_fuse_is_the_weighted_mean_of_the_full_masks(case, seed):
    x, values = case
    rng = np.random.default_rng(seed)
    groups = rng.integers(-1, 3, len(x))
    groups[groups >= 0] = np.unique(groups[groups >= 0], return_inverse=True)[1]
    weights = rng.random(len(x)) + 0.1
    fused = full(paste.fuse(*x.flat, groups, weights), x.size)
    assert len(fused) == groups.max(initial=-1) + 1
    for g, mine in enumerate(fused):
        member = groups == g
        mean = np.tensordot(weights[member], values[member], 1) / weights[member].sum()
        assert np.abs(mine - mean).max() <= 0.501  # rounding, and float32 at a half
    if len(fused):
        totals = np.full(len(fused), 5.0)
        halved = full(paste.fuse(*x.flat, groups, weights, totals), x.size)
        for g, mine in enumerate(halved):
            mean = np.tensordot(weights[groups == g], values[groups == g], 1) / 5
            assert np.abs(mine - mean.clip(0, 255)).max() <= 0.501


def test_fuse_of_equal_masks_is_the_mask():
    x = Instances.from_masks(np.full((3, 4, 4), 200, np.uint8), soft=True)
    flat = paste.fuse(*x.flat, [0, 0, 0], [0.3, 0.2, 0.7])
    assert (flat.pixels == 200).all()
    assert flat.boxes.tolist() == [[0, 0, 4, 4]]


@pytest.mark.parametrize(
    ("groups", "weights", "reason"),
    [([0, 2, 2], [1, 1, 1], "a group has no member"), ([0, 1, 1], [0, 1, 1], "sum up to nothing")],
)
def test_fuse_faults(groups, weights, reason):
    x = Instances.from_masks(np.full((3, 4, 4), 200, np.uint8), soft=True)
    with pytest.raises(ValueError, match=reason):
        paste.fuse(*x.flat, groups, weights)


def test_fuse_of_nothing():
    assert len(paste.fuse(*Instances.empty((4, 4)).flat, [], []).boxes) == 0


def test_gather_takes_rows_in_any_order_and_twice():
    x = Instances.from_masks(np.eye(3, dtype=bool)[:, None, :])
    flat = paste.gather(*x.flat, [2, 0, 2])
    assert flat.boxes[:, 0].tolist() == [2, 0, 2]
    assert flat.offsets.tolist() == [0, 1, 2, 3]
