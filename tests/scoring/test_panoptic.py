import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from somaseg.scoring import compare, panoptic_score
from tests.scoring import oracle
from tests.scoring.strategies import dataset, instances, pairs_of_stacks, rectangle, stack

SIZE = (20, 40)


@given(st.lists(pairs_of_stacks(most=4), min_size=1, max_size=3))
@settings(max_examples=60)
def test_pooled_counts_agree_with_brute_force(stacks):
    truth = dataset([instances(truths) for truths, _ in stacks])
    found = {name: instances(p) for name, (_, p) in zip(truth.ids, stacks, strict=True)}
    for row, threshold in zip(
        panoptic_score(compare(truth, found)).rows, oracle.THRESHOLDS, strict=True
    ):
        tp = fp = fn = 0
        for truths, predictions in stacks:
            table = oracle.iou_table(truths, predictions)
            hits = oracle.most_pairs([[iou > threshold for iou in line] for line in table])
            tp, fp, fn = tp + hits, fp + len(predictions) - hits, fn + len(truths) - hits
        assert (row.hits, row.false_positives, row.false_negatives) == (tp, fp, fn)
        assert row.precision == pytest.approx(tp / (tp + fp) if tp + fp else 0)
        assert row.recall == pytest.approx(tp / (tp + fn) if tp + fn else 0)
        assert row.f1 == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0)
        assert row.accuracy == pytest.approx(tp / (tp + fp + fn) if tp + fp + fn else 0)
        assert row.panoptic_quality == pytest.approx(row.segmentation_quality * row.f1)
        assert row.segmentation_quality == 0 or threshold < row.segmentation_quality <= 1


def test_by_hand():
    # Two hits of IoU 1 and 12/16, one missed, one spurious, over two images.
    squares = stack([rectangle(2, 8 * k, 6, 8 * k + 4, SIZE) for k in range(4)], SIZE)
    narrow = stack([rectangle(2, 8, 6, 11, SIZE)], SIZE)
    names = ("astro", "cort")
    truth = dataset(
        [instances(squares[:1], names=names, classes=0), instances(squares[:2], [1, 1], 1, names)],
        names,
        ["astro", "cort"],
    )
    found = {
        "a": instances(squares[[0, 3]], names=names),
        "b": instances(narrow, names=names),
    }
    score = panoptic_score(compare(truth, found))
    half, three_quarters = score.rows[0], score.rows[5]
    assert (half.hits, half.false_positives, half.false_negatives) == (2, 1, 1)
    assert half.segmentation_quality == pytest.approx((1 + 0.75) / 2)
    assert half.panoptic_quality == pytest.approx((1 + 0.75) / 3)
    assert half.f1 == pytest.approx(2 / 3)
    assert half.accuracy == 0.5
    assert three_quarters.hits == 1  # 0.75 is not above 0.75
    assert score.classes["astro"][0].precision == 0.5
    assert score.classes["cort"][0].recall == 0.5
    plain = score.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["by_class"]["cort"][0]["f1"] == pytest.approx(2 / 3)


def test_nothing_at_all_is_all_zero():
    truth = dataset([instances(np.zeros((0, *SIZE), bool))])
    row = panoptic_score(compare(truth, {})).rows[0]
    assert (row.f1, row.accuracy, row.panoptic_quality) == (0, 0, 0)
