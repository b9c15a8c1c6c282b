"""Clusters and suppression beside the plain way, on more instances than fit one neighbourhood."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from somaseg.decide import cluster
from somaseg.instances import Instances


@st.composite
def graphs(draw, most=25):
    """Scores, some of them equal, and pairs with IoUs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, most))
    i, j = np.triu_indices(n, 1)
    there = rng.random(len(i)) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    iou = rng.integers(1, 9, there.sum()) / 8
    return rng.integers(0, 9, n) / 8, (i[there], j[there], iou)


@given(graphs(), st.booleans(), st.sampled_from([0.0, 0.3, 0.5]))
@settings(max_examples=150, deadline=None)
def test_decay_picks_the_best_that_is_left_each_time(graph, linear, floor):
    scores, (i, j, iou) = graph
    table = np.zeros((len(scores), len(scores)))
    table[i, j] = table[j, i] = iou
    lowered, left, picked = scores.astype(float).copy(), np.ones(len(scores), bool), []
    while left.any():
        row = int(np.argmax(np.where(left, lowered, -1)))
        if lowered[row] <= floor:
            break
        left[row] = False
        picked.append(row)
        # As the compiled loop has it: NumPy's differs in the last bit, which decides on ties.
        factor = np.array([math.exp(-(value**2) / 0.5) for value in table[row]])
        if linear:
            factor = np.where(table[row] > 0.4, 1 - table[row], 1)
        lowered[left] *= factor[left]
    rows, ours = cluster.decay(scores, (i, j, iou), 0.4, 0.5, floor, linear)
    assert rows.tolist() == picked
    assert ours == pytest.approx(lowered, abs=1e-12)


@given(graphs())
@settings(max_examples=30, deadline=None)
def test_neighbours_are_those_of_the_pairs(graph):
    scores, (i, j, iou) = graph
    n = len(scores)
    # As Python, where an index out of bounds is an error.
    starts, partners, values = cluster._neighbours.py_func(n, i, j, iou)
    assert starts[0] == 0
    assert starts[-1] == len(partners) == 2 * len(i)
    for row in range(n):
        found = set(
            zip(
                partners[starts[row] : starts[row + 1]].tolist(),
                values[starts[row] : starts[row + 1]].tolist(),
                strict=True,
            )
        )
        pairs = list(zip(i.tolist(), j.tolist(), iou.tolist(), strict=True))
        assert found == {(b, v) for a, b, v in pairs if a == row} | {
            (a, v) for a, b, v in pairs if b == row
        }


def plain_clusters(order, masks, cut, weights, labels, threshold):
    """Clusters by running means of full masks, every cluster tried for every row."""
    sums, totals, kinds, out = [], [], [], np.full(len(masks), -1)
    for row in order:
        best, top = -1, threshold
        for c in range(len(sums)):
            if kinds[c] >= 0 and labels[row] >= 0 and kinds[c] != labels[row]:
                continue
            mine, mean = masks[row] >= cut, sums[c] >= np.float32(127.5) * totals[c]
            mean &= sums[c] > 0
            union = (mine | mean).sum()
            iou = (mine & mean).sum() / union if union else 0
            if iou > top:
                best, top = c, iou
        if best < 0:
            best = len(sums)
            sums.append(np.zeros(masks[0].shape, np.float32))
            totals.append(np.float32(0))
            kinds.append(labels[row])
        out[row] = best
        sums[best] += np.float32(weights[row]) * masks[row]
        totals[best] += np.float32(weights[row])
    return out


@pytest.mark.parametrize("seed", range(6))
def test_mean_masks_meet_those_near_them_as_if_all_were_tried(seed):
    """Tiny cells and one as large as the image: in many squares, growing, far apart."""
    rng = np.random.default_rng(seed)
    size = (150, 190)
    y, x = np.mgrid[: size[0], : size[1]]
    centres = rng.uniform([0, 0], size, (45, 2))
    masks = []
    for cy, cx in np.repeat(centres, 3, axis=0) + rng.normal(0, 1.2, (135, 2)):
        away = np.hypot((y - cy) * rng.uniform(0.7, 1.4), x - cx) / rng.uniform(2, 9)
        masks.append(np.clip(255 * (1.6 - away), 0, 255))
    masks.append(255 * (np.hypot(y - 75, x - 95) < 85))
    masks.append(255 * (np.hypot(y - 75, x - 95) < 88))
    masks = np.array(masks).astype(np.uint8)
    masks = masks[(masks > 127).any((1, 2))]
    order = rng.permutation(len(masks))
    weights = rng.uniform(0.1, 1, len(masks)) if seed % 2 else np.ones(len(masks))
    labels = rng.integers(-1, 2, len(masks)) if seed % 3 else np.full(len(masks), -1)
    found = Instances.from_masks(masks, soft=True).tightened()[0]
    ours = cluster.join_mean_masks(order, found.flat, 128, weights, labels, 0.4)
    expected = plain_clusters(order, masks, 128, weights, labels, 0.4)
    assert len(np.unique(expected)) < len(masks) * 0.8
    assert ours.tolist() == expected.tolist()
