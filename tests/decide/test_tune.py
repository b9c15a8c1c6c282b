import dataclasses

import numpy as np
import pytest

from somaseg.data.synthetic import KINDS, make_image
from somaseg.data.types import Dataset, Sample
from somaseg.decide import SettleSettings, default_settings, settle
from somaseg.decide.grid import AXES, SettingGrid
from somaseg.decide.judge import Judge
from somaseg.decide.tune import MOST_IMAGES, tune
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.scoring import compare, competition_score


def noisy(cells, seed, overlap):
    """Raw predictions: the true cells with sure scores, and as many wrong ones with low scores."""
    rng = np.random.default_rng(seed)
    cells = cells.disjoint(largest_piece=True, min_area=10)[0]
    wrong = cells.window(cells.size, (3, -4))[0]
    if not overlap:
        labels = np.where(cells.to_labels() > 0, 0, wrong.to_labels())
        wrong = Instances.from_labels(labels, classes=cells.classes[0], names=cells.names)
    cells = cells.with_scores(rng.uniform(0.5, 0.9, len(cells)))
    wrong = wrong.with_scores(rng.uniform(0.1, 0.4, len(wrong)))
    both = Instances.concat([cells, wrong])
    levels = np.repeat(rng.integers(150, 255, len(both)), np.diff(both.offsets))
    return both.replace(pixels=(both.pixels * levels).astype(np.uint8), soft=True)


@pytest.fixture(scope="module", params=[False, True], ids=["disjoint", "overlapping"])
def material(request):
    samples, raw, folds = [], {}, {}
    for k in range(4):
        for kind in KINDS:
            name = f"{kind}{k}"
            cells = make_image(kind, k, (130, 176))[1]
            samples.append(Sample(name, cells.size, None, cells, kind))
            raw[name] = noisy(cells, k, request.param)
            folds[name] = k % 2
    return Dataset(tuple(samples), samples[0].instances.names, "test"), raw, folds


def score(dataset, raw, settings):
    found = {i: settle(r, settings, one_class=True) for i, r in raw.items()}
    return competition_score(compare(dataset, found))


def test_tuning_finds_what_separates_right_from_wrong(material):
    dataset, raw, folds = material
    tuned = tune(raw, dataset, folds, one_class=True)
    assert set(tuned.settings) == set(dataset.names)
    before = score(dataset, raw, default_settings(dataset.names)).map
    after = score(dataset, raw, tuned.settings).map
    assert after > before + 0.04
    assert tuned.tried > 9_000
    assert not tuned.dealt
    assert tuned.folds == folds
    for name, curves in tuned.curves.items():
        assert tuple(curves) == AXES
        # All curves go through the chosen setting: there they have one and the same score.
        through = [
            dict(curve)[getattr(tuned.settings[name], axis)] for axis, curve in curves.items()
        ]
        assert max(through) - min(through) < 1e-9


def test_curves_show_scores_of_settled_images(material):
    dataset, raw, folds = material
    tuned = tune(raw, dataset, folds, one_class=True)
    name = "cort"
    ids = [i for i in raw if dataset[i].image_class == name]
    for threshold, shown in tuned.curves[name]["mask_threshold"][::5]:
        changed = tuned.settings[name].model_copy(update={"mask_threshold": threshold})
        found = score(dataset.subset(ids), {i: raw[i] for i in ids}, {name: changed})
        assert shown == pytest.approx(found.map, abs=1e-9)


def test_a_folds_settings_do_not_depend_on_its_images(material):
    dataset, raw, folds = material
    other = {i: (r if folds[i] else r[r.scores < 0.45]) for i, r in raw.items()}
    one, two = (tune(x, dataset, folds, one_class=True) for x in (raw, other))
    assert one.nested[0] == two.nested[0]
    assert one.nested[1] != two.nested[1]
    # Nor on their annotations: here those of fold 0 keep only their largest cells.
    halved = tuple(
        s
        if folds[s.id]
        else dataclasses.replace(
            s, instances=s.instances[s.instances.areas > np.median(s.instances.areas)]
        )
        for s in dataset
    )
    three = tune(raw, dataclasses.replace(dataset, samples=halved), folds, one_class=True)
    assert three.nested[0] == one.nested[0]
    assert three.nested[1] != one.nested[1]


