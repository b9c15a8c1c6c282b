import dataclasses

import numpy as np
import pytest

from somaseg.decide import Fusion, Selector, SettleSettings, fuse_images, settle
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


def select(members, dataset, **options):
    return Selector(members, dataset, FUSION, one_class=True, **options).choose(dataset.ids)


def test_choice_is_the_greedy_one(material):
    dataset, _, members = material
    chosen = select(members, dataset, cuts=None, rounds=4)
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
    assert chosen.member_weights == {name: n for name, n in best.items() if n}
    assert chosen.score == pytest.approx(best_score)
    assert "useless" not in chosen.member_weights
    assert best_score > score_of(dataset, members, {"good": 1}).map


def test_a_choice_without_a_fold_is_that_of_the_other_images_alone(material):
    dataset, folds, members = material
    selector = Selector(members, dataset, FUSION, cuts=None, one_class=True, rounds=3)
    for fold in (0, 1):
        others = [name for name in dataset.ids if folds[name] != fold]
        alone = Selector(
            {m: {i: raw[i] for i in others} for m, raw in members.items()},
            dataset.subset(others),
            FUSION,
            cuts=None,
            one_class=True,
            rounds=3,
        ).choose(others)
        assert selector.choose(others) == alone


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
        Selector(members, data, FUSION, one_class=True, rounds=3) for data in (dataset, spoilt)
    )
    others = [name for name in dataset.ids if folds[name] != 0]
    assert one.choose(others) == two.choose(others)
    assert one.choose(dataset.ids).score != two.choose(dataset.ids).score


def test_cuts_follow_the_scores(material):
    """With all scores a tenth, default settings drop everything; the cuts find them again."""
    dataset, _, members = material
    faint = {
        m: {name: x.with_scores(x.scores * 0.1) for name, x in raw.items()}
        for m, raw in members.items()
    }
    lost = select(faint, dataset, cuts=None, rounds=1)
    assert lost.score == 0
    cuts = (0.02, 0.05)
    kept = select(faint, dataset, cuts=cuts, rounds=1)
    (best,) = kept.member_weights
    # A class takes the better one of both cuts, over its images.
    by_class = [
        max(score_of(dataset, faint, {best: 1}, cut).by_class[name] for cut in cuts)
        for name in dataset.names
    ]
    assert kept.score == pytest.approx(np.mean(by_class))
    assert score_of(dataset, faint, {best: 1}, 0.02).map <= kept.score


def test_class_weights(material):
    dataset, _, members = material
    weights = dict(zip(dataset.names, (5, 1, 2), strict=True))
    chosen = select(members, dataset, cuts=None, rounds=2, class_weights=weights)
    by_class = score_of(dataset, members, chosen.member_weights).by_class
    expected = sum(weights[name] * by_class[name] for name in weights) / 8
    assert chosen.score == pytest.approx(expected)


def test_each_ensemble_is_scored_once(material):
    dataset, _, members = material
    selector = Selector({"good": members["good"]}, dataset, FUSION, one_class=True, rounds=8)
    chosen = selector.choose(dataset.ids)
    assert selector.tried == 1  # twice the same member is the same ensemble
    assert chosen.member_weights == {"good": 1}
    assert len(chosen.path) == 4  # three rounds that did not help


def test_bad_input(material):
    dataset, folds, members = material
    with pytest.raises(SomasegError, match="no member to choose from"):
        Selector({}, dataset)
    one = {name: x for name, x in members["good"].items() if folds[name]}
    lacking = next(name for name in dataset.ids if name not in one)
    with pytest.raises(SomasegError, match=f"one: lacks image '{lacking}' of truth"):
        Selector({"one": one}, dataset)
