import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.scoring.match import THRESHOLDS, Counts, Overlaps
from tests.scoring import oracle
from tests.scoring.strategies import instances, pairs_of_stacks, rectangle, stack


def graph_overlaps(truth, prediction, shared, truth_areas, prediction_areas):
    """Overlaps with these pairs, drawn by no mask."""
    return Overlaps(
        id="graph",
        image_class=None,
        truth_areas=np.asarray(truth_areas, np.int64),
        prediction_areas=np.asarray(prediction_areas, np.int64),
        truth_classes=np.full(len(truth_areas), -1, np.int16),
        prediction_classes=np.full(len(prediction_areas), -1, np.int16),
        scores=np.ones(len(prediction_areas), np.float32),
        truth=np.asarray(truth, np.int32),
        prediction=np.asarray(prediction, np.int32),
        shared=np.asarray(shared, np.int64),
    )


@st.composite
def contested(draw):
    """Random overlaps of many with many: nearly every match is contested at low thresholds."""
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    linked = rng.random((n, m)) < rng.uniform(0.1, 0.9)
    truth, prediction = np.nonzero(linked)
    shared = rng.integers(1, 100, len(truth))
    return graph_overlaps(truth, prediction, shared, np.full(n, 100), np.full(m, 100))


@given(contested())
def test_contested_matching_is_one_to_one_nested_and_as_large_as_possible(overlaps):
    thresholds = (0, 5, 10, 20, 33, 50, 70)
    matches = overlaps.matches(thresholds)
    iou = {
        pair: value
        for *pair, value in zip(overlaps.truth, overlaps.prediction, overlaps.iou, strict=True)
        for pair in [tuple(pair)]
    }
    for t, percent in enumerate(thresholds):
        pairs = [(i, j) for i, j in enumerate(matches[t]) if j >= 0]
        assert len({j for _, j in pairs}) == len(pairs)
        assert all(iou[pair] > percent / 100 for pair in pairs)
        hits = [pair for pair, value in iou.items() if value > percent / 100]
        shape = (len(overlaps.truth_areas), len(overlaps.prediction_areas))
        rows, columns = np.array(hits, int).reshape(-1, 2).T
        graph = csr_array((np.ones(len(hits)), (rows, columns)), shape=shape)
        assert len(pairs) == (maximum_bipartite_matching(graph) >= 0).sum()
        if t:
            assert set(np.flatnonzero(matches[t] >= 0)) <= set(np.flatnonzero(matches[t - 1] >= 0))


def test_greedy_alone_would_find_fewer():
    # Prediction 0 overlaps both truths, truth 0 better; prediction 1 overlaps truth 0 only.
    overlaps = graph_overlaps([0, 1, 0], [0, 0, 1], [90, 80, 75], [100, 100], [100, 100])
    assert overlaps.matches((50, 55, 65)).tolist() == [[1, 0], [1, 0], [0, -1]]


def test_of_two_predictions_the_better_is_taken():
    overlaps = graph_overlaps([0, 0], [0, 1], [80, 90], [100], [100, 100])
    assert overlaps.matches().tolist() == [[1]] * 7 + [[-1]] * 3


@given(pairs_of_stacks())
@settings(max_examples=150)
def test_counts_agree_with_brute_force(stacks):
    truths, predictions = stacks
    counts = Overlaps.between(instances(truths), instances(predictions)).counts()
    for t, threshold in enumerate(oracle.THRESHOLDS):
        expected = oracle.image_accuracy(truths, predictions, threshold)
        assert counts.accuracy[t] == pytest.approx(float(expected), abs=1e-12)
        assert counts.hits[t] + counts.false_negatives[t] == len(truths)
        assert counts.hits[t] + counts.false_positives[t] == len(predictions)


@given(pairs_of_stacks())
def test_kaggle_counts_as_the_public_kernels_do(stacks):
    truths, predictions = stacks
    overlaps = Overlaps.between(instances(truths), instances(predictions))
    counts = overlaps.counts(matching="kaggle")
    table = oracle.iou_table(truths, predictions)
    for t, threshold in enumerate(oracle.THRESHOLDS):
        truth_hits = [sum(iou > threshold for iou in row) for row in table]
        prediction_hits = [
            sum(row[j] > threshold for row in table) for j in range(len(predictions))
        ]
        assert counts.hits[t] == truth_hits.count(1)
        assert counts.false_negatives[t] == truth_hits.count(0)
        assert counts.false_positives[t] == prediction_hits.count(0)


