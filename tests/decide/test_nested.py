"""Choosing an ensemble: the best is taken, and no fold has a say in what it is scored with."""

import json
from pathlib import Path

import numpy as np
import pytest

from somaseg.data.synthetic import make_image
from somaseg.data.types import Dataset, Sample
from somaseg.decide import Decision, Fusion, Selector, SettleSettings, decide
from somaseg.decide.grid import AXES
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.scoring import compare, competition_score
from tests.decide import material

SIZE = (128, 128)
KINDS = ("cort", "shsy5y")
FOLDS = {f"{kind}{seed}": seed % 2 for kind in KINDS for seed in range(4)}


@pytest.fixture(scope="module")
def dataset():
    samples = []
    for kind in KINDS:
        for seed in range(4):
            cells = make_image(kind, seed, SIZE)[1]
            samples.append(Sample(f"{kind}{seed}", SIZE, Path("none"), cells, kind))
    return Dataset(tuple(samples), samples[0].instances.names, "synthetic")


def noisy(dataset, seed, keep, shift=0):
    """The truth with cells left out, moved, and others made up; scores say a little of which."""
    rng = np.random.default_rng(seed)
    out = {}
    for sample in dataset:
        cells = sample.instances
        kept = cells[rng.random(len(cells)) < keep]
        moved, _ = kept.window(SIZE, (int(rng.integers(-shift, shift + 1)), 0))
        scores = rng.uniform(0.5, 1, len(moved)).astype(np.float32)
        soft = moved.replace(pixels=moved.pixels * np.uint8(255), soft=True)
        wrong = soft[rng.random(len(soft)) < 0.3].window(SIZE, (17, 11))[0]
        low = rng.uniform(0.1, 0.6, len(wrong)).astype(np.float32)
        out[sample.id] = Instances.concat([soft.with_scores(scores), wrong.with_scores(low)])
    return out


@pytest.fixture(scope="module")
def members(dataset):
    return {
        "good": noisy(dataset, 0, 0.7, 1),
        "other": noisy(dataset, 1, 0.7, 1),
        "poor": noisy(dataset, 2, 0.2, 3),
    }


@pytest.fixture(scope="module")
def chosen(dataset, members):
    return decide(members, dataset, FOLDS, methods=("nmw", "nms"))


def test_members_that_find_different_cells_beat_each_of_them(dataset, chosen):
    scores = dict(chosen.considered)
    alone = max(scores[name] for name in ("good", "other", "poor"))
    assert chosen.choice.method is not None
    assert {"good", "other"} <= set(chosen.choice.member_weights)
    assert chosen.choice.score > alone
    assert chosen.choice.score == max(scores.values())
    assert chosen.choice.label in scores


def test_the_estimate_is_the_score_of_what_was_found(dataset, chosen):
    again = competition_score(compare(dataset, chosen.found))
    assert chosen.nested.map == again.map
    assert chosen.optimistic.map == pytest.approx(chosen.choice.score)
    for found in chosen.found.values():
        labels = np.zeros(SIZE, int)
        for i in range(len(found)):
            assert not (labels & found.mask(i)).any()
            labels |= found.mask(i)


def test_a_folds_own_annotations_do_not_choose_for_it(dataset, members, chosen):
    """Other annotations in fold 0 change the choice for new images, not the one fold 0 gets."""
    samples = tuple(
        Sample(s.id, s.size, s.image_path, s.instances[:1], s.image_class)
        if FOLDS[s.id] == 0
        else s
        for s in dataset
    )
    spoilt = Dataset(samples, dataset.names, dataset.source)
    other = decide(members, spoilt, FOLDS, methods=("nmw", "nms"))
    assert other.by_fold[0] == chosen.by_fold[0]
    assert other.choice.score != chosen.choice.score


def test_one_member_stays_as_it_is(dataset, members):
    alone = decide({"good": members["good"]}, dataset, FOLDS, methods=("nmw",))
    assert alone.choice.method is None
    assert alone.choice.label == "good"
    joined = alone.choice.join(members)
    assert all(joined[name] is members["good"][name] for name in FOLDS)


def test_class_weights_decide(dataset, members):
    weights = {"cort": 1000.0, "shsy5y": 0.001}
    weighted = decide(members, dataset, FOLDS, class_weights=weights)
    assert weighted.nested.weighted == pytest.approx(weighted.nested.by_class["cort"], abs=1e-4)


def test_nothing_to_decide_on(dataset, members):
    with pytest.raises(SomasegError, match="no member to choose from"):
        decide({}, dataset, FOLDS)
    halves = [{i: x for i, x in members["good"].items() if FOLDS[i] == k} for k in (0, 1)]
    with pytest.raises(SomasegError, match="share no image of synthetic"):
        decide({"one": halves[0], "other": halves[1]}, dataset, FOLDS)


