import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from somaseg.scoring import compare, competition_score, explain_score
from somaseg.scoring.explain import CAUSES, REMEDIES, image_causes
from somaseg.scoring.match import Overlaps
from tests.scoring.explain_oracle import Explained
from tests.scoring.oracle import THRESHOLDS
from tests.scoring.strategies import dataset, instances, pairs_of_stacks, rectangle, stack

SIZE = (60, 80)


def box(y0, x0, y1, x1):
    return rectangle(y0, x0, y1, x1, SIZE)


def causes_at(truths, predictions, percent=50):
    """Names of what became of each truth and each prediction at one threshold."""
    overlaps = Overlaps.between(instances(stack(truths, SIZE)), instances(stack(predictions, SIZE)))
    causes = image_causes(overlaps, (percent,))
    names = ("hit", *CAUSES)
    return [names[c] for c in causes.truth[0]], [names[c] for c in causes.prediction[0]]


LEFT, RIGHT, FAR = box(10, 10, 20, 20), box(10, 20, 20, 30), box(40, 50, 50, 60)


def test_hit():
    assert causes_at([LEFT], [LEFT]) == (["hit"], ["hit"])


def test_missed_and_spurious():
    assert causes_at([LEFT], [FAR]) == (["missed"], ["spurious"])
    # A touch (IoU below 0.1) relates nothing.
    assert causes_at([LEFT], [box(19, 10, 29, 20)]) == (["missed"], ["spurious"])


def test_boundary():
    shifted = box(10, 14, 20, 24)  # IoU 6/14
    assert causes_at([LEFT], [shifted]) == (["boundary"], ["boundary"])
    assert causes_at([LEFT], [shifted], 40) == (["hit"], ["hit"])


def test_two_equal_cells_merged():
    # At an IoU of one half with each, the union hits neither.
    truths, predictions = causes_at([LEFT, RIGHT], [LEFT | RIGHT])
    assert truths == ["merged", "merged"]
    assert predictions == ["merged"]


def test_a_small_cell_swallowed_by_a_hit():
    small = box(10, 20, 20, 23)
    assert causes_at([LEFT, small], [LEFT | small]) == (["hit", "merged"], ["hit"])
    # At 0.8 the swallowed cell is what keeps the large one from matching: IoU 10/13.
    assert causes_at([LEFT, small], [LEFT | small], 80) == (["merged", "merged"], ["merged"])


def test_a_merged_cell_with_a_bad_boundary_is_charged_to_the_boundary():
    # Cutting the swallowed cell out would leave 10 × 10 with 10 × 20 of background around: 1/3.
    small = box(10, 40, 20, 43)
    blob = box(10, 10, 20, 43)
    assert causes_at([LEFT, small], [blob]) == (["boundary", "merged"], ["boundary"])


def test_many_cells_under_one_blob():
    cells = [box(10, 5 * k, 15, 5 * k + 5) for k in range(12)]  # IoU 1/12 each
    truths, predictions = causes_at(cells, [np.any(cells, axis=0)])
    assert truths == ["merged"] * 12
    assert predictions == ["merged"]


def test_split_in_halves():
    halves = [box(10, 10, 20, 15), box(10, 15, 20, 20)]
    assert causes_at([LEFT], halves) == (["split"], ["split", "split"])


def test_a_piece_beside_a_hit():
    parts = [box(10, 10, 20, 17), box(10, 17, 20, 20)]
    assert causes_at([LEFT], parts) == (["hit"], ["hit", "split"])
    assert causes_at([LEFT], parts, 75) == (["split"], ["split", "split"])


def test_crumbs_of_one_cell():
    crumbs = [box(10 + 3 * y, 10 + 3 * x, 13 + 3 * y, 13 + 3 * x) for y in (0, 1) for x in (0, 1)]
    assert causes_at([LEFT], crumbs) == (["split"], ["split"] * 4)


def test_a_duplicate_counts_as_split():
    assert causes_at([LEFT], [LEFT, LEFT]) == (["hit"], ["hit", "split"])


def test_a_single_crumb_is_no_split():
    assert causes_at([LEFT], [box(10, 10, 13, 13)]) == (["missed"], ["spurious"])


