"""Check a forest of XGBoost before the library reads it.

XGBoost trusts its own files: a child, feature or class number out of range, or a circle of nodes,
is followed into foreign memory or for ever. Layout: XGBoost's JSON model schema,
https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html.
"""

import json
import re
from collections.abc import Collection
from itertools import pairwise
from typing import Any

import numpy as np

from somaseg.errors import SomasegError

_NODE_FIELDS = ("left_children", "right_children", "parents", "split_indices", "split_conditions")
_MORE_NODE_FIELDS = ("default_left", "base_weights", "loss_changes", "sum_hessian", "split_type")
_NO_PARENT = 2**31 - 1
_OBJECTIVES = {"multi:softprob", "reg:logistic"}


def check_trees(data: bytes | bytearray, where: str, features: int, kinds: int = 1) -> None:
    """Refuse a forest that XGBoost could not walk safely, or that is another than expected.

    Args:
        data: a model as XGBoost's own JSON.
        where: names it in the error.
        features: columns of the rows that it is given.
        kinds: outputs: classes of a softmax, or 1.

    Raises:
        SomasegError: damaged, or of other features or outputs; says what is wrong.
    """
    try:
        learner = json.loads(data)["learner"]
        _check(learner, features, kinds)
    except _Wrong as error:
        raise SomasegError(f"{where}: damaged forest ({error}); copy or train it again") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        reason = f"{type(e).__name__}: {e}"[:100]
        raise SomasegError(
            f"{where}: not a forest of XGBoost ({reason}); copy or train it again"
        ) from e


def read_booster(data: bytes, where: str, features: int, kinds: int = 1, threads: int = 1) -> Any:
    """Check a forest, and have XGBoost read it.

    Args:
        data, where, features, kinds: as for :func:`check_trees`.
        threads: that XGBoost predicts with.

    Raises:
        SomasegError: as :func:`check_trees`, or XGBoost itself refuses it.
    """
    import xgboost

    check_trees(data, where, features, kinds)
    try:
        return xgboost.Booster({"nthread": threads}, model_file=bytearray(data))
    except xgboost.core.XGBoostError as error:
        # "[12:00:00] file.h:88: reason", and a stack trace under it.
        reason = re.sub(r"^\[.*?\] \S+: ", "", str(error).strip().splitlines()[0])
        raise SomasegError(
            f"{where}: XGBoost {xgboost.__version__} cannot read it ({reason}); copy or train it "
            "again, or install a newer XGBoost"
        ) from error


class _Wrong(Exception):
    pass


def _check(learner: dict[str, Any], features: int, kinds: int) -> None:
    about, booster = learner["learner_model_param"], learner["gradient_booster"]
    model = booster["model"]
    _expect(booster["name"] == "gbtree", "kind of booster")
    objective = learner["objective"]["name"]
    _expect(objective in _OBJECTIVES, f"objective {objective!r}")
    _expect(int(about["num_feature"]) == features, f"number of features, not {features}")
    outputs = int(about["num_class"])
    _expect(outputs == kinds or (outputs == 0 and kinds == 1), f"number of outputs, not {kinds}")
    _expect(int(about.get("num_target", 1)) == 1, "several targets")
    shown = learner.get("feature_names", [])
    _expect(len(shown) in (0, features), "names of other features")
    types = learner.get("feature_types", [])
    _expect(len(types) in (0, features) and set(types) <= {"float", "int"}, "types of features")
    softmax = learner["objective"].get("softmax_multiclass_param", {})
    _expect(int(softmax.get("num_class", kinds)) == kinds, "classes of the softmax")
    scores = np.atleast_1d(np.array(json.loads(about["base_score"]), np.float64))
    _expect(scores.size in (1, kinds) and bool(np.isfinite(scores).all()), "base score")
    trees, count = model["trees"], int(model["gbtree_model_param"]["num_trees"])
    _expect(len(trees) == count == len(model["tree_info"]), "number of trees")
    _expect(int(model["gbtree_model_param"].get("num_parallel_tree", 1)) == 1, "parallel trees")
    _expect(all(_whole(k) and 0 <= k < kinds for k in model["tree_info"]), "class of a tree")
    rounds = model.get("iteration_indptr")
    if rounds is not None:
        _expect(all(_whole(at) for at in rounds), "rounds")
        _expect(rounds[:1] == [0] and rounds[-1] == count, "rounds")
        _expect(all(b - a == kinds for a, b in pairwise(rounds)), "trees of a round")
    _expect(not any(model.get("cats", {}).get("enc", [])), "categories")
    for number, tree in enumerate(trees):
        try:
            _check_tree(tree, number, features)
        except _Wrong as error:
            raise _Wrong(f"tree {number}: {error}") from error


def _check_tree(tree: dict[str, Any], number: int, features: int) -> None:
    about = tree["tree_param"]
    n = int(about["num_nodes"])
    _expect(n >= 1, "number of nodes")
    _expect(tree["id"] == number, "number")
    _expect(int(about["num_feature"]) == features, "number of features")
    _expect(int(about.get("size_leaf_vector", 1)) in (0, 1), "leaves of several values")
    for field in ("categories", "categories_nodes", "categories_segments", "categories_sizes"):
        _expect(not tree.get(field), field)
    for field in (*_NODE_FIELDS, *_MORE_NODE_FIELDS):
        _expect(len(tree[field]) == n, f"length of {field}")
    left, right, parents, split = (_numbers(tree[field]) for field in _NODE_FIELDS[:4])
    for field in (_NODE_FIELDS[4], *_MORE_NODE_FIELDS):
        _expect(bool(np.isfinite(np.array(tree[field], np.float64)).all()), field)
    _expect(not np.any(tree["split_type"]), "split by category")
    inner = left != -1
    _expect(bool(((right != -1) == inner).all()), "node with one child")
    _expect(bool(((split >= 0) & (split < features))[inner].all()), "feature number")
    children = np.concatenate([left[inner], right[inner]])
    _expect(bool(((children > 0) & (children < n)).all()), "child number")
    # Each node but the root is the child of one: then a walk down never comes back, if the
    # root reaches them all; deleted nodes are the children of none.
    _expect(len(np.unique(children)) == len(children), "node with two parents")
    _expect(parents[0] == _NO_PARENT, "parent of the root")
    _expect(bool((parents[children] == np.tile(np.flatnonzero(inner), 2)).all()), "parent number")
    reached, edge = 1, np.array([0])
    while len(edge := edge[inner[edge]]):
        edge = np.concatenate([left[edge], right[edge]])
        reached += len(edge)
    _expect(reached == n - int(about.get("num_deleted", 0)), "nodes that are not reached")


def _numbers(values: Collection[Any]) -> np.ndarray:
    _expect(all(_whole(value) for value in values), "node number that is none")
    return np.array(values, np.int64)


def _whole(value: Any) -> bool:
    return type(value) is int


def _expect(right: bool, what: str) -> None:
    if not right:
        raise _Wrong(f"wrong {what}")
