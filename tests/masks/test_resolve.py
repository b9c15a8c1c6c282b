import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure

from somaseg.instances import Instances
from somaseg.masks import overlap, resolve
from tests.masks.strategies import blobs, full, is_tight, loose

ORDERS = st.sampled_from(["smallest_first", "largest_first", "score"])


@given(loose(), ORDERS)
def test_disjoint_masks_are_the_pixels_each_one_owns(case, order):
    x, values = case
    result, rows = x.disjoint(order)
    owners = x.to_labels(order)
    assert rows.tolist() == [i for i in range(len(x)) if (owners == i + 1).any()]
    for row, mine in zip(rows, full(result.flat, x.size), strict=True):
        assert (mine == (owners == row + 1)).all()
    assert full(result.flat, x.size).sum(0).max(initial=0) <= 1
    assert ((full(result.flat, x.size).sum(0) > 0) == (values.sum(0) > 0)).all()
    assert is_tight(result.flat, x.size)
    assert (result.scores == x.scores[rows]).all()


def dense_disjoint(masks, order, largest_piece, fill_holes, min_area):
    """The same steps with full masks."""
    masks = masks.copy()
    if fill_holes:
        masks = np.array([ndimage.binary_fill_holes(m) for m in masks]).reshape(masks.shape)
    order = [i for i in order if masks[i].sum() >= max(min_area, 1)]
    owned = np.zeros_like(masks)
    taken = np.zeros(masks.shape[1:], bool)
    for i in order:
        owned[i] = masks[i] & ~taken
        taken |= masks[i]
    if largest_piece:
        for i in order:
            labels = measure.label(owned[i], connectivity=2)
            if labels.max():
                owned[i] = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    if fill_holes:
        for i in order:
            free = ~owned.any(0)
            owned[i] |= ndimage.binary_fill_holes(owned[i]) & free
    return {i: owned[i] for i in range(len(masks)) if owned[i].sum() >= max(min_area, 1)}


@given(loose(most=8), ORDERS, st.booleans(), st.booleans(), st.integers(0, 6))
def test_all_steps_are_those_of_dense_masks(case, name, largest, fill, min_area):
    x, values = case
    order = x.order(name)
    result, rows = x.disjoint(order, largest_piece=largest, fill_holes=fill, min_area=min_area)
    expected = dense_disjoint(values > 0, order, largest, fill, min_area)
    assert rows.tolist() == list(expected)
    for mine, row in zip(full(result.flat, x.size), rows, strict=True):
        assert (mine == expected[row]).all()


def test_a_cell_in_the_hole_of_another_keeps_its_pixels():
    outer = np.ones((7, 7), bool)
    inner = np.zeros((7, 7), bool)
    outer[2:5, 2:5], inner[3, 3] = False, True
    x = Instances.from_masks(np.stack([outer, inner]), scores=[0.9, 0.5])
    by_score, _ = x.disjoint("score", fill_holes=True)
    assert by_score.areas.tolist() == [49]  # filled first, so nothing is left of the other
    smallest, _ = x.disjoint("smallest_first", fill_holes=True)
    assert smallest.areas.tolist() == [48, 1]


def test_a_field_of_cells_agrees_with_dense_masks():
    masks = blobs(60, (100, 110), 4)
    x = Instances.from_masks(masks, scores=np.random.default_rng(0).random(60))
    for name in ("smallest_first", "largest_first", "score"):
        result, rows = x.disjoint(name, largest_piece=True, fill_holes=True, min_area=20)
        expected = dense_disjoint(masks, x.order(name), True, True, 20)
        assert rows.tolist() == list(expected)
        assert (full(result.flat, x.size) == np.array(list(expected.values()))).all()


def test_orders():
    areas, scores = np.array([5, 3, 5]), np.array([0.1, 0.9, 0.9])
    assert resolve.order_rows("smallest_first", areas, scores).tolist() == [1, 0, 2]
    assert resolve.order_rows("largest_first", areas, scores).tolist() == [0, 2, 1]
    assert resolve.order_rows("score", areas, scores).tolist() == [1, 2, 0]
    assert resolve.order_rows(np.array([2, 0, 1], np.int8), areas, scores).tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="unknown order 'biggest'; choose from smallest_first"):
        resolve.order_rows("biggest", areas, scores)
    for wrong in ([0, 1], [0, 1, 1], [0, 1, 3], [0.0, 1.0, 2.0]):
        with pytest.raises(ValueError, match="an order holds each of the 3 rows once"):
            resolve.order_rows(np.array(wrong), areas, scores)


def dense_nms(iou, order, threshold):
    kept = []
    for row in order:
        if all(iou[row, other] <= threshold for other in kept):
            kept.append(row)
    return np.isin(np.arange(len(iou)), kept)


@given(loose(most=10), ORDERS, st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0]))
def test_suppression_is_the_greedy_one(case, order, threshold):
    x, _ = case
    keep = resolve.mask_nms(x, x.scores, threshold, order)
    expected = dense_nms(overlap.pairwise_iou(x, x), x.order(order), threshold)
    assert keep.dtype == bool
    assert keep.tolist() == expected.tolist()


@given(
    st.integers(0, 12).flatmap(
        lambda n: st.tuples(
            st.just(n), st.permutations(range(n)), st.integers(0, 2**32 - 1), st.floats(0, 1)
        )
    )
)
def test_suppression_from_pairs_of_any_iou(case):
    n, order, seed, threshold = case
    rng = np.random.default_rng(seed)
    iou = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.4), 1)
    i, j = iou.nonzero()
    swap = rng.random(len(i)) < 0.5  # a pair may stand in either direction
    one, two = np.where(swap, j, i), np.where(swap, i, j)
    keep = resolve.nms_from_pairs(np.array(order, int), one, two, iou[i, j], threshold)
    assert keep.tolist() == dense_nms(iou + iou.T, order, threshold).tolist()


def test_one_list_of_pairs_serves_many_thresholds():
    x = Instances.from_masks(blobs(60, (60, 60), 9), scores=np.linspace(0, 1, 60))
    pairs = overlap.iou_pairs(x)
    counts = [
        int(resolve.nms_from_pairs(x.order("score"), *pairs, threshold).sum())
        for threshold in (0, 0.05, 0.3, 0.99)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 60


def test_nothing():
    none = Instances.empty((4, 4))
    assert none.disjoint(largest_piece=True, fill_holes=True)[0].size == (4, 4)
    assert resolve.mask_nms(none, none.scores, 0.5).shape == (0,)