def test_remedies_by_hand():
    # Hit, boundary pair, missed, spurious, and two cells merged into one: 5 truths, 4 predictions.
    pair, shifted = box(40, 10, 50, 20), box(40, 14, 50, 24)
    lone, ghost = box(40, 40, 50, 50), box(0, 60, 5, 65)
    near = [box(10, 50, 20, 60), box(10, 60, 20, 70)]
    truths = stack([LEFT, pair, lone, *near], SIZE)
    predictions = stack([LEFT, shifted, ghost, near[0] | near[1]], SIZE)
    comparison = compare(dataset([instances(truths)]), {"a": instances(predictions)})
    explanation = explain_score(comparison, thresholds=(50,))
    losses = explanation.total
    assert losses.score[0] == 1 / 8  # TP 1, FP 3, FN 4
    assert {cause: share[0] for cause, share in losses.lost.items()} == {
        "missed": pytest.approx(1 / 8),
        "spurious": pytest.approx(1 / 8),
        "merged": pytest.approx(3 / 8),
        "split": 0,
        "boundary": pytest.approx(2 / 8),
    }
    assert losses.perfect["boundaries"][0] == pytest.approx(2 / 7)
    assert losses.perfect["detection"][0] == pytest.approx(1 / 6)
    # The merged blob's own pair becomes a hit, the swallowed cell leaves the count.
    assert losses.perfect["separation"][0] == pytest.approx(2 / 6)
    assert explanation.classes["cell"].to_json() == losses.to_json()


@given(st.lists(pairs_of_stacks(), min_size=1, max_size=3))
@settings(max_examples=150)
def test_score_and_losses_add_up_to_one(stacks):
    truth = dataset([instances(truths) for truths, _ in stacks])
    found = {name: instances(p) for name, (_, p) in zip(truth.ids, stacks, strict=True)}
    comparison = compare(truth, found)
    losses = explain_score(comparison).total
    np.testing.assert_allclose(losses.score, competition_score(comparison).accuracy, atol=1e-12)
    np.testing.assert_allclose(losses.score + sum(losses.lost.values()), 1, atol=1e-12)
    assert all((losses.lost[cause] >= 0).all() for cause in CAUSES)
    for remedy in REMEDIES:
        assert (losses.perfect[remedy] >= losses.score - 1e-12).all()
        assert (losses.perfect[remedy] <= 1).all()


@given(pairs_of_stacks())
@settings(max_examples=150)
def test_causes_are_consistent(stacks):
    overlaps = Overlaps.between(*(instances(masks) for masks in stacks))
    causes = image_causes(overlaps)
    truths, predictions = causes.truth_counts, causes.prediction_counts
    missed, spurious, boundary = (1 + CAUSES.index(c) for c in ("missed", "spurious", "boundary"))
    assert (truths.sum(axis=1) == len(stacks[0])).all()
    assert (predictions.sum(axis=1) == len(stacks[1])).all()
    assert (truths[:, 0] == predictions[:, 0]).all()
    assert (truths[:, boundary] == predictions[:, boundary]).all()
    assert not truths[:, spurious].any()
    assert not predictions[:, missed].any()


