import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from somaseg.instances import Instances
from somaseg.predict.stitch import stitch
from somaseg.predict.tiles import Grid


@st.composite
def cells(draw, size=(90, 70), most=12):
    """Rectangles that share no pixel, some longer than any tile."""
    labels = np.zeros(size, np.int32)
    for _ in range(draw(st.integers(1, most))):
        h = draw(st.sampled_from([1, 3, 8, 20, 60]))
        w = draw(st.sampled_from([1, 3, 8, 20, 60]))
        y, x = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
        part = labels[y : y + h, x : x + w]
        if not part.any():
            part[:] = labels.max() + 1
    n = int(labels.max())
    return Instances.from_labels(
        labels, scores=np.linspace(0.1, 0.9, n), classes=np.arange(n) % 2, names=("a", "b")
    )


def seen(grid, whole):
    """What tiles with perfect eyes find of known cells."""
    out = {}
    for i, j in grid:
        rows, columns = grid.slices(i, j)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        out[i, j] = whole.window(size, (-columns.start, -rows.start))[0]
    return out


def as_set(instances):
    tight = instances.tightened()[0]
    return sorted(
        (*box, tight.crop(i).tobytes(), float(tight.scores[i]), int(tight.classes[i]))
        for i, box in enumerate(tight.boxes.tolist())
    )


@given(cells(), st.integers(20, 45), st.integers(1, 15), st.integers(1, 7), st.booleans())
def test_no_cell_is_cut_and_none_is_doubled(whole, tile, overlap, unit, soft):
    if soft:
        whole = whole.replace(pixels=whole.pixels * np.uint8(90), soft=True)
    grid = Grid(whole.size, tile, min(overlap, tile // 3), unit)
    joined, rows = stitch(grid, seen(grid, whole))
    assert as_set(joined) == as_set(whole)
    assert len(rows) == len(joined)
    assert (np.diff(rows) >= 0).all()


@given(cells(), st.integers(24, 45))
def test_rows_of_tiles_can_be_joined_one_after_the_other(whole, tile):
    """What comes of three rows of tiles, of the middle one's, is what comes of all rows."""
    whole = whole[whole.boxes[:, 3] - whole.boxes[:, 1] <= tile // 2]  # as cells are
    grid = Grid(whole.size, tile, tile // 4)
    found = seen(grid, whole)
    joined, rows = stitch(grid, found)
    for i in range(len(grid.rows)):
        near = {place: part for place, part in found.items() if abs(place[0] - i) <= 1}
        some, of_row = stitch(grid, near)
        mine = some[of_row == i]
        alike = joined[rows == i]
        assert np.array_equal(mine.boxes, alike.boxes)
        assert np.array_equal(mine.pixels, alike.pixels)
        assert np.array_equal(mine.scores, alike.scores)


def two_tiles(left, right, size=(20, 52)):
    """Instances of two tiles, 0 … 32 and 20 … 52, from boxes in the image's frame."""
    grid = Grid(size, 32, 10)
    assert [(p.start, p.stop, p.last) for p in grid.columns] == [(0, 31, 26), (21, 52, 52)]
    found = {}
    for j, boxes in enumerate((left, right)):
        start, width = grid.columns[j].start, 31
        crops = [np.ones((y1 - y0, x1 - x0), np.uint8) for x0, y0, x1, y1 in boxes]
        shifted = np.array(boxes).reshape(-1, 4) - [start, 0, start, 0]
        found[0, j] = Instances.from_crops(
            (size[0], width), shifted, crops, scores=np.linspace(0.9, 0.5, len(boxes)) - j / 10
        )
    return stitch(grid, found)[0]


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("x", range(18, 30))
def test_tiles_that_see_a_cell_a_little_differently_keep_one(x, shift):
    # Neither may own the cell, or both may: its centre differs between the two.
    left = [(x, 4, x + 6, 12)]
    right = [(max(x + shift, 21), 4, x + 6 + shift, 12)]
    left = [(x0, y0, min(x1, 31), y1) for x0, y0, x1, y1 in left]
    assert len(two_tiles(left, right)) == 1


def test_what_one_tile_alone_has_found_counts_where_it_answers():
    assert len(two_tiles([(22, 4, 27, 12)], [])) == 1
    assert len(two_tiles([(26, 4, 30, 12)], [])) == 0  # the other, which sees it better, does not
    assert len(two_tiles([], [(26, 4, 30, 12)])) == 1
    assert len(two_tiles([], [(22, 4, 26, 12)])) == 0


def test_the_whole_one_stays_and_the_cut_one_goes():
    # The left tile sees 18 … 31 of a cell that the right one sees whole, but for two pixels.
    (cell,) = two_tiles([(22, 4, 31, 12)], [(23, 4, 36, 12)])
    assert cell.boxes.tolist() == [[23, 4, 36, 12]]


def test_a_whole_one_counts_for_more_than_one_far_from_the_edge():
    grid = Grid((52, 52), 32, 10)
    found = {place: Instances.empty((31, 31)) for place in grid} | {
        # 22 … 31 of its columns, cut off at 31; centre 4.5 pixels from there.
        (0, 0): Instances.from_crops((31, 31), [[22, 22, 31, 30]], [np.ones((8, 9), bool)]),
        # 22 … 40, whole; centre 4 pixels below the upper edge, 21.
        (1, 1): Instances.from_crops((31, 31), [[1, 1, 19, 7]], [np.ones((6, 18), bool)]),
    }
    assert stitch(grid, found)[0].boxes.tolist() == [[22, 22, 40, 28]]


def test_a_cell_that_both_tiles_cut_is_united():
    (cell,) = two_tiles([(5, 4, 31, 12)], [(21, 4, 48, 12)])
    assert cell.boxes.tolist() == [[5, 4, 48, 12]]
    assert cell.areas.tolist() == [43 * 8]


def test_neighbours_are_not_taken_for_one_another():
    # Two cells one above the other; each tile sees both.
    both = [(22, 2, 30, 8), (22, 8, 30, 14)]
    joined = two_tiles(both, both)
    assert sorted(joined.boxes.tolist()) == sorted(map(list, both))


def test_overlapping_candidates_all_stay():
    # Raw instances of a region family: one cell, and the same with its neighbour.
    some = [(22, 2, 30, 8), (22, 2, 30, 12)]
    assert sorted(two_tiles(some, some).boxes.tolist()) == sorted(map(list, some))


def test_nothing_found():
    assert len(two_tiles([], [])) == 0
