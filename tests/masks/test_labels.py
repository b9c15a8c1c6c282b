import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from somaseg.instances import Instances
from somaseg.masks.labels import labels_to_crops
from tests.masks.strategies import blobs, full, is_tight, loose

LABELS = arrays.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int32, np.int64, np.uint64]),
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.integers(0, 4),
)


@given(LABELS, st.sampled_from([1, 60]))
def test_every_label_becomes_its_crop(labels, factor):
    labels = labels * labels.dtype.type(factor)
    flat, values = labels_to_crops(labels)
    assert values.tolist() == [v for v in np.unique(labels).tolist() if v]
    assert is_tight(flat, labels.shape)
    for value, mine in zip(values, full(flat, labels.shape), strict=True):
        assert (mine == (labels == value)).all()


def test_wide_labels_need_no_wide_table():
    labels = np.zeros((3, 4), np.uint64)
    labels[0, 0], labels[1:, 2:] = 2**63, 2**40
    flat, values = labels_to_crops(labels)
    assert values.tolist() == [2**40, 2**63 - 2**64] or values.tolist() == [2**40, 2**63]
    assert flat.boxes.tolist() == [[2, 1, 4, 3], [0, 0, 1, 1]]
    labels[labels == 0] = 7  # no background at all
    assert labels_to_crops(labels)[0].boxes.tolist() == [[0, 0, 4, 3], [2, 1, 4, 3], [0, 0, 1, 1]]


@given(LABELS)
def test_labels_round_trip(labels):
    x = Instances.from_labels(labels)
    numbered = np.zeros(labels.shape, int)
    for row, value in enumerate(v for v in np.unique(labels) if v):
        numbered[labels == value] = row + 1
    for order in ("smallest_first", "largest_first", "score"):
        assert (x.to_labels(order) == numbered).all()
    assert Instances.from_labels(x.to_labels()).to_runs() == x.to_runs()


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.array([[0, -3]]), "labels are not negative, but one is -3"),
        (np.zeros((2, 2)), r"labels are integers \(h, w\), not float64 \(2, 2\)"),
        (np.zeros(4, int), r"labels are integers \(h, w\), not int64 \(4,\)"),
        (np.zeros((2, 2, 3), int), r"labels are integers \(h, w\), not int64 \(2, 2, 3\)"),
    ],
)
def test_faults(labels, reason):
    with pytest.raises(ValueError, match=reason):
        labels_to_crops(labels)
    with pytest.raises(ValueError, match=f"instances: {reason}"):
        Instances.from_labels(labels)


def first_owner(values, order):
    """Label image by definition: of the masks at a pixel the one that is first in order."""
    labels = np.zeros(values.shape[1:], int)
    for row in reversed(order):
        labels[values[row] > 0] = row + 1
    return labels


@given(loose(), st.randoms())
def test_shared_pixels_go_to_the_first_in_order(case, random):
    x, values = case
    rows = list(range(len(x)))
    areas = values.sum((1, 2), int)
    orders = {
        "smallest_first": sorted(rows, key=lambda i: areas[i]),
        "largest_first": sorted(rows, key=lambda i: -areas[i]),
        "score": sorted(rows, key=lambda i: -x.scores[i]),
    }
    for name, order in orders.items():
        labels = x.to_labels(name)
        assert labels.dtype == np.int32
        assert (labels == first_owner(values, order)).all()
    random.shuffle(rows)
    assert (x.to_labels(np.array(rows, int)) == first_owner(values, rows)).all()


@given(loose(soft=True))
def test_soft_masks_are_painted_above_a_half(case):
    x, _ = case
    assert (x.to_labels() == x.binary(keep_empty=True).to_labels()).all()


@given(loose(most=8))
def test_layers_lose_no_pixel_and_share_none(case):
    x, values = case
    layers = x.layers()
    assert layers.shape[1:] == x.size
    assert layers.dtype == np.int32
    for row, value in enumerate(values):
        mine = layers == row + 1
        assert (mine.any(0) == (value > 0)).all()
        assert mine.any((1, 2)).sum() == 1  # all on one plane
    assert len(layers) <= max(1, values.sum(0).max(initial=0) + len(values))
    assert len(layers) == 1 or all(layer.any() for layer in layers)


def test_layers_of_cells_are_few():
    masks = blobs(80, (120, 140), 5)
    layers = Instances.from_masks(masks).layers()
    deepest = masks.sum(0).max()  # no fewer can do
    assert deepest <= len(layers) <= deepest + 2


def test_layers_of_masks_apart_are_one():
    masks = np.zeros((2, 3, 6), bool)
    masks[0, :, :2], masks[1, :, 3:] = True, True
    assert Instances.from_masks(masks).layers().shape == (1, 3, 6)
    assert Instances.empty((3, 6)).layers().shape == (1, 3, 6)
