"""Whether cross-validation and a leaderboard agree: correlation, gap, entries that stand out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from somaseg.errors import SomasegError

Floats = npt.NDArray[np.float64]

FEW = 5
"""With fewer entries than this no correlation is worth a decision."""

_RESAMPLES = 10_000
_OUTLYING = 3.5  # modified z-score (Iglewicz and Hoaglin 1993, "How to detect and handle outliers")
_ROUNDING = 0.0005  # leaderboards show three digits: residuals below this are none


@dataclass(frozen=True)
class Correlation:
    """A correlation and its bootstrap interval.

    Attributes:
        value: −1 … 1.
        low, high: 95 % percentile interval over resampled entries.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How CV and another score of the same entries go together.

    Attributes:
        n: entries that have both.
        pearson, spearman: none below three entries, or where either score never varies.
        gap: mean of score − CV.
        gap_spread: its standard deviation; none for one entry.
        slope, intercept: least squares, score ≈ intercept + slope · CV; none as for ``pearson``.
        residual: standard deviation of the score around that line.
        outliers: rows far off a robust line (Theil and Sen) through the others; empty below five.
        warnings: what a reader must know before trusting the figures, one sentence each.
    """

    n: int
    pearson: Correlation | None
    spearman: Correlation | None
    gap: float
    gap_spread: float | None
    slope: float | None
    intercept: float | None
    residual: float | None
    outliers: tuple[int, ...]
    warnings: tuple[str, ...]


def agreement(cv: Sequence[float], score: Sequence[float], seed: int = 0) -> Agreement:
    """Compare CV with a leaderboard's scores.

    Args:
        cv: cross-validation score of each entry.
        score: leaderboard (or other external) score of the same entries.
        seed: of the bootstrap.

    Raises:
        SomasegError: no entry, lengths that differ, or a number that is not finite.
    """
    x, y = np.asarray(cv, float), np.asarray(score, float)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise SomasegError(f"{x.shape} CV scores for {y.shape} others; give one pair an entry")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise SomasegError("a score is not a finite number")
    n = len(x)
    varies = n > 2 and bool(np.ptp(x) > 0) and bool(np.ptp(y) > 0)
    pearson = _bootstrapped(x, y, "pearson", seed) if varies else None
    spearman = _bootstrapped(x, y, "spearman", seed) if varies else None
    slope = intercept = residual = None
    if varies:
        slope, intercept = (float(v) for v in np.polyfit(x, y, 1))
        residual = float(np.sqrt(((y - intercept - slope * x) ** 2).sum() / (n - 2)))
    return Agreement(
        n,
        pearson,
        spearman,
        gap=float((y - x).mean()),
        gap_spread=float((y - x).std(ddof=1)) if n > 1 else None,
        slope=slope,
        intercept=intercept,
        residual=residual,
        outliers=_outliers(x, y) if varies and n >= FEW else (),
        warnings=_warnings(n, varies, pearson, spearman),
    )


def _warnings(
    n: int, varies: bool, pearson: Correlation | None, spearman: Correlation | None
) -> tuple[str, ...]:
    out = []
    if n < FEW:
        out.append(f"only {n} have both scores: too few to tell; record {FEW} or more")
    if n > 2 and not varies:
        out.append("one of the scores is the same for all: nothing can be correlated")
    if pearson and spearman and min(pearson.value, spearman.value) < 0:
        out.append(
            "CV and leaderboard fall together the WRONG way (r = "
            f"{pearson.value:+.2f}): a higher CV went with a lower leaderboard score; do not "
            "choose by this CV before you know why (thresholds, leaking folds, another metric)"
        )
    elif pearson and pearson.low < 0:
        out.append("the interval of r holds zero: agreement is not shown")
    return tuple(out)


def _bootstrapped(
    x: Floats, y: Floats, kind: Literal["pearson", "spearman"], seed: int
) -> Correlation:
    rows = np.random.default_rng(seed).integers(0, len(x), (_RESAMPLES, len(x)))
    values = _correlate(x[rows], y[rows], kind)
    # A resample of one entry alone has no correlation.
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Correlation(float(_correlate(x[None], y[None], kind)[0]), float(low), float(high))


def _correlate(x: Floats, y: Floats, kind: Literal["pearson", "spearman"]) -> Floats:
    """Correlation of each row of x (b, n) with that of y; NaN where one is constant."""
    if kind == "spearman":
        from scipy.stats import rankdata

        x, y = rankdata(x, axis=1), rankdata(y, axis=1)
    constant = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
    x = x - x.mean(axis=1, keepdims=True)
    y = y - y.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.where(constant, math.nan, np.clip(r, -1, 1))


def _outliers(x: Floats, y: Floats) -> tuple[int, ...]:
    from scipy.stats import theilslopes

    line = theilslopes(y, x)
    residuals = y - line.intercept - line.slope * x
    residuals -= np.median(residuals)
    # 1.4826 · the median deviation is the standard deviation of a normal distribution.
    spread = max(1.4826 * float(np.median(np.abs(residuals))), _ROUNDING)
    return tuple(int(i) for i in np.flatnonzero(np.abs(residuals) / spread > _OUTLYING))
