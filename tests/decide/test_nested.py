"""Choosing an ensemble: the best is taken, and no fold has a say in what it is scored with."""

from pathlib import Path

import numpy as np
import pytest

from somaseg.data.synthetic import make_image
from somaseg.data.types import Dataset, Sample
from somaseg.decide.nested import choose, describe, join
from somaseg.instances import Instances
from somaseg.scoring import compare, competition_score

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
    return choose(members, dataset, FOLDS, ("nmw", "nms"))


def test_members_that_find_different_cells_beat_each_of_them(dataset, chosen):
    scores = dict(chosen.considered)
    alone = max(scores[name] for name in ("good", "other", "poor"))
    assert chosen.choice.method is not None
    assert {"good", "other"} <= set(chosen.choice.counts)
    assert chosen.choice.score > alone
    assert chosen.choice.score == max(scores.values())
    assert describe(chosen.choice) in scores


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
    other = choose(members, Dataset(samples, dataset.names, dataset.source), FOLDS, ("nmw", "nms"))
    assert other.by_fold[0] == chosen.by_fold[0]
    assert other.choice.score != chosen.choice.score


def test_one_member_stays_as_it_is(dataset, members):
    alone = choose({"good": members["good"]}, dataset, FOLDS, ("nmw",))
    assert alone.choice.method is None
    assert describe(alone.choice) == "good"
    joined = join(members, {"good": 3, "other": 0}, "nmw")
    assert all(joined[name] is members["good"][name] for name in FOLDS)


def test_class_weights_decide(dataset, members):
    weighted = choose(members, dataset, FOLDS, (), {"cort": 1000.0, "shsy5y": 0.001})
    assert weighted.nested.weighted == pytest.approx(weighted.nested.by_class["cort"], abs=1e-4)
