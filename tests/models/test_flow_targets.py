from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from somaseg.data.synthetic import make_image
from somaseg.models.flow.targets import label_flows
from tests.models.data import make_cpnet_fixture as fixture


def brute_force(labels):
    """The paper's recipe cell by cell, in float64 and without any shortcut."""
    flows = np.zeros((2, *labels.shape))
    ambiguous = np.zeros(labels.shape, bool)  # two pixels are equally near to the middle
    for k in np.unique(labels[labels > 0]):
        ys, xs = np.nonzero(labels == k)
        inside = np.pad(labels == k, 1)
        distance = (ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2
        nearest = np.sort(distance)[:2]
        if len(nearest) == 2 and nearest[1] - nearest[0] < 1e-6:
            ambiguous |= labels == k
        centre = ys[distance.argmin()] + 1, xs[distance.argmin()] + 1
        heat = np.zeros(inside.shape)
        for _ in range(2 * (np.ptp(ys) + 1 + np.ptp(xs) + 1 + 2)):
            heat[centre] += 1
            padded = np.pad(heat, 1)
            total = sum(
                padded[1 + dy : 1 + dy + heat.shape[0], 1 + dx : 1 + dx + heat.shape[1]]
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            )
            heat = np.where(inside, total / 9, 0)
        heat = np.log1p(heat)
        dy = (heat[2:, 1:-1] - heat[:-2, 1:-1])[ys, xs]
        dx = (heat[1:-1, 2:] - heat[1:-1, :-2])[ys, xs]
        length = np.hypot(dy, dx)
        length[length == 0] = 1
        flows[0, ys, xs], flows[1, ys, xs] = dy / length, dx / length
    return flows, ambiguous


def discs(seed, size=(40, 48), count=6):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, np.int32)
    for k in range(1, count + 1):
        cy, cx = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        a, b = rng.uniform(1, 9, 2)
        labels[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] = k
    return labels


@given(st.integers(0, 10_000))
def test_equals_brute_force(seed):
    labels = discs(seed)
    ours, (expected, ambiguous) = label_flows(labels), brute_force(labels)
    # Where the heat is almost level its direction is a matter of rounding.
    steep = (np.hypot(*expected) > 0.5) & ~ambiguous
    cosine = (ours * expected).sum(0)[steep]
    assert cosine.size == 0 or np.quantile(cosine, 0.02) > 0.999
    assert not ours[:, labels == 0].any()


def test_a_cell_does_not_feel_its_neighbours():
    labels = make_image("shsy5y", 3)[1].to_labels()
    alone = np.where(labels == 7, 7, 0)
    assert np.array_equal(label_flows(alone)[:, alone > 0], label_flows(labels)[:, alone > 0])


def test_turns_with_the_image():
    labels = discs(1)
    dy, dx = label_flows(labels)
    turned = label_flows(np.rot90(labels))
    # The pixel nearest to the mean may be another of two equally near: compare the direction.
    cosine = turned[0] * np.rot90(-dx) + turned[1] * np.rot90(dy)
    assert np.median(cosine[np.rot90(labels) > 0]) > 0.99


@pytest.mark.parametrize("labels", [np.zeros((5, 6), int), np.eye(1, dtype=np.uint8)])
def test_nothing_to_point_to(labels):
    flows = label_flows(labels)
    assert flows.shape == (2, *labels.shape)
    assert flows.dtype == np.float32
    assert not flows.any()


def test_directions_are_those_of_cellpose():
    theirs = np.load(Path(fixture.__file__).parent / "dynamics.npz")["flows"].astype(np.float32)
    ours = label_flows(fixture.labels())
    both = (np.hypot(*ours) > 0.5) & (np.hypot(*theirs) > 0.5)
    assert both.sum() > 0.99 * (fixture.labels() > 0).sum()
    cosine = (ours * theirs).sum(0)[both] / (np.hypot(*ours) * np.hypot(*theirs))[both]
    degrees = np.degrees(np.arccos(cosine.clip(-1, 1)))
    # Cellpose 3 takes the gradient of the heat, we of its logarithm, as the paper does.
    assert degrees.mean() < 0.3
    assert np.quantile(degrees, 0.99) < 2