@st.composite
def label_pairs(draw):
    """Truths and predictions, each side disjoint: cells are merged, split, shifted, lost."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cells = np.zeros((14, 20), int)
    for k in range(1, draw(st.integers(1, 7))):
        y, x = rng.integers(0, 12), rng.integers(0, 16)
        cells[y : y + rng.integers(2, 7), x : x + rng.integers(2, 8)] = k
    found = np.roll(cells, rng.integers(-1, 2, 2), (0, 1))
    for k in range(1, 7):
        change = rng.integers(0, 7)
        if change == 0:
            found[found == k] = 0
        elif change in (1, 2):  # with a neighbour
            found[found == k] = rng.integers(1, 7)
        elif change in (3, 4):  # in two
            half = (found == k) & (np.arange(20) < rng.integers(1, 19))
            found[half] = 10 + k
    if rng.random() < 0.5:
        found[rng.integers(0, 10) :, rng.integers(0, 15) :][:3, :4] = 20

    def masks(labels):
        return stack([labels == k for k in np.unique(labels[labels > 0])], labels.shape)

    return masks(cells), masks(found)


def explained(stacks):
    """What the package says, and what the oracle says, at each threshold."""
    overlaps = Overlaps.between(*(instances(masks) for masks in stacks))
    causes, matches = image_causes(overlaps), overlaps.matches()
    for t, threshold in enumerate(THRESHOLDS):
        yield t, causes, Explained(*stacks, threshold, matches[t].tolist())


@given(label_pairs())
@settings(max_examples=100)
def test_causes_are_those_of_the_definition(stacks):
    names = ("hit", *CAUSES)
    for t, causes, oracle in explained(stacks):
        assert [names[c] for c in causes.truth[t]] == oracle.truth_causes
        assert [names[c] for c in causes.prediction[t]] == oracle.prediction_causes


@given(label_pairs())
@settings(max_examples=100)
def test_remedies_are_the_scores_after_mending(stacks):
    truth = dataset([instances(stacks[0])])
    losses = explain_score(compare(truth, {"a": instances(stacks[1])})).total
    for t, _, oracle in explained(stacks):
        assert losses.perfect["detection"][t] == pytest.approx(float(oracle.with_detection()))
        assert losses.perfect["boundaries"][t] == pytest.approx(float(oracle.with_boundaries()))
        assert losses.perfect["separation"][t] == pytest.approx(float(oracle.with_separation()))


def test_each_class_is_explained_by_its_images():
    """Two classes, one image each: shares and remedies of a class are those of its image."""
    near = [box(10, 50, 20, 60), box(10, 60, 20, 70)]
    stacks = {"a": (near, [near[0] | near[1]]), "b": ([LEFT, FAR], [LEFT, box(40, 54, 50, 64)])}
    truths = [
        instances(stack(t, SIZE), names=("p", "q"), classes=k)
        for k, (t, _) in enumerate(stacks.values())
    ]
    found = {name: instances(stack(p, SIZE)) for name, (_, p) in stacks.items()}
    comparison = compare(dataset(truths, ("p", "q"), image_class=["p", "q"]), found)
    explanation = explain_score(comparison)
    alone = [
        explain_score(
            compare(dataset([instances(stack(t, SIZE))]), {"a": instances(stack(p, SIZE))})
        )
        for t, p in stacks.values()
    ]
    assert list(explanation.classes) == ["p", "q"]
    for losses, one in zip(explanation.classes.values(), alone, strict=True):
        assert losses.to_json() == one.total.to_json()
    assert explanation.classes["p"].lost["merged"].tolist() == [1.0] * 10
    assert explanation.classes["q"].lost["merged"].tolist() == [0.0] * 10
    assert explanation.classes["q"].lost["boundary"].tolist() == pytest.approx([2 / 3] * 10)
    assert explanation.total.lost["merged"].tolist() == [0.5] * 10


def test_perfect_predictions_lose_nothing():
    masks = stack([LEFT, RIGHT, FAR], SIZE)
    losses = explain_score(compare(dataset([instances(masks)]), {"a": instances(masks)})).total
    assert losses.score.tolist() == [1.0] * 10
    assert not np.any(list(losses.lost.values()))


def test_an_image_with_nothing_found_is_all_missed():
    masks = stack([LEFT, RIGHT], SIZE)
    losses = explain_score(compare(dataset([instances(masks)]), {})).total
    assert losses.lost["missed"].tolist() == [1.0] * 10
    assert losses.perfect["detection"].tolist() == [1.0] * 10
    assert losses.perfect["boundaries"].tolist() == [0.0] * 10


def test_dilated_cells_lose_to_boundaries_alone():
    grid = [(y, x) for y in range(5, 50, 15) for x in range(5, 70, 15)]
    truths = stack([box(y, x, y + 6, x + 6) for y, x in grid], SIZE)
    dilated = stack([box(y - 1, x - 1, y + 7, x + 7) for y, x in grid], SIZE)  # IoU 36/64
    comparison = compare(dataset([instances(truths)]), {"a": instances(dilated)})
    losses = explain_score(comparison).total
    assert losses.lost["boundary"].tolist() == [0.0] * 2 + [1.0] * 8
    assert losses.perfect["boundaries"].tolist() == [1.0] * 10


def test_json_is_plain():
    masks = stack([LEFT, RIGHT], SIZE)
    comparison = compare(dataset([instances(masks)]), {"a": instances(masks[:1])})
    result = explain_score(comparison).to_json()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["total"]["lost"]["missed"] == 0.5
    assert result["by_class"]["cell"]["perfect"]["detection"] == 1.0
