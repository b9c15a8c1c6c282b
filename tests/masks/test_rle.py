import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks import rle
from tests.masks.strategies import is_tight, loose, stacks


def plain_text(mask):
    """Competition string by the plain method: places where the flat mask changes."""
    padded = np.concatenate([[0], mask.ravel().astype(int), [0]])
    changes = np.flatnonzero(np.diff(padded)) + 1
    changes[1::2] -= changes[0::2]
    return " ".join(map(str, changes))


def plain_mask(text, size):
    flat = np.zeros(size[0] * size[1], bool)
    numbers = list(map(int, text.split()))
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(size)


@given(loose())
def test_encode_is_the_plain_method(case):
    x, values = case
    assert x.to_runs() == [plain_text(value) for value in values]


@given(stacks())
def test_decode_is_the_plain_method_with_tight_boxes(masks):
    size = masks.shape[1:]
    texts = [plain_text(mask) for mask in masks]
    x = Instances.from_runs(size, texts)
    assert all((x.mask(i) == plain_mask(text, size)).all() for i, text in enumerate(texts))
    assert is_tight(x.flat, size)
    assert x.to_runs() == texts


@given(stacks(least=1), st.randoms())
def test_runs_in_any_order_and_in_parts_are_the_same_mask(masks, random):
    size = masks.shape[1:]
    runs = [rle.parse_runs(plain_text(mask)) for mask in masks]
    parts = []
    for of_mask in runs:
        single = [[start + k, 1] for start, length in of_mask for k in range(length)]
        random.shuffle(single)
        parts.append(np.array(single))
    x = Instances.from_runs(size, parts)
    assert x.to_runs() == [rle.runs_to_text(r) for r in runs]
    mixed = [
        part if k % 2 else plain_text(mask)
        for k, (part, mask) in enumerate(zip(parts, masks, strict=True))
    ]
    assert Instances.from_runs(size, mixed).to_runs() == x.to_runs()


@given(stacks(least=1))
def test_one_mask_at_a_time(masks):
    size = masks.shape[1:]
    for mask in masks:
        runs = rle.parse_runs(plain_text(mask))
        box, crop = rle.runs_to_crop(runs, size)
        x0, y0, x1, y1 = box
        assert (crop == mask[y0:y1, x0:x1]).all()
        assert crop.sum() == mask.sum()
        assert rle.crop_to_runs(crop, box, size).tolist() == runs.tolist()
        assert rle.runs_to_text(runs) == plain_text(mask)


def test_a_run_over_several_rows():
    x = Instances.from_runs((4, 5), ["4 9"])  # from row 0, column 3 to row 2, column 1
    expected = np.zeros((4, 5), bool)
    expected.flat[3:12] = True
    assert (x.mask(0) == expected).all()
    assert x.boxes.tolist() == [[0, 0, 5, 3]]
    assert x.to_runs() == ["4 9"]


@pytest.mark.parametrize("text", ["3 4", "  3   4 ", "3\t4\n", "3\r\n4", "03 0004"])
def test_any_blanks_and_leading_zeros(text):
    assert rle.parse_runs(text).tolist() == [[3, 4]]


def test_no_runs():
    assert rle.parse_runs("").shape == (0, 2)
    assert rle.parse_runs(" \n").shape == (0, 2)
    assert len(Instances.from_runs((4, 5), [])) == 0
    assert Instances.empty((4, 5)).to_runs() == []
    assert rle.find_faults([], (4, 5)) == {}


FAULTS = {
    "1 2 3": "3 numbers, an odd count; runs are pairs of start and length",
    "7": "1 numbers, an odd count; runs are pairs of start and length",
    "1 2 x 4": "'x' (number 3) is not a whole number",
    "1 2 3.0 4": "'3.0' (number 3) is not a whole number",
    "1,2": "'1,2' (number 1) is not a whole number",
    "1 -": "'-' (number 2) is not a whole number",
    "1 2é": "'2é' (number 2) is not a whole number",
    "1 2 nan nan": "'nan' (number 3) is not a whole number",
    "": "the mask is empty",
    "  ": "the mask is empty",
    "0 3": "run 0 3: starts count from 1",
    "-4 3": "run -4 3: starts count from 1",
    "1 2 5 0": "run 5 0: a length is at least 1",
    "5 -1": "run 5 -1: a length is at least 1",
    "19 3": "run 19 3 ends outside the image, which has 20 pixels (5 x 4)",
    "21 1": "run 21 1 ends outside the image, which has 20 pixels (5 x 4)",
    "1 21": "run 1 21 ends outside the image, which has 20 pixels (5 x 4)",
    "1 3 3 2": "run 3 2 overlaps run 1 3 of the same mask",
    "9 2 1 3 2 1": "run 2 1 overlaps run 1 3 of the same mask",
    "4 1 4 1": "run 4 1 overlaps run 4 1 of the same mask",
}


@pytest.mark.parametrize(("text", "reason"), FAULTS.items())
def test_faults(text, reason):
    assert rle.find_faults([text], (4, 5)) == {0: reason}
    with pytest.raises(SomasegError) as caught:
        Instances.from_runs((4, 5), ["1 2", text, "4 1"])
    assert str(caught.value) == f"mask 1: {reason}"
    with pytest.raises(SomasegError) as caught:
        rle.runs_to_crop(text, (4, 5))
    assert str(caught.value) == reason


def test_all_faults_are_found_and_none_where_there_is_none():
    texts = ["1 2", *FAULTS, "20 1", "6 2 1 2"]
    found = rle.find_faults(texts, (4, 5))
    assert found == {k: FAULTS[text] for k, text in enumerate(texts) if text in FAULTS}
    with pytest.raises(SomasegError, match=r"^mask 1: .* \(and \d+ more faulty masks\)$"):
        Instances.from_runs((4, 5), texts)


@pytest.mark.parametrize("number", ["9223372036854775807", "9" * 19, "1" + "0" * 40])
def test_huge_numbers_do_not_wrap_around(number):
    for text in (f"{number} 1", f"1 {number}", f"{number} {number}"):
        assert "ends outside the image" in rle.find_faults([text], (4, 5))[0]
    assert rle.find_faults([f"-{number} 1"], (4, 5))[0].endswith("starts count from 1")


@pytest.mark.parametrize(
    "runs", [np.ones((2, 3), int), np.ones(4, int), np.ones((1, 2)), [[1, 2], [3, 4, 5]]]
)
def test_arrays_of_another_form_are_refused(runs):
    with pytest.raises(SomasegError, match="mask 0: runs are text or an integer array"):
        Instances.from_runs((4, 5), [runs])


@given(st.lists(st.text(st.sampled_from("0123456789 -+x\n\té"), max_size=12), max_size=4))
def test_any_text_is_read_or_refused_as_int_would(texts):
    faults = rle.find_faults(texts, (30, 40))
    for k, text in enumerate(texts):
        try:
            numbers = [parse_strictly(word) for word in text.split()]
        except ValueError:
            assert "is not a whole number" in faults[k]
            continue
        if len(numbers) % 2:
            assert "odd count" in faults[k]
        else:
            assert rle.parse_runs(text).ravel().tolist() == numbers


def parse_strictly(word):
    if not word.removeprefix("-").isdecimal() or not word.isascii():
        raise ValueError(word)
    return int(word)
