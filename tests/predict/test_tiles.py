import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from somaseg.errors import SomasegError
from somaseg.predict.tiles import Grid, cut_side, network_unit


@given(st.integers(1, 700), st.integers(3, 150), st.integers(1, 30), st.data())
def test_parts_cover_and_overlap(length, tile, unit, data):
    overlap = data.draw(st.integers(0, tile // 3))
    unit = min(unit, tile // 3)
    parts = cut_side(length, tile, overlap, unit)
    assert parts[0].start == 0
    assert parts[-1].stop == length
    assert parts[0].first == 0
    assert parts[-1].last == length
    assert {p.side for p in parts} == {parts[0].side}
    assert parts[0].side <= tile
    for p in parts:
        assert p.stop == min(p.start + p.side, length)
        assert p.start <= p.first < p.last <= p.stop
    for a, b in itertools.pairwise(parts):
        assert a.stop - b.start >= overlap
        assert a.last == b.first
        # A border between two cores is as far from the edge of the one as of the other.
        assert abs((a.start + a.side - a.last) - (b.first - b.start)) <= 1
    if length > tile:
        assert all(p.start % unit == 0 and p.side % unit == 0 for p in parts)


def test_no_tile_too_many():
    # 100 pixels in tiles of 40 that share 10: 4 of 40 or more smaller ones would compute more.
    parts = cut_side(100, 40, 10)
    assert [(p.start, p.side) for p in parts] == [(0, 40), (30, 40), (60, 40)]
    # Just above one tile: not two whole ones.
    assert sum(p.side for p in cut_side(1025, 1024, 128)) < 1024 + 200


@given(st.floats(0.3, 4), st.sampled_from([1, 8, 32, 64]), st.integers(300, 1200))
def test_multiples_of_the_unit_are_multiples_for_the_network(scale, multiple, tile):
    unit = network_unit(scale, multiple, tile)
    if unit > 1:
        cells = round(unit * scale / multiple)
        for k in range(1, tile // unit + 1):
            assert round(k * unit * scale) == k * cells * multiple


def test_units_of_plain_scales():
    assert network_unit(1, 32, 1024) == 32
    assert network_unit(2, 32, 1024) == 16
    assert network_unit(1.6, 32, 1024) == 20
    assert network_unit(1, 1, 1024) == 1
    # No third of so small a tile is whole network pixels.
    assert network_unit(1, 64, 128) == 1


def test_overlap_must_fit_the_tile():
    with pytest.raises(SomasegError, match="tiles of 90 pixels overlap by 0 … 30, not 31"):
        Grid((500, 500), 90, 31)
    with pytest.raises(SomasegError, match="not -1"):
        Grid((500, 500), 90, -1)


def test_grid_goes_row_by_row():
    grid = Grid((100, 40), 40, 10)
    assert list(grid) == [(0, 0), (1, 0), (2, 0)]
    assert len(grid) == 3
    assert grid.shape == (40, 40)
    assert grid.slices(1, 0) == (slice(30, 70), slice(0, 40))
