"""XGBoost, and no more of it than the pixel forest needs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from somaseg.errors import SomasegError
from somaseg.models.trees import read_booster

Booster = Any
Rows = npt.NDArray[np.float32]

BINS = 64
"""Values that a feature is told apart by; more of them cost time and gain nothing."""


def boost(
    booster: Booster | None,
    rows: Rows,
    labels: npt.NDArray[np.integer],
    weights: npt.NDArray[np.float32] | None,
    *,
    kinds: int,
    rounds: int,
    depth: int,
    rate: float,
    names: Sequence[str],
) -> Iterator[tuple[Booster, float]]:
    """Add rounds of trees, one tree a kind each, until there are ``rounds``.

    Nothing is drawn at random, so that a fitting that is taken up ends as one in one go. (XGBoost
    could show each tree a choice of the features; it takes as long and cannot be taken up.)

    Args:
        booster: one to go on with, made with the same settings; none begins.
        rows: float32 (n, f), features.
        labels: int (n,), 0 … kinds - 1.
        weights: float32 (n,) or none.
        kinds: number of labels.
        rounds: in all.
        depth: of the trees.
        rate: of each round, in the sum.
        names: of the features.

    Yields:
        after each round the booster, and its mean cross-entropy over the rows.
    """
    xgboost = _xgboost()
    # Bins instead of values: an eighth of the memory.
    data = xgboost.QuantileDMatrix(
        rows, labels, weight=weights, max_bin=BINS, nthread=_threads(), feature_names=list(names)
    )
    settings = {
        "objective": "multi:softprob",
        "eval_metric": "mlogloss",
        "num_class": kinds,
        "tree_method": "hist",
        "max_bin": BINS,
        "max_depth": depth,
        "learning_rate": rate,
        "nthread": _threads(),
    }
    begun = None if booster is None else booster.save_raw("json")
    booster = xgboost.Booster(settings, cache=[data], model_file=begun)
    for number in range(booster.num_boosted_rounds(), rounds):
        booster.update(data, number)
        yield booster, float(booster.eval(data, "rows", number).rsplit(":", 1)[1])


def probabilities(booster: Booster, rows: Rows) -> npt.NDArray[np.float32]:
    """Probability of each kind: float32 (n, kinds)."""
    out: npt.NDArray[np.float32] = booster.inplace_predict(rows, validate_features=False)
    return out


def read_forest(data: bytes, name: str, features: int, kinds: int) -> Booster:
    """Read a forest from XGBoost's own JSON, as :func:`somaseg.models.trees.read_booster`."""
    _xgboost()
    return read_booster(data, name, features, kinds, _threads())


def count_nodes(booster: Booster) -> int:
    """Number of splits and leaves of all trees."""
    return sum(tree.count("\n") for tree in booster.get_dump())


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise SomasegError(
            "family 'pixel_forest' needs XGBoost: run `pip install 'somaseg[xgboost]'` first"
        ) from error
    return xgboost


def _threads() -> int:
    """As many as PyTorch takes: OMP_NUM_THREADS, else one a core."""
    return torch.get_num_threads()