def test_an_iou_of_exactly_the_threshold_is_no_hit():
    # 20 columns; the prediction keeps k of them: IoU is exactly k / 20 = 0.50, 0.55, ….
    truth = instances([rectangle(0, 0, 1, 20, (2, 20))])
    for k in range(10, 20):
        prediction = instances([rectangle(0, 0, 1, k, (2, 20))])
        assert Overlaps.between(truth, prediction).counts().hits.sum() == k - 10


def test_matching_differs_only_where_both_sides_overlap():
    # Two identical truths and one prediction: kaggle gives both truths a hit, we one.
    square = rectangle(2, 2, 7, 7, (9, 11))
    overlaps = Overlaps.between(instances([square, square]), instances([square]))
    assert overlaps.counts().accuracy.tolist() == [0.5] * 10
    assert overlaps.counts(matching="kaggle").accuracy.tolist() == [1.0] * 10
    # Two identical predictions of one truth: kaggle counts neither a hit nor a fault.
    overlaps = Overlaps.between(instances([square]), instances([square, square]))
    assert overlaps.counts().accuracy.tolist() == [0.5] * 10
    assert overlaps.counts(matching="kaggle").hits.tolist() == [0] * 10


def test_soft_predictions_are_cut_at_one_half():
    crop = np.full((4, 4), 100, np.uint8)
    crop[:, :2] = 200
    soft = Instances.from_crops((6, 6), [[1, 1, 5, 5]], [crop], names=("cell",), soft=True)
    truth = instances([rectangle(1, 1, 5, 3, (6, 6))])
    assert Overlaps.between(truth, soft).iou.tolist() == [1.0]


def test_of_class_keeps_the_pairs_of_that_class():
    names = ("a", "b")
    masks = stack([rectangle(0, 0, 3, 3, (9, 11)), rectangle(4, 4, 8, 8, (9, 11))])
    truth = instances(masks, classes=[0, 1], names=names)
    swapped = ("b", "a")  # the same names in another order are matched by name
    prediction = instances(masks[[1, 0]], classes=[0, 1], names=swapped)
    one = Overlaps.between(truth, prediction).of_class(1)
    assert (one.truth_areas.tolist(), one.prediction_areas.tolist()) == ([16], [16])
    assert (one.truth.tolist(), one.prediction.tolist(), one.iou.tolist()) == ([0], [0], [1.0])


def test_unknown_classes_stay_unknown():
    square = stack([rectangle(0, 0, 3, 3, (9, 11))])
    truth = instances(square, classes=[0], names=("a", "b"))
    overlaps = Overlaps.between(truth, instances(square, classes=[-1], names=("b",)))
    assert overlaps.prediction_classes.tolist() == [-1]


def test_other_size_is_refused():
    with pytest.raises(SomasegError, match=r"image 'x': the prediction is 30×20 pixels, the truth"):
        Overlaps.between(Instances.empty((10, 10)), Instances.empty((20, 30)), "x")


@pytest.mark.parametrize("thresholds", [(), (50, 50), (75, 50), (-5, 50)])
def test_bad_thresholds_are_refused(thresholds):
    overlaps = Overlaps.between(instances([]), instances([]))
    with pytest.raises(SomasegError, match="rising whole percents"):
        overlaps.counts(thresholds)


def test_unknown_matching_is_refused():
    overlaps = Overlaps.between(instances([]), instances([]))
    with pytest.raises(SomasegError, match="use 'maximum' or 'kaggle'"):
        overlaps.counts(THRESHOLDS, "best")


def test_counts_of_images_add_up():
    one, other = (Counts(*np.arange(3 * k, 3 * k + 6).reshape(3, 2)) for k in (1, 4))
    both = one + other
    assert both.hits.tolist() == [15, 17]
    assert both.false_positives.tolist() == [19, 21]
    assert both.false_negatives.tolist() == [23, 25]