def test_a_fold_may_have_its_own_view_of_the_others(material):
    dataset, raw, folds = material
    without = {
        f: {
            i: r.with_scores(r.scores ** (0.5 if f == 1 else 1))
            for i, r in raw.items()
            if folds[i] != f
        }
        for f in range(2)
    }
    one, two = (tune(raw, dataset, folds, one_class=True, without=w) for w in (None, without))
    assert one.settings == two.settings
    assert one.nested[0] == two.nested[0]
    assert one.nested[1] != two.nested[1]
    assert tune(without[1], dataset, folds, one_class=True).settings == two.nested[1]


def test_images_of_one_fold_are_dealt(material):
    dataset, raw, folds = material
    tuned = tune(raw, dataset, dict.fromkeys(folds, 5), one_class=True)
    assert tuned.dealt
    assert set(tuned.folds) == set(raw)
    assert sorted(tuned.nested) == [0, 1, 2]
    for kind in KINDS:  # each class in each
        assert {tuned.folds[i] for i in raw if dataset[i].image_class == kind} == {0, 1, 2}
    # The same as if they had been dealt before.
    again = tune(raw, dataset, tuned.folds, one_class=True)
    assert again.nested == tuned.nested
    assert again.settings == tuned.settings
    # A single image has nothing to be tuned on.
    name = next(iter(raw))
    alone = tune({name: raw[name]}, dataset, folds, one_class=True)
    assert alone.nested == {folds[name]: default_settings(dataset.names)}
    assert alone.dealt


def test_only_what_is_asked_for_is_tuned(material):
    dataset, raw, folds = material
    tuned = tune(raw, dataset, folds, one_class=True, search=["score"])
    assert tuned.tried == 3 * 39
    for chosen in tuned.settings.values():
        assert chosen == SettleSettings(score=chosen.score)
    # The sure ones are above 0.5, the wrong ones below 0.4.
    assert any(0.3 < chosen.score < 0.6 for chosen in tuned.settings.values())
    with pytest.raises(SomasegError, match="no setting 'scores' to tune"):
        tune(raw, dataset, folds, one_class=True, search=["scores"])


def test_mixed_images_share_one_setting(material):
    dataset, raw, folds = material
    tuned = tune(raw, dataset, folds, one_class=False)
    assert len({s.model_dump_json() for s in tuned.settings.values()}) == 1


def test_images_without_predictions(material):
    dataset, raw, folds = material
    empty = {i: r[:0] for i, r in raw.items()}
    tuned = tune(empty, dataset, folds, one_class=True)
    assert score(dataset, empty, tuned.settings).map == 0


def test_many_images_are_sampled(monkeypatch, material):
    dataset, raw, folds = material
    monkeypatch.setattr("somaseg.decide.tune.MOST_IMAGES", 1)
    scored = []
    original = Judge.add
    monkeypatch.setattr(Judge, "add", lambda self, *x: scored.append(self) or original(self, *x))
    tune(raw, dataset, folds, one_class=True, search=["score"])
    assert len(scored) == 3 * 3  # an image of each class, for each of two folds and for all
    assert MOST_IMAGES >= 100


LINE = SettingGrid(("smallest_first",), (0.3,), (0.5,), tuple(np.arange(20) / 20), (20,), (None,))
DEFAULT = LINE.score.index(0.25)


def judged(tables):
    judge = Judge(LINE)
    for table in tables:
        judge.add(np.asarray(table, float).reshape(LINE.shape))
    return judge.best()[3]


def test_choice_is_on_a_plateau_and_sure():
    grid_default = np.zeros(20)
    peak, plateau = grid_default.copy(), grid_default.copy()
    peak[15] = 0.7
    plateau[8:13] = 0.4
    # Of the plateau's equal places that nearest to the default.
    assert judged([plateau + peak, plateau + peak]) == 9
    # What gains much in one image and loses in the others is not worth the risk.
    luck = grid_default.copy()
    luck[14:20] = 1
    assert judged([luck, -0.1 * luck, -0.1 * luck]) == DEFAULT
    # One image proves nothing, none less.
    assert judged([plateau]) == DEFAULT
    assert judged([]) == DEFAULT
    # Where nothing matters the default stays.
    assert judged([grid_default, grid_default + 1]) == DEFAULT


def test_choice_is_the_largest_lower_end_by_hand():
    rng = np.random.default_rng(0)
    tables = rng.random((7, 20))
    smooth = np.array(
        [[t[[max(k - 1, 0), k, k, min(k + 1, 19)]].mean() for k in range(20)] for t in tables]
    )
    gain = smooth - smooth[:, [DEFAULT]]
    # 1.0903 is the 84.13 % quantile of Student's t with 6 degrees of freedom.
    lower = gain.mean(0) - 1.0903 * gain.std(0, ddof=1) / np.sqrt(7)
    assert judged(tables) == lower.argmax()
