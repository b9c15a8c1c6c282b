import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.scoring import coco_score, compare
from tests.scoring.strategies import dataset, instances, rectangle, stack

SIZE = (48, 64)
NAMES = ("astro", "cort", "shsy5y")


def random_images(seed, n_images=3, n_cells=25, ties=False):
    """Truths, and predictions that are the truths moved, dropped and invented, with scores."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(n_images):
        n = int(rng.integers(0, n_cells))
        corners = rng.integers(0, (SIZE[0] - 12, SIZE[1] - 12), (n, 2))
        sides = rng.integers(4, 12, (n, 2))
        masks, moved = [], []
        for (y, x), (height, width) in zip(corners.tolist(), sides.tolist(), strict=True):
            masks.append(rectangle(y, x, y + height, x + width, SIZE))
            for _ in range(rng.integers(0, 3)):
                dy, dx = rng.integers(-2, 3, 2)
                y0, x0 = max(y + dy, 0), max(x + dx, 0)
                moved.append(rectangle(y0, x0, y0 + height, x0 + width, SIZE))
        scores = rng.random(len(moved))
        if ties:
            scores = np.round(scores, 1)
        # Float32 as Instances keep them, so that both rank by the same numbers.
        scores = scores.astype(np.float32)
        # Sorted by class: pycocotools ranks equal scores in that order when it ignores classes.
        kinds = np.sort(rng.integers(0, 3, len(masks)))
        truths.append(instances(stack(masks, SIZE), classes=kinds, names=NAMES))
        kinds = np.sort(rng.integers(0, 3, len(moved)))
        found.append(instances(stack(moved, SIZE), scores, kinds, NAMES))
    return truths, found


def to_coco(images, scored):
    """Annotations as pycocotools wants them."""
    entries = []
    for k, cells in enumerate(images):
        for i in range(len(cells)):
            code = mask_tools.encode(np.asfortranarray(cells.mask(i).astype(np.uint8)))
            code["counts"] = code["counts"].decode()
            entry = {
                "id": len(entries) + 1,
                "image_id": k + 1,
                "category_id": int(cells.classes[i]) + 1,
                "segmentation": code,
                "area": float(cells.areas[i]),
                "bbox": mask_tools.toBbox(code).tolist(),
                "iscrowd": 0,
            }
            if scored:
                entry["score"] = float(cells.scores[i])
            entries.append(entry)
    return entries


def peer_precision(truths, found, coco_type, eval_type, use_classes, cap):
    """Precision (T, R, K) that the peer computes, without areas."""
    ours = {
        "info": {},
        "images": [{"id": k + 1, "height": SIZE[0], "width": SIZE[1]} for k in range(len(truths))],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)],
        "annotations": to_coco(truths, scored=False),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_type()
        truth.dataset = ours
        truth.createIndex()
        results = truth.loadRes(to_coco(found, scored=True))
        peer = eval_type(truth, results, "segm")
        peer.params.useCats = int(use_classes)
        peer.params.maxDets = [cap]
        peer.params.areaRng, peer.params.areaRngLbl = [[0, 1e10]], ["all"]
        peer.evaluate()
        peer.accumulate()
    return np.asarray(peer.eval["precision"])[:, :, :, 0, 0]


def our_score(truths, found, **options):
    truth = dataset(truths, NAMES)
    return coco_score(compare(truth, dict(zip(truth.ids, found, strict=True))), **options)


def assert_agrees(truths, found, coco_type, eval_type, cap):
    ours = our_score(truths, found, max_detections=cap)
    uncapped = 10_000
    precision = peer_precision(truths, found, coco_type, eval_type, True, cap or uncapped)
    for k, name in enumerate(NAMES):
        if name not in ours.classes:
            assert (precision[:, :, k] == -1).all()
            continue
        expected = precision[:, :, k].mean(axis=1)
        np.testing.assert_allclose(ours.classes[name].precision, expected, atol=1e-9)
    assert ours.ap == pytest.approx(precision[precision > -1].mean(), abs=1e-9)
    agnostic = peer_precision(truths, found, coco_type, eval_type, False, cap or uncapped)
    np.testing.assert_allclose(ours.agnostic.precision, agnostic[:, :, 0].mean(axis=1), atol=1e-9)


# Who is beyond the cap is arbitrary among equal scores: the two are not tried together.
@pytest.mark.parametrize(("cap", "ties"), [(None, False), (None, True), (5, False)])
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_pycocotools(seed, cap, ties):
    truths, found = random_images(seed, ties=ties)
    assert_agrees(truths, found, COCO, COCOeval, cap)


@pytest.mark.parametrize("seed", range(6, 10))
def test_agrees_with_faster_coco_eval(seed):
    faster = pytest.importorskip("faster_coco_eval")
    truths, found = random_images(seed)
    assert_agrees(truths, found, faster.COCO, faster.COCOeval_faster, None)


def row_of_squares(n):
    return stack([rectangle(2, 6 * k, 6, 6 * k + 4, SIZE) for k in range(n)], SIZE)


def test_by_hand():
    # Ranked: hit, miss, hit of three truths: precision 1 up to recall 1/3, 2/3 up to 2/3, then 0.
    squares = row_of_squares(4)
    truth = dataset([instances(squares[:3])])
    found = {"a": instances(squares[[0, 3, 1]], scores=[0.9, 0.8, 0.7])}
    ap = coco_score(compare(truth, found)).ap
    assert ap == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)


def test_there_is_no_cap_of_a_hundred():
    rng = np.random.default_rng(1)
    squares = np.zeros((150, 48, 64), bool)
    for k in range(150):
        squares[k, 3 * (k // 16) : 3 * (k // 16) + 3, 4 * (k % 16) : 4 * (k % 16) + 3] = True
    truth = dataset([instances(squares)])
    comparison = compare(truth, {"a": instances(squares, scores=rng.random(150))})
    assert coco_score(comparison).ap == 1
    assert coco_score(comparison, max_detections=100).ap == pytest.approx(67 / 101)


def test_coco_takes_an_iou_of_exactly_the_threshold():
    truth = dataset([instances([rectangle(0, 0, 1, 20, SIZE)])])
    half = instances(
        [rectangle(0, 0, 1, 10, SIZE), rectangle(40, 0, 41, 1, SIZE)], scores=[0.9, 0.1]
    )
    assert coco_score(compare(truth, {"a": half})).agnostic.precision.tolist() == [1.0] + [0.0] * 9


def test_of_equally_good_truths_the_last_is_taken_as_in_pycocotools():
    left, right = rectangle(0, 0, 1, 9, SIZE), rectangle(0, 3, 1, 12, SIZE)
    truths = [instances([left, right], classes=0, names=NAMES)]
    # The first prediction has an IoU of 9/12 with both; the second is the left one itself.
    found = [instances([left | right, left], [0.9, 0.8], 0, NAMES)]
    assert_agrees(truths, found, COCO, COCOeval, None)
    score = our_score(truths, found)
    assert score.agnostic.precision[:6].tolist() == [1.0] * 6


def test_classes_without_truth_are_left_out():
    squares = row_of_squares(3)
    truth = dataset([instances(squares[:2], classes=0, names=NAMES)], NAMES)
    found = instances(squares, [0.9, 0.8, 0.7], [0, 0, 2], NAMES)
    score = coco_score(compare(truth, {"a": found}))
    assert set(score.classes) == {"astro"}
    assert score.ap == 1


def test_predictions_without_classes_have_agnostic_ap_only():
    squares = row_of_squares(2)
    truth = dataset([instances(squares, classes=[0, 1], names=NAMES)], NAMES)
    score = coco_score(compare(truth, {"a": instances(squares, [0.9, 0.8], names=())}))
    assert score.ap is None
    assert score.agnostic.precision.tolist() == [1.0] * 10
    assert score.to_json()["ap"] is None


def test_no_truth_at_all_has_no_ap():
    truth = dataset([Instances.empty(SIZE, ("cell",))])
    found = instances(row_of_squares(2), scores=[0.5, 0.6])
    assert coco_score(compare(truth, {"a": found})) is None


def test_no_prediction_at_all_is_zero():
    truth = dataset([instances(row_of_squares(2))])
    score = coco_score(compare(truth, {"a": Instances.empty(SIZE)}))
    assert score.ap == 0
    assert score.agnostic.recall.tolist() == [0.0] * 10


@given(st.integers(0, 1000), st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_only_the_ranking_counts(seed, scale):
    truths, found = random_images(seed, n_images=2, n_cells=8)
    scores = [(cells.scores * scale).astype(np.float32) for cells in found]
    same = [cells.with_scores(s) for cells, s in zip(found, scores, strict=True)]
    every = np.concatenate([cells.scores for cells in found])
    if sum(map(len, truths)) and len(np.unique(every)) > 1:
        assert our_score(truths, found).to_json() == our_score(truths, same).to_json()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(value):
    squares = row_of_squares(2)
    found = instances(squares, scores=[0.5, value])
    with pytest.raises(SomasegError, match=r"image 'a': the score of prediction 2 is -?inf;"):
        coco_score(compare(dataset([instances(squares)]), {"a": found}))


def test_predictions_without_scores_are_refused():
    squares = row_of_squares(2)
    with pytest.raises(SomasegError, match="all predictions have the same score"):
        coco_score(compare(dataset([instances(squares)]), {"a": instances(squares)}))


def test_json_is_plain():
    truths, found = random_images(3)
    result = our_score(truths, found).to_json()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["class_agnostic"]["ap50"] >= result["class_agnostic"]["ap75"]