# ---- the same scores, settings and choices as of the engines that this one replaced ----

BEFORE = json.loads((Path(__file__).parent / "stored" / "decisions.json").read_text())
"""Made by the code of commit 30eba71: ``tune`` by ``joining.score``, ``choose`` by
``choose.choose``, ``select`` by ``ensemble.select`` and ``joining.score_selection``. It knew no
offsets."""
WEIGHTS = {"astro": 1.0, "cort": 3.0, "shsy5y": 2.0}


@pytest.fixture(scope="module")
def before():
    """The material of the stored figures: truth, folds, members."""
    truth, _ = material.truth(per_kind=3)
    folds = {name: k % 3 for k, name in enumerate(sorted(truth.ids))}
    members = {
        "fair": material.member(truth, 1, shift=1, found=0.7),
        "good": material.member(truth, 2, shift=1, found=0.8),
        "useless": material.member(truth, 3, shift=6, found=0.3, made_up=25),
    }
    return truth, folds, members


def is_score(score, stored):
    assert score.map == pytest.approx(stored["map"], abs=1e-12)
    assert score.weighted == (stored["weighted"] and pytest.approx(stored["weighted"], abs=1e-12))
    assert score.by_class == pytest.approx(stored["by_class"], abs=1e-12)
    assert {i.id: i.score for i in score.images} == pytest.approx(stored["images"], abs=1e-12)


def are_settings(settings, stored):
    assert settings == {name: SettleSettings(**fields) for name, fields in stored.items()}


def is_tuned(decision: Decision, stored):
    for kind in ("untuned", "nested", "optimistic"):
        is_score(getattr(decision, kind), stored[kind])
    are_settings(decision.tuned.settings, stored["settings"])
    for fold, settings in stored["by_fold"].items():
        are_settings(decision.tuned.nested[int(fold)], settings)
    assert decision.tuned.tried == stored["tried"]
    assert decision.tuned.dealt is stored["dealt"]


def is_choice(choice, stored):
    assert choice.method == stored["method"]
    assert choice.member_weights == stored["counts"]
    are_settings(choice.settings, stored["settings"])
    assert choice.score == pytest.approx(stored["score"], abs=1e-12)


def test_one_member_is_tuned_as_before(before):
    truth, folds, members = before
    decision = decide({"good": members["good"]}, truth, folds, class_weights=WEIGHTS, search=AXES)
    is_tuned(decision, BEFORE["tune"])
    one = decide({"fair": members["fair"]}, truth, dict.fromkeys(folds, 0), search=AXES)
    is_tuned(one, BEFORE["tune one fold"])


@pytest.mark.parametrize(("name", "weights"), [("choose", None), ("choose weighted", WEIGHTS)])
def test_the_same_is_chosen_as_before(before, name, weights):
    truth, folds, members = before
    stored = BEFORE[name]
    decision = decide(
        members, truth, folds, methods=("nmw", "wbf", "nms"), class_weights=weights, search=AXES
    )
    is_choice(decision.choice, stored["choice"])
    assert set(decision.by_fold) == {int(fold) for fold in stored["by_fold"]}
    for fold, choice in stored["by_fold"].items():
        is_choice(decision.by_fold[int(fold)], choice)
    is_score(decision.nested, stored["nested"])
    is_score(decision.optimistic, stored["optimistic"])
    for (label, score), (expected, value) in zip(
        decision.considered, stored["considered"], strict=True
    ):
        assert label == expected
        assert score == pytest.approx(value, abs=1e-12)


def test_the_same_members_are_selected_as_before(before):
    truth, folds, members = before
    stored = BEFORE["select"]
    fusion = Fusion(method="wbf", iou=0.4, absent="skip")
    decision = decide(
        members, truth, folds, methods=[fusion], alone=False, class_weights=WEIGHTS, search=AXES
    )

    def weights(counts):
        return {name: n for name, n in counts.items() if n}

    assert decision.choice.member_weights == weights(stored["counts"])
    for fold, counts in stored["counts_by_fold"].items():
        assert decision.by_fold[int(fold)].member_weights == weights(counts)
    is_tuned(decision, stored)
    selector = Selector(members, truth, fusion, one_class=True, class_weights=WEIGHTS)
    path = [(name, pytest.approx(score, abs=1e-12)) for name, score in stored["path"]]
    selection = selector.choose(truth.ids)
    assert list(selection.path) == path
    assert selection.score == pytest.approx(stored["optimistic_selection"], abs=1e-12)
