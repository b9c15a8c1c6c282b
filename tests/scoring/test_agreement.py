import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from somaseg.errors import SomasegError
from somaseg.scoring.agreement import agreement

# The shape of a real team's log: a threshold costs CV and gains on the leaderboard.
WRONG_WAY = ([0.2777, 0.2658, 0.2776, 0.2676], [0.231, 0.285, 0.233, 0.285])

scores = st.lists(st.integers(0, 1000).map(lambda v: v / 1000), min_size=3, max_size=12)


@settings(max_examples=30)
@given(scores, st.integers(0, 100))
def test_values_are_those_of_scipy(cv, seed):
    board = np.random.default_rng(seed).permutation(cv) + 0.01 * np.arange(len(cv))
    found = agreement(cv, board)
    assert found.n == len(cv)
    assert found.gap == pytest.approx(np.mean(board) - np.mean(cv))
    assert found.gap_spread == pytest.approx(np.std(board - np.array(cv), ddof=1))
    if len(set(cv)) == 1:
        assert found.pearson is found.spearman is found.slope is None
        assert any("nothing can be correlated" in w for w in found.warnings)
        return
    assert found.pearson.value == pytest.approx(stats.pearsonr(cv, board)[0], abs=1e-9)
    assert found.spearman.value == pytest.approx(stats.spearmanr(cv, board)[0], abs=1e-9)
    line = stats.linregress(cv, board)
    assert (found.slope, found.intercept) == pytest.approx((line.slope, line.intercept), abs=1e-9)
    residuals = board - line.intercept - line.slope * np.array(cv)
    assert found.residual == pytest.approx(np.sqrt((residuals**2).sum() / (len(cv) - 2)), abs=1e-9)


@pytest.mark.parametrize(("n", "noise"), [(12, 0.02), (40, 0.05)])
def test_intervals_are_those_of_scipy(n, noise):
    rng = np.random.default_rng(n)
    cv = rng.uniform(0.1, 0.35, n)
    board = cv + rng.normal(0, noise, n)
    found = agreement(cv, board)

    def pearson(x, y, axis):
        return stats.pearsonr(x, y, axis=axis).statistic

    def spearman(x, y, axis):
        return pearson(stats.rankdata(x, axis=axis), stats.rankdata(y, axis=axis), axis)

    for kind, statistic in (("pearson", pearson), ("spearman", spearman)):
        expected = stats.bootstrap(
            (cv, board),
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=10_000,
            rng=1,
        ).confidence_interval
        ours = getattr(found, kind)
        assert (ours.low, ours.high) == pytest.approx(expected, abs=0.02)
        assert ours.low < ours.value < ours.high


def test_a_log_that_goes_the_wrong_way_is_told():
    found = agreement(*WRONG_WAY)
    assert found.pearson.value < -0.98
    assert found.pearson.high < 0
    assert found.spearman.value < -0.9
    few, wrong = found.warnings
    assert "only 4" in few
    assert "WRONG way (r = -0.99)" in wrong
    assert found.outliers == ()


def test_good_agreement_warns_of_nothing():
    cv = np.linspace(0.1, 0.3, 8)
    assert agreement(cv, 0.9 * cv + [0, 0.002] * 4).warnings == ()


def test_unsure_agreement_is_told():
    cv = np.linspace(0.1, 0.3, 6)
    found = agreement(cv, [0.1, 0.3, 0.12, 0.25, 0.11, 0.28])
    assert found.pearson.value > 0 > found.pearson.low
    assert found.warnings == ("the interval of r holds zero: agreement is not shown",)


def test_an_entry_off_the_line_stands_out():
    rng = np.random.default_rng(0)
    cv = rng.uniform(0.1, 0.35, 15)
    board = 0.02 + cv + rng.normal(0, 0.004, 15)
    assert agreement(cv, board).outliers == ()
    board[3] -= 0.05
    assert agreement(cv, board).outliers == (3,)
    # Not a matter of rounding: a perfect line shown with three digits has none.
    assert agreement(cv, np.round(cv, 3)).outliers == ()


def test_few_entries():
    one = agreement([0.2], [0.3])
    assert (one.n, one.gap_spread, one.pearson, one.outliers) == (1, None, None, ())
    assert agreement([0.2, 0.3], [0.3, 0.4]).pearson is None
    for cv, board in (([], []), ([0.1], [0.1, 0.2]), ([0.1], [float("nan")])):
        with pytest.raises(SomasegError):
            agreement(cv, board)
