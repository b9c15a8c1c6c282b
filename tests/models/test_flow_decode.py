from pathlib import Path

import numpy as np
import pytest

from somaseg.data.synthetic import KINDS, make_image
from somaseg.instances import Instances
from somaseg.models.flow.decode import (
    STEPS,
    _follow,
    decode_flows,
    flow_errors,
    resize_labels,
    unit_length,
)
from somaseg.models.flow.targets import label_flows
from somaseg.scoring import Overlaps
from tests.models.data import make_cpnet_fixture as fixture

THEIRS = np.load(Path(fixture.__file__).parent / "dynamics.npz")


def ends_by_euler(flows, inside, steps=STEPS):
    """Every pixel followed for all steps, as the paper does it."""
    h, w = inside.shape
    ys, xs = np.nonzero(inside)
    y, x = ys.astype(float), xs.astype(float)
    masked = flows * inside
    for _ in range(steps):
        y0, x0 = y.astype(int), x.astype(int)
        y1, x1 = np.minimum(y0 + 1, h - 1), np.minimum(x0 + 1, w - 1)
        fy, fx = y - y0, x - x0
        step = (
            masked[:, y0, x0] * (1 - fy) * (1 - fx)
            + masked[:, y0, x1] * (1 - fy) * fx
            + masked[:, y1, x0] * fy * (1 - fx)
            + masked[:, y1, x1] * fy * fx
        )
        y, x = np.clip(y + step[0], 0, h - 1), np.clip(x + step[1], 0, w - 1)
    return ys, xs, y, x


def share_found(truth, decoded, percent):
    overlaps = Overlaps.between(Instances.from_labels(truth), Instances.from_labels(decoded))
    hits = overlaps.counts((percent,), "maximum").hits[0]
    return hits / (len(overlaps.truth_areas) + len(overlaps.prediction_areas) - hits)


@pytest.mark.parametrize("kind", KINDS)
def test_true_flows_give_the_cells_back(kind):
    # In one piece each: a piece that was cut off has no path to the centre.
    cells = make_image(kind, 5)[1].disjoint(largest_piece=True, min_area=20)[0]
    labels = cells.to_labels()
    decoded = decode_flows(label_flows(labels), labels > 0)
    assert share_found(labels, decoded.labels, 90) > 0.95
    assert decoded.errors.max() < 0.1


def test_short_cut_ends_where_the_long_way_ends():
    labels = make_image("shsy5y", 8)[1].to_labels()
    flows = label_flows(labels) + np.random.default_rng(0).normal(
        0, 0.2, (2, *labels.shape)
    ).astype(np.float32)
    decoded = decode_flows(flows, labels > 0, max_error=np.inf)
    ys, xs, y, x = ends_by_euler(flows, labels > 0)
    # Pixels of one decoded cell end together, by the long way too.
    for k in range(1, decoded.labels.max() + 1):
        own = decoded.labels[ys, xs] == k
        spread = np.hypot(y[own] - np.median(y[own]), x[own] - np.median(x[own]))
        assert np.quantile(spread, 0.8) < 4


def test_foreground_bounds_the_cells():
    labels = np.zeros((40, 40), np.int32)
    labels[5:25, 5:25] = 1
    foreground = np.zeros((40, 40), bool)
    foreground[5:15, 5:25] = True
    decoded = decode_flows(label_flows(labels), foreground, max_error=np.inf)
    assert not (decoded.labels[~foreground] > 0).any()


def test_holes_are_filled_and_small_cells_dropped():
    labels = np.zeros((40, 60), np.int32)
    labels[5:25, 5:25] = 1
    labels[30:33, 40:43] = 2
    foreground = labels > 0
    foreground[14:16, 14:16] = False
    decoded = decode_flows(label_flows(labels), foreground, min_area=15)
    assert decoded.labels.max() == 1
    assert (decoded.labels[14:16, 14:16] == 1).all()
    assert not decoded.labels[labels == 2].any()
    assert (decoded.labels == 1).sum() > 0.95 * (labels == 1).sum()


def test_flows_that_are_not_the_shapes_own_are_dropped():
    labels = np.zeros((40, 40), np.int32)
    labels[8:32, 8:32] = 1
    inside = labels > 0
    flows = label_flows(labels)
    rng = np.random.default_rng(1)
    wild = flows + rng.normal(0, 1.2, flows.shape).astype(np.float32)
    assert len(decode_flows(flows, inside).errors) == 1
    assert len(decode_flows(wild, inside, max_error=np.inf).errors) >= 1
    assert len(decode_flows(wild, inside, max_error=0.4).errors) == 0


