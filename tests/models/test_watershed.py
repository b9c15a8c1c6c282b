import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from somaseg.data.synthetic import KINDS, make_image
from somaseg.models.semantic.targets import semantic_targets
from somaseg.models.watershed import flood, prominent_maxima, watershed_instances


@given(st.integers(0, 10_000), st.integers(1, 16), st.integers(1, 16))
def test_flood_equals_scikit_image(seed, h, w):
    # Distinct levels: of equal ones scikit-image takes them in the order of its heap.
    rng = np.random.default_rng(seed)
    levels = rng.permutation(256)[: h * w].reshape(h, w).astype(np.uint8)
    inside = rng.random((h, w)) > 0.25
    markers = np.where(rng.random((h, w)) < 0.05, np.arange(1, h * w + 1).reshape(h, w), 0)
    markers = (markers * inside).astype(np.int32)
    assert np.array_equal(flood(levels, markers, inside), watershed(levels, markers, mask=inside))


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.integers(1, 5))
def test_prominent_maxima_equal_brute_force(seed, h, w, prominence):
    rng = np.random.default_rng(seed)
    heights = rng.integers(0, 8, (h, w)).astype(np.uint8)
    inside = rng.random((h, w)) > 0.2
    ours = prominent_maxima(heights, inside, prominence)
    # By definition: islands above a sea that stands `prominence` below their own highest point.
    found = 0
    for highest in range(8):
        islands, count = label(inside & (heights.astype(int) > highest - prominence))
        for k in range(1, count + 1):
            own = islands == k
            if heights[own].max() == highest:
                found += 1
                assert len(set(ours[own].tolist())) == 1
                assert ours[own][0] > 0
    assert ours.max(initial=0) == found
    assert len(np.unique(ours[ours > 0])) == found


@pytest.mark.parametrize("prominence", [10, 25, 40])
def test_prominent_maxima_of_a_smooth_image_equal_scikit_image(prominence):
    image = cv2.GaussianBlur(
        np.random.default_rng(0).random((90, 120)).astype(np.float32), (0, 0), 3
    )
    heights = np.round(255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    peaks = h_maxima(heights, prominence, cross) > 0
    ours = prominent_maxima(heights, np.ones(heights.shape, bool), prominence)
    # Equal peaks with a high pass between them are two there and one here.
    assert set(ours[peaks].tolist()) == set(range(1, ours.max() + 1))
    assert label(peaks)[1] >= ours.max() > 3


def test_level_ground_goes_to_the_nearest():
    inside = np.zeros((3, 11), bool)
    inside[1] = True
    markers = np.zeros((3, 11), np.int32)
    markers[1, 0], markers[1, 8] = 1, 2
    grown = flood(np.zeros((3, 11), np.uint8), markers, inside)
    assert grown[1].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert not grown[[0, 2]].any()


@given(st.integers(0, 10_000))
def test_foreground_alone_gives_connected_components(seed):
    rng = np.random.default_rng(seed)
    foreground = cv2.GaussianBlur(rng.random((40, 50)).astype(np.float32), (0, 0), 2)
    foreground = (foreground - foreground.min()) / np.ptp(foreground)
    found = watershed_instances(
        foreground, foreground_threshold=0.5, seed_threshold=0.5, min_area=1
    )
    _, expected = cv2.connectedComponents((foreground > 0.5).astype(np.uint8), connectivity=4)
    # The same partition, whatever the numbers.
    pairs = np.unique(np.stack([found.labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == expected.max() + 1 == found.labels.max() + 1
    assert len(found.scores) == found.labels.max()


def agreement(found, truth):
    """Share of the pixels that are of the same cell, each found cell being its commonest one."""
    owner = np.array([np.bincount(truth[found == k]).argmax() for k in range(found.max() + 1)])
    assert len(set(owner)) == len(owner)
    return (owner[found] == truth).mean()


def two_cells():
    """Two discs that share a side, and a third on its own."""
    labels = np.zeros((30, 64), np.int32)
    y, x = np.mgrid[:30, :64]
    for k, cx in enumerate((14, 28, 54), 1):
        labels[((y - 15) ** 2 + (x - cx) ** 2 < 64) & (labels == 0)] = k
    return labels


def test_border_parts_what_touches():
    labels = two_cells()
    truth = semantic_targets(labels)
    assert watershed_instances(truth.foreground).labels.max() == 2
    found = watershed_instances(truth.foreground, truth.touching)
    assert found.labels.max() == 3
    assert np.array_equal(found.labels > 0, labels > 0)
    assert agreement(found.labels, labels) > 0.99
    assert found.scores == pytest.approx([1, 1, 1])


def test_seeds_part_what_touches():
    labels = two_cells()
    truth = semantic_targets(labels)
    found = watershed_instances(truth.foreground, seeds=truth.depth, prominence=0.2)
    assert found.labels.max() == 3
    assert agreement(found.labels, labels) > 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_true_borders_give_the_cells_back(kind):
    cells = make_image(kind, 5)[1].disjoint(largest_piece=True, min_area=20)[0]
    labels = cells.to_labels()
    truth = semantic_targets(labels)
    found = watershed_instances(truth.foreground, truth.touching).labels
    recovered = 0
    for k in range(1, len(cells) + 1):
        own = labels == k
        j = np.bincount(found[own]).argmax()
        recovered += (own & (found == j)).sum() > 0.75 * (own | (found == j)).sum()
    assert recovered > 0.9 * len(cells)


def test_foreground_without_a_seed_is_a_cell_of_low_score():
    foreground = np.zeros((20, 40), np.float32)
    foreground[5:15, 5:15] = 0.9
    foreground[5:15, 25:35] = 0.4
    found = watershed_instances(foreground, foreground_threshold=0.3)
    assert found.labels.max() == 2
    assert found.scores == pytest.approx([0.81, 0.16])


def test_score_is_foreground_times_surest_inside():
    foreground = np.full((5, 8), 0.8, np.float32)
    foreground[2, 3] = 0.9
    border = np.full((5, 8), 0.5, np.float32)
    border[2, 3] = 0.1
    found = watershed_instances(foreground, border, min_area=1)
    assert found.scores == pytest.approx([(39 * 0.8 + 0.9) / 40 * 0.9 * 0.9])


def test_a_faint_border_parts_where_a_threshold_would_not():
    labels = two_cells()
    truth = semantic_targets(labels)
    faint = 0.4 * truth.touching
    assert watershed_instances(truth.foreground, faint).labels.max() == 2
    found = watershed_instances(truth.foreground, faint, prominence=0.3)
    assert agreement(found.labels, labels) > 0.99
    assert watershed_instances(truth.foreground, faint, prominence=0.5).labels.max() == 2


def test_small_cells_are_dropped():
    foreground = np.zeros((20, 20), np.float32)
    foreground[2:5, 2:7] = 1
    foreground[10:13, 10:12] = 1
    found = watershed_instances(foreground, min_area=7)
    assert (found.labels > 0).sum() == 15
    assert len(found.scores) == 1


def test_nothing_there():
    found = watershed_instances(np.zeros((8, 9), np.float32))
    assert found.labels.shape == (8, 9)
    assert found.labels.dtype == np.int32
    assert found.scores.shape == (0,)


def test_shapes_must_fit():
    with pytest.raises(ValueError, match=r"border \(8, 9\)"):
        watershed_instances(np.zeros((9, 8), np.float32), np.zeros((8, 9), np.float32))
