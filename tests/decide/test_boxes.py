import warnings

import ensemble_boxes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from somaseg.decide import boxes as own
from somaseg.decide.boxes import CONFIDENCES, box_pairs, nms, nmw, soft_nms, wbf

IOUS = st.sampled_from([0.0, 0.2, 0.4, 0.55, 0.7, 0.9])


@st.composite
def cases(draw):
    """Boxes of several members, in 0 … 1: a few places, each found more or less well by some."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    members, places = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    kinds, jitter = draw(st.integers(1, 3)), draw(st.sampled_from([0.005, 0.02, 0.05]))
    low = rng.uniform(0.06, 0.6, (places, 2))
    true = np.concatenate([low, low + rng.uniform(0.11, 0.33, (places, 2))], 1)
    boxes, scores, labels = [], [], []
    for _ in range(members):
        rows = rng.integers(0, places, rng.integers(0, 9))
        boxes.append(true[rows] + rng.uniform(-jitter, jitter, (len(rows), 4)))
        scores.append(rng.uniform(0.002, 1, len(rows)))
        labels.append(rng.integers(0, kinds, len(rows)))
    assume(sum(map(len, boxes)))
    weights = draw(st.one_of(st.none(), st.just(rng.uniform(0.3, 3, members).tolist())))
    return boxes, scores, labels, weights


def agree(ours, theirs):
    theirs = [np.asarray(values) for values in theirs]
    order = np.argsort(-theirs[1], kind="stable")
    assert len(ours.boxes) == len(order)
    for mine, other in zip(ours, theirs, strict=True):
        assert np.allclose(mine, other[order].reshape(mine.shape), rtol=0, atol=1e-6)
    assert (np.diff(ours.scores) <= 0).all()


def copies(case):
    """For ensemble-boxes, which writes its weighted scores into the list that it is given."""
    boxes, scores, labels, _ = case
    return [b.copy() for b in boxes], [s.copy() for s in scores], [x.copy() for x in labels]


@given(cases(), IOUS)
def test_nms_is_that_of_ensemble_boxes(case, iou):
    agree(nms(*case, iou), ensemble_boxes.nms(*copies(case), iou_thr=iou, weights=case[3]))


@given(
    cases(), IOUS, st.booleans(), st.sampled_from([0.1, 0.5, 2.0]), st.sampled_from([0.001, 0.1])
)
def test_soft_nms_is_that_of_ensemble_boxes(case, iou, linear, sigma, floor):
    theirs = ensemble_boxes.soft_nms(
        *copies(case),
        method=1 if linear else 2,
        iou_thr=iou,
        sigma=sigma,
        thresh=floor,
        weights=case[3],
    )
    agree(soft_nms(*case, iou, sigma, floor, linear, lowered=False), theirs)


def literal_soft_nms(boxes, scores, labels, iou, sigma, floor, linear):
    """The paper's algorithm as it is written, on dense IoUs."""
    i, j, values = box_pairs(boxes, labels)
    dense = np.zeros((len(boxes), len(boxes)))
    dense[i, j] = dense[j, i] = values
    left, kept, scores = list(range(len(boxes))), [], scores.copy()
    while left:
        row = max(left, key=lambda r: scores[r])
        left.remove(row)
        if scores[row] > floor:
            kept.append((row, scores[row]))
        for other in left:
            v = dense[row, other]
            scores[other] *= (1 - v if v > iou else 1) if linear else np.exp(-(v**2) / sigma)
    return sorted(kept, key=lambda pair: -pair[1])


@given(cases(), IOUS, st.booleans(), st.sampled_from([0.1, 0.5]), st.sampled_from([0.001, 0.1]))
def test_soft_nms_lowers_scores_as_the_paper_says(case, iou, linear, sigma, floor):
    ours = soft_nms(*case[:3], None, iou, sigma, floor, linear)
    boxes, scores, labels = (np.concatenate(part) for part in case[:3])
    expected = literal_soft_nms(boxes, scores, labels, iou, sigma, floor, linear)
    assert np.allclose(ours.scores, [score for _, score in expected])
    assert np.array_equal(ours.boxes, boxes[[row for row, _ in expected]].reshape(-1, 4))


@given(cases(), IOUS, st.sampled_from([0.0, 0.3]))
def test_nmw_is_that_of_ensemble_boxes(case, iou, skip):
    theirs = ensemble_boxes.non_maximum_weighted(
        *copies(case), weights=case[3], iou_thr=iou, skip_box_thr=skip
    )
    agree(nmw(*case, iou, skip), theirs)


@given(cases(), IOUS, st.sampled_from([0.0, 0.3]), st.sampled_from(CONFIDENCES), st.booleans())
def test_wbf_is_that_of_ensemble_boxes(case, iou, skip, confidence, overflow):
    theirs = ensemble_boxes.weighted_boxes_fusion(
        *copies(case),
        weights=case[3],
        iou_thr=iou,
        skip_box_thr=skip,
        conf_type=confidence,
        allows_overflow=overflow,
    )
    agree(wbf(*case, iou, skip, confidence, overflow), theirs)


