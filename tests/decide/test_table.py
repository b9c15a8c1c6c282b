import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from somaseg.data.types import Dataset, Sample
from somaseg.decide import SettleSettings, settle
from somaseg.decide.grid import AXES, SettingGrid, make_grid, union
from somaseg.decide.table import score_table
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.scoring import compare, competition_score
from tests.decide.make import NAMES, crowds

SMALL = SettingGrid(
    order=("smallest_first", "score", "largest_first"),
    nms_iou=(0.05, 0.5, 1.0),
    mask_threshold=(0.0, 0.35, 0.7),
    score=(0.0, 0.25, 0.3, 0.75),
    min_area=(1, 12, 40),
    max_area=(45, 120, None),
)


def score(raw, truth, chosen):
    """The score of one image, settled and compared."""
    dataset = Dataset((Sample("x", truth.size, None, truth),), NAMES, "test")
    found = settle(raw, dict.fromkeys(NAMES, chosen))
    return competition_score(compare(dataset, {"x": found})).map


@given(crowds(), crowds(most=5), st.data())
@settings(max_examples=150)
def test_table_is_what_settling_and_scoring_give(raw, truth, data):
    truth = truth.binary()
    table = score_table(raw, truth, SMALL)
    assert table.shape == SMALL.shape
    for _ in range(8):
        place = tuple(data.draw(st.integers(0, n - 1)) for n in table.shape)
        assert table[place] == pytest.approx(score(raw, truth, SMALL.settings(place)), abs=1e-12)


@given(crowds(most=7))
@settings(max_examples=10)
def test_whole_table_of_predictions_that_are_nearly_right(truth):
    truth = truth.binary().disjoint(largest_piece=True)[0]
    moved = truth.window(truth.size, (1, 0))[0]
    raw = Instances.concat([truth.with_scores(0.5), moved.with_scores(0.8)])
    grid = SettingGrid(SMALL.order, (0.3, 1.0), (0.5,), (0.4, 0.6), (1, 30), (60, None))
    table = score_table(raw, truth, grid)
    for place in itertools.product(*map(range, grid.shape)):
        assert table[place] == pytest.approx(score(raw, truth, grid.settings(place)), abs=1e-12)


def test_a_torn_neighbour_may_leave_a_hole_to_its_surroundings():
    """What a mask drops lies in the hole of another: who owns it depends on a third."""
    y, x = np.mgrid[:40, :40]
    disc = np.hypot(y - 20, x - 20) < 15
    bar = np.zeros((40, 40), bool)
    bar[18:22, 10:30] = True
    cut = np.zeros((40, 40), bool)
    cut[16:24, 15:18] = True
    raw = Instances.from_masks(np.array([disc, bar, cut]), scores=[0.9, 0.6, 0.3], names=("a",))
    raw = raw.replace(names=NAMES)
    grid = SettingGrid(("smallest_first",), (1.0,), (0.5,), (0.2, 0.5, 0.7), (1,), (None,))
    table = score_table(raw, raw[:1], grid)
    expected = [score(raw, raw[:1], grid.settings((0, 0, 0, k, 0, 0))) for k in range(3)]
    assert table.ravel() == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 1


def test_no_truth_or_no_prediction():
    some = Instances.from_masks(np.ones((1, 24, 30), bool), names=NAMES, classes=0)
    none = Instances.empty((24, 30), NAMES)
    assert (score_table(none, none, SMALL) == 1).all()
    assert (score_table(none, some, SMALL) == 0).all()
    # The one prediction is as large as the image, so that any largest area drops it.
    assert (score_table(some, none, SMALL)[..., -1] == 0).all()
    assert (score_table(some, none, SMALL)[..., :-1] == 1).all()


def truths(areas):
    masks = np.zeros((len(areas), 100, 100), bool)
    for mask, area in zip(masks, areas, strict=True):
        mask.flat[:area] = True
    return Instances.from_masks(masks, names=NAMES, classes=0)


def test_grid_follows_the_sizes_of_the_cells_and_what_can_matter():
    soft = Instances.from_masks(np.full((2, 9, 9), 200, np.uint8), soft=True, names=NAMES)
    grid = make_grid([soft], [truths([180, 200, 220])])
    assert grid.min_area == (1, 20, 25, 30, 40, 50, 60, 80, 100)
    assert grid.max_area == (250, 400, 600, None)
    assert grid.shape == (3, 6, 11, 39, 9, 4)
    assert grid.settings(grid.default) == SettleSettings()
    # One mask overlaps none, and hard ones have no threshold.
    alone = make_grid([soft[:1]], [truths([200])])
    assert alone.shape[:3] == (1, 1, 11)
    assert make_grid([soft.binary()[:1]], []).shape == (1, 1, 1, 39, 2, 1)
    only = make_grid([soft], [truths([200])], ["score", "order"])
    assert only.shape == (3, 1, 1, 39, 1, 1)
    with pytest.raises(SomasegError, match="no setting 'size' to tune; there are order"):
        make_grid([soft], [], ["score", "size"])


@given(
    st.lists(st.integers(1, 9000), min_size=1, max_size=5),
    st.lists(st.integers(1, 9000), min_size=1, max_size=5),
)
@settings(max_examples=30)
def test_grids_lie_in_their_union(one, two):
    soft = Instances.from_masks(np.full((2, 9, 9), 200, np.uint8), soft=True)
    grids = [make_grid([soft], [truths(one)]), make_grid([soft[:1]], [truths(two)])]
    whole = union(grids)
    for grid in grids:
        rng = np.random.default_rng(0)
        values = rng.random(whole.shape)
        part = values[grid.places_in(whole)]
        assert part.shape == grid.shape
        place = tuple(int(rng.integers(n)) for n in grid.shape)
        chosen = grid.settings(place)
        there = tuple(getattr(whole, name).index(getattr(chosen, name)) for name in AXES)
        assert part[place] == values[there]
