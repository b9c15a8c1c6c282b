import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as reference

from somaseg.errors import SomasegError
from somaseg.masks import rle
from tests.masks.strategies import blobs, full, loose, stacks


def encode(mask):
    """Compressed text and plain counts of the reference."""
    compressed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    flat = mask.T.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return compressed.decode(), np.diff(np.concatenate([[0], edges])).tolist()


@given(loose())
def test_encode_is_the_reference(case):
    x, values = case
    texts = rle.crops_to_counts(*x.flat, x.size)
    assert texts == [encode(value)[0] for value in values]
    for i, text in enumerate(texts):
        counts = rle.crop_to_coco_counts(x.crop(i), x.boxes[i], x.size)
        assert counts.tolist() == encode(values[i])[1]
        assert rle.compress_counts(counts) == text
        assert rle.compress_counts(counts.tolist()) == text


@given(stacks(least=1))
def test_decode_is_the_reference(masks):
    size = masks.shape[1:]
    for mask in masks:
        text, counts = encode(mask)
        for form in (text, text.encode(), counts, np.array(counts, np.uint32)):
            box, crop = rle.coco_counts_to_crop(form, size)
            x0, y0, x1, y1 = box
            assert crop.dtype == np.uint8
            assert (crop == mask[y0:y1, x0:x1]).all()
            assert crop.sum() == mask.sum()
            assert crop.any(0)[[0, -1]].all()
            assert crop.any(1)[[0, -1]].all()
        again = reference.decode({"size": list(size), "counts": text.encode()})
        assert (again == mask).all()


@given(st.lists(st.integers(0, 2**31 - 1), max_size=12))
def test_compressed_text_both_ways(counts):
    text = rle.compress_counts(counts)
    assert rle.decompress_counts(text).tolist() == counts
    assert rle.decompress_counts(text.encode()).tolist() == counts


@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=12))
def test_compressed_text_is_the_reference(counts):
    # Any counts, not only those of real masks: the reference takes them as they are.
    size = [1, sum(counts)]
    made = reference.frPyObjects([{"size": size, "counts": counts}], *size)[0]["counts"]
    assert rle.compress_counts(counts).encode() == made


def test_counts_with_zeros_inside_are_read():
    box, crop = rle.coco_counts_to_crop([2, 1, 0, 2, 7], (3, 4))
    expected = reference.decode(
        reference.frPyObjects({"size": [3, 4], "counts": [2, 1, 0, 2, 7]}, 3, 4)
    )
    x0, y0, x1, y1 = box
    assert (crop == expected[y0:y1, x0:x1]).all()
    assert crop.sum() == 3


def test_a_field_of_cells_agrees_with_the_reference():
    masks = blobs(40, (150, 170), 3)
    texts = [encode(mask)[0] for mask in masks]
    for mask, text in zip(masks, texts, strict=True):
        (x0, y0, x1, y1), crop = rle.coco_counts_to_crop(text, (150, 170))
        assert (crop == mask[y0:y1, x0:x1]).all()


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([3, 4], "the counts sum up to 7 pixels but the image has 12 (4 x 3)"),
        ([3, 10], "the counts sum up to 13 pixels but the image has 12 (4 x 3)"),
        ([], "the counts sum up to 0 pixels but the image has 12 (4 x 3)"),
        ([13, -4, 3], "the counts hold a negative number (-4)"),
        ([2**62] * 4, f"the counts sum up to {2**64} pixels but the image has 12 (4 x 3)"),
        ([2**64, 12], "the counts are not a list of whole numbers"),
        ([12], "the mask is empty"),
        ([12, 0], "the mask is empty"),
        ([3.5, 8.5], "the counts are not a list of whole numbers"),
        (["3", "9"], "the counts are not a list of whole numbers"),
        ([[3, 9]], "the counts are not a list of whole numbers"),
        ([3, [9]], "the counts are not a list of whole numbers"),
        ({"a": 1}, "the counts are not a list of whole numbers"),
        ("3 9", "the compressed counts have an impossible character at 2; is the text whole?"),
        ("é", "the compressed counts have an impossible character at 1; is the text whole?"),
        ("3P", "the compressed counts end within a number; is the text whole?"),
        ("o" * 20, "the compressed counts have an impossible character at 13; is the text whole?"),
    ],
)
def test_faults(counts, reason):
    with pytest.raises(SomasegError) as caught:
        rle.coco_counts_to_crop(counts, (3, 4))
    assert str(caught.value) == reason


@given(loose())
def test_round_trip_through_the_flat_form(case):
    x, values = case
    pieces = [rle.coco_counts_to_crop(t, x.size) for t in rle.crops_to_counts(*x.flat, x.size)]
    for (box, crop), value in zip(pieces, values, strict=True):
        x0, y0, x1, y1 = box
        again = np.zeros(x.size, np.uint8)
        again[y0:y1, x0:x1] = crop
        assert (again == value).all()
    assert np.array_equal(full(x.flat, x.size), values)