@pytest.mark.parametrize("function", [nms, soft_nms, nmw, wbf])
def test_unit_of_the_boxes_does_not_matter(function):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.7, (40, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.3, (40, 2))], 1)
    scores, labels = rng.random(40), np.zeros(40, int)
    one = function([boxes], [scores], [labels], iou=0.3)
    large = function([boxes * 704 - 100], [scores], [labels], iou=0.3)
    assert np.allclose(large.boxes, one.boxes * 704 - 100)
    assert np.allclose(large.scores, one.scores)


@given(cases())
def test_pairs_are_all_that_overlap(case):
    boxes, _, labels = (np.concatenate(part) for part in case[:3])
    i, j, iou = box_pairs(boxes, labels)
    found = dict(zip(zip(i.tolist(), j.tolist(), strict=True), iou, strict=True))
    assert len(found) == len(i)
    for a in range(len(boxes)):
        for b in range(a):
            width, height = np.minimum(boxes[a, 2:], boxes[b, 2:]) - np.maximum(
                boxes[a, :2], boxes[b, :2]
            )
            shared = max(width, 0) * max(height, 0) * (labels[a] == labels[b])
            union = sum(np.prod(boxes[k, 2:] - boxes[k, :2]) for k in (a, b)) - shared
            value = found.pop((a, b), found.pop((b, a), 0.0))
            assert value == pytest.approx(shared / union)
    assert not found


def test_an_iou_at_the_threshold_is_not_above_it():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0.5, 1]])  # IoU 1/2
    arguments = [boxes], [np.array([0.9, 0.8])], [np.zeros(2, int)]
    for ours, theirs in (
        (nms, ensemble_boxes.nms),
        (nmw, ensemble_boxes.non_maximum_weighted),
        (wbf, ensemble_boxes.weighted_boxes_fusion),
    ):
        for iou, left in ((0.5, 2), (0.4999, 1)):
            assert len(ours(*arguments, iou=iou).boxes) == left
            assert len(theirs(*arguments, iou_thr=iou)[0]) == left


def test_what_ensemble_boxes_does_by_accident():
    boxes = [np.array([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52]])]
    nothing, labels = [np.zeros(2)], [np.zeros(2, int)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for theirs in (ensemble_boxes.weighted_boxes_fusion, ensemble_boxes.non_maximum_weighted):
            assert np.isnan(theirs(boxes, nothing, labels)[0]).all()
    assert wbf(boxes, nothing, labels).boxes == pytest.approx(np.array([[0.1, 0.1, 0.5, 0.51]]))
    assert nmw(boxes, nothing, labels).boxes[0, 3] == pytest.approx(0.51, abs=1e-3)
    scores = [np.array([0.9, 0.8])]
    theirs = ensemble_boxes.soft_nms(boxes, scores, labels)
    assert theirs[1].tolist() == [0.9, 0.8]  # not lowered
    assert soft_nms(boxes, scores, labels).scores[1] < 0.2
    # Boxes without area are left out by both.
    flat = [np.array([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.1, 0.5]])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(wbf(flat, scores, labels), ensemble_boxes.weighted_boxes_fusion(flat, scores, labels))


def test_nothing():
    for function in (nms, soft_nms, nmw, wbf):
        none = function([np.zeros((0, 4))] * 2, [[], []], [[], []])
        assert [part.shape for part in none] == [(0, 4), (0,), (0,)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": []}, "of one at least"),
        ({"scores": [[0.5]]}, "member 0: 2 boxes, 1 scores, 2 labels"),
        ({"boxes": [[[0, 0, 1, 1], [3, 0, 1, 1]]]}, "member 0: a box has x1 < x0"),
        ({"scores": [[0.5, np.nan]]}, "member 0: a box or score is not a number"),
        ({"scores": [[0.5, -0.1]]}, "member 0: a score is below 0"),
        ({"weights": [1, 2]}, "2 weights for 1 members"),
        ({"weights": [0]}, "weights 0: give numbers above 0"),
    ],
)
def test_bad_input(change, message):
    good = {"boxes": [[[0, 0, 1, 1], [0, 0, 2, 2]]], "scores": [[0.5, 0.6]], "labels": [[0, 0]]}
    for function in (nms, soft_nms, nmw, wbf):
        with pytest.raises(ValueError, match=message):
            function(**good | change)


def test_unknown_confidence():
    with pytest.raises(ValueError, match="unknown confidence 'mean'; choose from avg, max"):
        wbf([[[0, 0, 1, 1]]], [[1]], [[0]], confidence="mean")
    assert own.Confidence.__args__ == CONFIDENCES
