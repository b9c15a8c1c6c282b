import dataclasses

import numpy as np
import pytest

from somaseg.decide import Fusion, SettleSettings, fuse_images, select, settle
from somaseg.errors import SomasegError
from somaseg.scoring import compare, competition_score
from tests.decide.material import member, truth

FUSION = Fusion(method="wbf", iou=0.4, absent="skip")


@pytest.fixture(scope="module")
def material():
    dataset, folds = truth()
    members = {
        "fair": member(dataset, 1, shift=1, found=0.7),
        "good": member(dataset, 2, shift=1, found=0.8),
        "useless": member(dataset, 3, shift=6, found=0.3, made_up=25),
    }
    return dataset, folds, members


def settings_of(dataset, score=0.25):
    return dict.fromkeys(dataset.names, SettleSettings(score=score))


def score_of(dataset, members, counts, score=0.25):
    """Score of an ensemble, the long way round."""
    joining = [members[name] for name, n in counts.items() if n]
    fused = fuse_images(joining, [n for n in counts.values() if n], FUSION)
    settings = settings_of(dataset, score)
    final = {name: settle(one, settings, one_class=True) for name, one in fused.items()}
    return competition_score(compare(dataset, final))


def test_choice_is_the_greedy_one(material):
    dataset, folds, members = material
    chosen = select(members, dataset, folds, FUSION, cuts=None, one_class=True, rounds=4)
    counts, best, best_score, path = dict.fromkeys(members, 0), None, -1, []
    for _ in range(4):
        further = {m: counts | {m: counts[m] + 1} for m in members}
        scores = {m: score_of(dataset, members, one).map for m, one in further.items()}
        joined = max(scores, key=scores.get)
        counts = further[joined]
        path.append((joined, pytest.approx(scores[joined])))
        if scores[joined] > best_score:
            best, best_score = counts, scores[joined]
    assert list(chosen.path) == path
    assert chosen.counts == best
    assert chosen.optimistic == pytest.approx(best_score)
    assert chosen.counts["useless"] == 0
    assert best_score > score_of(dataset, members, {"good": 1}).map


def test_nested_score_is_of_choices_made_on_the_other_folds(material):
    dataset, folds, members = material
    chosen = select(members, dataset, folds, FUSION, cuts=None, one_class=True, rounds=3)
    images = {}
    for fold in (0, 1):
        others = [name for name in dataset.ids if folds[name] != fold]
        alone = select(
            {m: {i: raw[i] for i in others} for m, raw in members.items()},
            dataset,
            folds,
            FUSION,
            cuts=None,
            one_class=True,
            rounds=3,
        )
        assert chosen.nested[fold] == alone.counts
        assert alone.nested == {}
        assert alone.honest is None
        scored = score_of(dataset, members, alone.counts)
        images |= {im.id: im.score for im in scored.images if folds[im.id] == fold}
    assert chosen.honest == pytest.approx(np.mean(list(images.values())))
    plain = select(
        members, dataset, folds, FUSION, cuts=None, one_class=True, rounds=3, nested=False
    )
    assert plain.counts == chosen.counts
    assert plain.nested == {}
    assert plain.honest is None


def test_a_folds_choice_does_not_depend_on_its_truth(material):
    dataset, folds, members = material
    spoilt = dataclasses.replace(
        dataset,
        samples=tuple(
            dataclasses.replace(s, instances=s.instances[:1]) if folds[s.id] == 0 else s
            for s in dataset
        ),
    )
    one, two = (
        select(members, data, folds, FUSION, one_class=True, rounds=3) for data in (dataset, spoilt)
    )
    assert one.nested[0] == two.nested[0]
    assert one.honest != two.honest


def test_cuts_follow_the_scores(material):
    """With all scores a tenth, default settings drop everything; the cuts find them again."""
    dataset, folds, members = material
    faint = {
        m: {name: x.with_scores(x.scores * 0.1) for name, x in raw.items()}
        for m, raw in members.items()
    }
    lost = select(faint, dataset, folds, FUSION, cuts=None, one_class=True, rounds=1)
    assert lost.optimistic == 0
    cuts = (0.02, 0.05)
    kept = select(faint, dataset, folds, FUSION, cuts=cuts, one_class=True, rounds=1)
    (best,) = (name for name, n in kept.counts.items() if n)
    # A class takes the better one of both cuts, over its images.
    by_class = [
        max(score_of(dataset, faint, {best: 1}, cut).by_class[name] for cut in cuts)
        for name in dataset.names
    ]
    assert kept.optimistic == pytest.approx(np.mean(by_class))
    assert score_of(dataset, faint, {best: 1}, 0.02).map <= kept.optimistic


def test_class_weights(material):
    dataset, folds, members = material
    weights = dict(zip(dataset.names, (5, 1, 2), strict=True))
    chosen = select(
        members, dataset, folds, FUSION, cuts=None, one_class=True, rounds=2, class_weights=weights
    )
    by_class = score_of(dataset, members, chosen.counts).by_class
    expected = sum(weights[name] * by_class[name] for name in weights) / 8
    assert chosen.optimistic == pytest.approx(expected)


def test_each_ensemble_is_scored_once(material):
    dataset, folds, members = material
    alone = {"good": members["good"]}
    chosen = select(alone, dataset, folds, FUSION, one_class=True, rounds=8)
    assert chosen.tried == 1  # twice the same member is the same ensemble
    assert chosen.counts == {"good": 1}
    assert len(chosen.path) == 4  # three rounds that did not help


def test_bad_input(material):
    dataset, folds, members = material
    with pytest.raises(SomasegError, match="no member to choose from"):
        select({}, dataset, folds)
    one = {name: x for name, x in members["good"].items() if folds[name]}
    other = {name: x for name, x in members["good"].items() if not folds[name]}
    with pytest.raises(SomasegError, match="share no image of truth"):
        select({"one": one, "other": other}, dataset, folds)
