import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from somaseg.errors import SomasegError
from somaseg.scoring import compare, competition_score
from tests.scoring import oracle
from tests.scoring.strategies import dataset, instances, pairs_of_stacks, rectangle, stack

SIZE = (40, 60)


def cells(*corners, side=8):
    return stack([rectangle(y, x, y + side, x + side, SIZE) for y, x in corners], SIZE)


FOUR = cells((2, 2), (2, 20), (20, 2), (20, 20))
OVERLAPPING = cells((2, 2), (2, 7), (6, 4), (20, 20), (21, 20))
CASES = {
    "perfect": (FOUR, FOUR),
    "perfect, overlapping": (OVERLAPPING, OVERLAPPING),
    "shifted by one": (FOUR, np.roll(FOUR, 1, axis=2)),
    "shifted by two": (FOUR, np.roll(FOUR, (1, 1), axis=(1, 2))),
    "overlapping, shifted": (OVERLAPPING, np.roll(OVERLAPPING, 1, axis=1)),
    "merged": (FOUR, np.stack([FOUR[0] | FOUR[1], FOUR[2], FOUR[3]])),
    "merged, touching": (cells((2, 2), (2, 10)), cells((2, 2), (2, 10)).any(0)[None]),
    "split": (FOUR, np.concatenate([FOUR[1:], cells((2, 2), (2, 6), side=4)])),
    "doubled": (FOUR, np.concatenate([FOUR, FOUR])),
    "missed": (FOUR, FOUR[:2]),
    "spurious": (FOUR[:2], FOUR),
    "nothing found": (FOUR, FOUR[:0]),
    "nothing there": (FOUR[:0], FOUR),
    "empty and found so": (FOUR[:0], FOUR[:0]),
}
EXPECTED = {
    "perfect": 1.0,
    "shifted by one": 0.6,  # IoU 7/9 = .78: above .50 … .75
    "missed": 0.5,
    "nothing found": 0.0,
    "nothing there": 0.0,
    "empty and found so": 1.0,
}


def score(truths, predictions, **options):
    truth = dataset([instances(stack(masks, SIZE)) for masks in truths])
    found = dict(zip(truth.ids, (instances(stack(m, SIZE)) for m in predictions), strict=True))
    return competition_score(compare(truth, found), **options)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_brute_force(name):
    truths, predictions = CASES[name]
    found = score([truths], [predictions])
    assert found.map == pytest.approx(oracle.image_score(truths, predictions), abs=1e-9)
    if name in EXPECTED:
        assert found.map == pytest.approx(EXPECTED[name], abs=1e-12)
    kaggle = score([truths], [predictions], matching="kaggle")
    assert kaggle.map == pytest.approx(oracle.kaggle_score(truths, predictions), abs=1e-9)


@given(st.lists(pairs_of_stacks(most=4), min_size=1, max_size=4))
@settings(max_examples=60)
def test_data_sets_agree_with_brute_force(stacks):
    truth = dataset([instances(truths) for truths, _ in stacks])
    found = {name: instances(p) for name, (_, p) in zip(truth.ids, stacks, strict=True)}
    result = competition_score(compare(truth, found))
    expected = [oracle.image_score(*pair) for pair in stacks]
    assert result.map == pytest.approx(np.mean(expected), abs=1e-9)
    assert result.by_class == {"cell": pytest.approx(np.mean(expected), abs=1e-9)}
    assert [image.score for image in result.images] == pytest.approx(expected, abs=1e-9)
    assert result.accuracy.mean() == pytest.approx(result.map, abs=1e-12)


@given(pairs_of_stacks(), st.randoms(use_true_random=False))
def test_order_of_predictions_plays_no_part(stacks, random):
    truths, predictions = stacks
    shuffled = list(predictions)
    random.shuffle(shuffled)
    truth = dataset([instances(truths)])
    first = competition_score(compare(truth, {"a": instances(predictions)}))
    second = competition_score(compare(truth, {"a": instances(shuffled)}))
    assert first.map == second.map


def of_kind(masks, kind):
    return instances(masks, classes=kind, names=("astro", "cort"))


def test_by_class_is_the_mean_over_the_images_of_that_class():
    truth = dataset(
        [of_kind(FOUR, 0), of_kind(FOUR, 1), of_kind(FOUR, 1)],
        names=("astro", "cort"),
        image_class=["astro", "cort", "cort"],
    )
    # The predictions' own classes are wrong on purpose: they play no part.
    found = {"a": of_kind(FOUR, 1), "b": of_kind(FOUR[:2], 0), "c": of_kind(FOUR[:0], 0)}
    result = competition_score(compare(truth, found), weights={"astro": 1, "cort": 3})
    assert result.by_class == {"astro": 1.0, "cort": 0.25}
    assert result.map == 0.5
    assert result.weighted == pytest.approx((1 + 3 * 0.25) / 4)
    assert result.classes["cort"].images == 2
    assert result.classes["cort"].truths == 8
    assert result.classes["cort"].predictions == 2


def test_by_class_of_mixed_images_is_over_the_instances_of_that_class():
    truth = dataset(
        [of_kind(FOUR, [0, 0, 1, 1]), of_kind(FOUR[:2], [0, 0])], names=("astro", "cort")
    )
    found = {
        "a": of_kind(FOUR, [0, 0, 0, 1]),  # one cort called astro
        "b": of_kind(FOUR[:1], [0]),
    }
    result = competition_score(compare(truth, found))
    # map knows no classes: image a is perfect.
    assert result.map == pytest.approx((1 + 0.5) / 2)
    # astro: 2 of 3 in a, 1 of 2 in b. cort: 1 of 2 in a; b has none of it and is left out.
    assert result.by_class == {"astro": pytest.approx((2 / 3 + 1 / 2) / 2), "cort": 0.5}
    assert result.classes["cort"].images == 1


def test_mixed_images_with_predictions_without_classes_have_no_score_by_class():
    truth = dataset([of_kind(FOUR, [0, 0, 1, 1])], names=("astro", "cort"))
    comparison = compare(truth, {"a": of_kind(FOUR, -1)})
    assert competition_score(comparison).by_class == {}
    assert competition_score(comparison).map == 1
    assert any("no classes" in note for note in comparison.notes)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"cell": 1, "astro": 2}, "no scored image of class 'astro'; classes: cell"),
        ({"cell": 0}, "cell=0; give a number above 0"),
        ({"cell": float("nan")}, "cell=nan; give a number above 0"),
        ({}, "class 'cell' has none; give one for every class"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(SomasegError, match=message):
        score([FOUR], [FOUR], weights=weights)


def test_json_holds_the_scores():
    result = score([FOUR, FOUR], [FOUR, FOUR[:1]]).to_json()
    assert json.loads(json.dumps(result)) == result
    assert result["images"] == {"a": 1.0, "b": 0.25}
    assert result["map"] == 0.625
    assert result["thresholds"][:3] == [0.5, 0.55, 0.6]
    assert result["accuracy"] == [0.625] * 10
