import numpy as np
from hypothesis import given

from somaseg.instances import Instances
from somaseg.masks import overlap
from tests.masks.strategies import blobs, loose, stacks, two_stacks


def dense_counts(a, b):
    return a.reshape(len(a), a[0].size if len(a) else 1).astype(int) @ (
        b.reshape(len(b), b[0].size if len(b) else 1).astype(int).T
    )


def dense_iou(a, b):
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    shared = dense_counts(a, b)
    union = a.sum((1, 2))[:, None] + b.sum((1, 2))[None] - shared
    return shared / union


@given(two_stacks())
def test_intersections_of_two_sets_are_those_of_the_dense_masks(pair):
    a, b = (Instances.from_masks(masks) for masks in pair)
    i, j, shared = overlap.intersections(*a.flat, *b.flat)
    expected = dense_counts(*pair) if len(a) and len(b) else np.zeros((len(a), len(b)), int)
    rows, columns = expected.nonzero()  # sorted by row, then column
    assert i.tolist() == rows.tolist()
    assert j.tolist() == columns.tolist()
    assert shared.tolist() == expected[rows, columns].tolist()
    assert (i.dtype, j.dtype, shared.dtype) == (np.int32, np.int32, np.int64)


@given(loose())
def test_intersections_within_a_set_list_each_pair_once(case):
    x, values = case
    i, j, shared = overlap.intersections(*x.flat)
    expected = np.triu(dense_counts(values > 0, values > 0), 1) if len(x) else np.zeros((0, 0))
    assert list(zip(i, j, strict=True)) == list(zip(*expected.nonzero(), strict=True))
    assert shared.tolist() == expected[i, j].tolist()


@given(two_stacks())
def test_iou_is_that_of_the_dense_masks_and_symmetric(pair):
    a, b = (Instances.from_masks(masks) for masks in pair)
    iou = overlap.pairwise_iou(a, b)
    assert iou.shape == (len(a), len(b))
    assert np.array_equal(iou, dense_iou(*pair))  # the same integers are divided
    assert np.array_equal(iou, overlap.pairwise_iou(b, a).T)


@given(stacks(least=1))
def test_iou_with_oneself_is_one(masks):
    x = Instances.from_masks(masks)
    assert (np.diag(overlap.pairwise_iou(x, x)) == 1).all()


@given(loose(soft=True), loose(soft=True))
def test_soft_masks_count_above_a_half(one, two):
    a, values = one
    b = two[0]
    hard = values > 127.5
    assert a.areas.tolist() == hard.sum((1, 2)).tolist()
    assert np.array_equal(overlap.pairwise_iou(a, a), np.nan_to_num(dense_iou_or_nan(hard)))
    if a.size == b.size:
        binary = a.binary(keep_empty=True), b.binary(keep_empty=True)
        assert np.array_equal(overlap.pairwise_iou(a, b), overlap.pairwise_iou(*binary))


def dense_iou_or_nan(masks):
    with np.errstate(invalid="ignore"):
        return dense_iou(masks, masks)


@given(loose())
def test_areas(case):
    x, values = case
    assert x.areas.tolist() == values.sum((1, 2), int).tolist()


def test_many_pairs_outgrow_the_first_guess():
    masks = np.ones((60, 5, 5), bool)  # 1770 pairs, all of them
    i, j, shared = overlap.intersections(*Instances.from_masks(masks).flat)
    assert len(i) == 60 * 59 // 2
    assert (i < j).all()
    assert (shared == 25).all()


def test_a_field_of_cells_agrees_with_dense_masks():
    a, b = blobs(120, (150, 170), 1), blobs(110, (150, 170), 2)
    x, y = Instances.from_masks(a), Instances.from_masks(b)
    assert np.array_equal(overlap.pairwise_iou(x, y), dense_iou(a, b))
    i, j, iou = overlap.iou_pairs(x)
    expected = np.triu(dense_iou(a, a), 1)
    assert np.array_equal(expected[i, j], iou)
    assert len(i) == (expected > 0).sum()


def test_nothing_and_two_thousand():
    none = Instances.empty((2000, 2000))
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 1980, (2000, 2))
    boxes = np.concatenate([corner, corner + 20], 1)
    many = Instances.from_crops((2000, 2000), boxes, [np.ones((20, 20), np.uint8)] * 2000)
    assert overlap.pairwise_iou(none, many).shape == (0, 2000)
    assert overlap.pairwise_iou(many, none).shape == (2000, 0)
    assert len(overlap.intersections(*none.flat)[0]) == 0
    assert none.areas.shape == (0,)
    # Of full squares the shared pixels are known from the boxes alone.
    i, j, shared = overlap.intersections(*many.flat)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    expected = np.triu(np.clip(high - low, 0, None).prod(-1), 1)
    assert (expected > 0).sum() == len(i)
    assert (expected[i, j] == shared).all()
