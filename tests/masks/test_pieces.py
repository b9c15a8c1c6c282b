import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure

from somaseg.instances import Instances
from somaseg.masks import pieces
from tests.masks.strategies import full, loose

STRUCTURE = {4: ndimage.generate_binary_structure(2, 1), 8: np.ones((3, 3), bool)}
CONNECTIVITY = st.sampled_from([4, 8])


def holes(mask, connectivity):
    """Holes by the reference: background is connected the other way."""
    return ndimage.binary_fill_holes(mask, STRUCTURE[12 - connectivity]) & ~mask


@given(loose(), CONNECTIVITY)
def test_numbers_of_pieces_are_those_of_scikit_image(case, connectivity):
    x, values = case
    numbers, counts = pieces.label_pieces(*x.flat, connectivity)
    for i in range(len(x)):
        expected = measure.label(values[i], connectivity=connectivity // 4)
        x0, y0, x1, y1 = x.boxes[i]
        mine = numbers[x.offsets[i] : x.offsets[i + 1]].reshape(y1 - y0, x1 - x0)
        assert (mine == expected[y0:y1, x0:x1]).all()  # also numbered in reading order
        assert counts[i] == expected.max()
    assert pieces.count_pieces(*x.flat, connectivity).tolist() == counts.tolist()


@given(loose(), CONNECTIVITY)
def test_the_largest_piece_stays(case, connectivity):
    x, values = case
    kept = full(x.flat._replace(pixels=pieces.largest_piece(*x.flat, connectivity)), x.size)
    for value, mine in zip(values, kept, strict=True):
        labels = measure.label(value, connectivity=connectivity // 4)
        best = 1 + np.argmax(np.bincount(labels.ravel())[1:])  # the first of equal ones
        assert (mine == (labels == best)).all()


@given(loose(soft=True))
def test_soft_values_of_the_largest_piece_are_kept(case):
    x, values = case
    kept = full(x.flat._replace(pixels=pieces.largest_piece(*x.flat)), x.size)
    assert ((kept == values) | (kept == 0)).all()
    assert (kept.reshape(len(x), x.size[0] * x.size[1]).max(1, initial=0) > 0).all()


@given(loose(), CONNECTIVITY)
def test_holes_are_those_of_scipy(case, connectivity):
    x, values = case
    before = x.pixels.copy()
    filled = full(x.flat._replace(pixels=pieces.fill_holes(*x.flat, connectivity)), x.size)
    areas = pieces.hole_areas(*x.flat, connectivity)
    for value, mine, area in zip(values, filled, areas, strict=True):
        expected = holes(value > 0, connectivity)
        assert (mine == (value > 0) | expected).all()
        assert area == expected.sum()
    assert (x.pixels == before).all()  # what came in is not touched


@given(loose(), CONNECTIVITY, st.integers(0, 4))
def test_only_small_holes_are_filled(case, connectivity, most):
    x, values = case
    filled = full(x.flat._replace(pixels=pieces.fill_holes(*x.flat, connectivity, most)), x.size)
    for value, mine in zip(values, filled, strict=True):
        labels, _ = ndimage.label(holes(value > 0, connectivity), STRUCTURE[12 - connectivity])
        small = np.bincount(labels.ravel()) <= most
        small[0] = False
        assert (mine == (value > 0) | small[labels]).all()


@given(loose(), CONNECTIVITY)
def test_split_gives_every_piece_once(case, connectivity):
    x, values = case
    flat, rows = pieces.split_pieces(*x.flat, connectivity)
    parts = full(flat, x.size)
    for i, value in enumerate(values):
        mine = parts[rows == i]
        assert (mine.sum(0) == value).all()
        labels = measure.label(value, connectivity=connectivity // 4)
        assert [(labels == k).tolist() for k in range(1, labels.max() + 1)] == (mine > 0).tolist()


def test_diagonals():
    x = Instances.from_masks(np.eye(4, dtype=bool)[None])
    assert pieces.count_pieces(*x.flat).tolist() == [1]
    assert pieces.count_pieces(*x.flat, 4).tolist() == [4]
    ring = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    x = Instances.from_masks(ring[None])
    assert pieces.hole_areas(*x.flat).tolist() == [1]  # closed: its pixels touch at corners
    assert pieces.hole_areas(*x.flat, 4).tolist() == [0]
    with pytest.raises(ValueError, match="connectivity is 4 or 8, not 6"):
        pieces.count_pieces(*x.flat, 6)


def test_a_spiral_is_one_piece_with_no_hole():
    spiral = np.ones((15, 15), bool)
    y, x, direction = 0, -1, (0, 1)
    path = np.zeros((15, 15), bool)
    for length in [15, 14, 14, 12, 12, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2]:
        for _ in range(length):
            y, x = y + direction[0], x + direction[1]
            path[y, x] = True
        direction = (direction[1], -direction[0])
    spiral &= path
    instances = Instances.from_masks(np.stack([spiral, ~spiral]))
    for connectivity in (4, 8):
        assert (
            pieces.count_pieces(*instances.flat, connectivity)[0]
            == measure.label(spiral, connectivity=connectivity // 4).max()
        )
    assert pieces.hole_areas(*instances.flat).tolist() == [
        holes(spiral, 8).sum(),
        holes(~spiral, 8).sum(),
    ]


def test_nothing():
    none = Instances.empty((5, 6)).flat
    assert pieces.count_pieces(*none).shape == (0,)
    assert pieces.fill_holes(*none).shape == (0,)
    assert pieces.largest_piece(*none).shape == (0,)
    assert len(pieces.split_pieces(*none)[0].boxes) == 0