def test_error_is_the_mean_square():
    labels = np.zeros((20, 20), np.int32)
    labels[4:15, 4:15] = 1
    flows = label_flows(labels)
    flows[0] += 0.5
    assert flow_errors(labels, flows) == pytest.approx([0.25], abs=1e-6)


def test_no_foreground():
    decoded = decode_flows(np.zeros((2, 8, 9), np.float32), np.zeros((8, 9), bool))
    assert decoded.labels.shape == (8, 9)
    assert len(decoded.errors) == 0


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="do not fit"):
        decode_flows(np.zeros((2, 8, 9), np.float32), np.zeros((9, 8), bool))


def average_precision(truth, prediction, percent=90):
    overlaps = Overlaps.between(Instances.from_labels(truth), Instances.from_labels(prediction))
    hits = overlaps.counts((percent,), "maximum").hits[0]
    return hits / (truth.max() + prediction.max() - hits)


@pytest.mark.parametrize(("name", "limit"), [("all", np.inf), ("checked", fixture.CHECK)])
def test_masks_are_those_of_cellpose(name, limit):
    theirs = THEIRS[f"masks_{name}"].astype(np.int32)
    assert theirs.max() == {"all": 40, "checked": 36}[name]
    truth = fixture.labels()
    flows = (label_flows(truth) + fixture.noise()) * (truth > 0)
    decoded = decode_flows(flows, truth > 0, max_error=limit)
    assert average_precision(theirs, decoded.labels) >= 0.99


def test_masks_at_the_networks_resolution_are_those_of_cellpose():
    theirs = THEIRS["masks_enlarged"].astype(np.int32)
    truth = fixture.labels()
    flows = ((label_flows(truth) + fixture.noise()) * (truth > 0))[:, ::2, ::2]
    decoded = decode_flows(flows, truth[::2, ::2] > 0, max_error=fixture.CHECK, min_area=1)
    enlarged = resize_labels(decoded, truth.shape, min_area=15)
    assert len(enlarged.errors) == enlarged.labels.max()
    assert average_precision(theirs, enlarged.labels) >= 0.99


@pytest.mark.parametrize("steps", [1, 12, STEPS])
def test_exact_steps_end_where_euler_ends(steps):
    labels = fixture.labels()
    flows, inside = label_flows(labels) + fixture.noise(), labels > 0
    ys, xs, y, x = ends_by_euler(flows, inside, steps)
    ends = _follow(flows, inside, steps, False)
    far = np.maximum(abs(ends[ys, xs] // 210 - y), abs(ends[ys, xs] % 210 - x))
    # The pixel that a point lies in; noise sends a few to another sink by rounding alone.
    assert np.mean(far <= 0.5 + 1e-3) > 0.98
    assert (ends[~inside] == -1).all()


def test_too_few_exact_steps_leave_pixels_behind():
    labels = np.zeros((20, 80), np.int32)
    labels[5:15, 5:75] = 1
    flows, inside = label_flows(labels), labels > 0
    enough, few = (
        decode_flows(flows, inside, max_error=np.inf, max_share=1, steps=steps, exact=True)
        for steps in (200, 12)
    )
    assert len(enough.errors) == 1
    assert (few.labels == few.labels[9, 39]).sum() < 0.6 * inside.sum()


def test_unit_steps_arrive_where_flows_are_short():
    labels = np.zeros((40, 90), np.int32)
    labels[5:35, 5:85] = 1
    flows, inside = label_flows(labels) * np.float32(0.12), labels > 0
    limits = {"max_error": np.inf, "max_share": 1.0}
    assert (decode_flows(flows, inside, exact=True, **limits).labels == 1).sum() < inside.sum()
    whole = decode_flows(flows, inside, exact=True, unit_steps=True, **limits)
    assert np.array_equal(whole.labels == 1, inside)
    # The error is still that of what was predicted.
    assert whole.errors == pytest.approx([0.88**2], abs=0.01)


def test_unit_length():
    flows = np.array([[[3.0, 0.0, 0.05]], [[4.0, 0.0, 0.0]]], np.float32)
    np.testing.assert_allclose(unit_length(flows), [[[0.6, 0, 0.5]], [[0.8, 0, 0]]], rtol=1e-6)
