import dataclasses
import json
import sys

import numpy as np
import pytest
import xgboost

from somaseg.data.synthetic import KINDS, make_image
from somaseg.data.types import Dataset, Sample
from somaseg.decide import SettleSettings
from somaseg.decide.features import FEATURES
from somaseg.decide.rescore import Rescorer, describe, rescore_out_of_fold, true_iou
from somaseg.errors import SomasegError
from somaseg.instances import Instances


def blind(cells, seed):
    """Raw predictions whose scores know nothing: true cells, and rectangles of random places."""
    rng = np.random.default_rng(seed)
    n = len(cells)
    x0, y0 = rng.integers(0, cells.size[1] - 14, n), rng.integers(0, cells.size[0] - 10, n)
    boxes = np.stack([x0, y0, x0 + rng.integers(3, 14, n), y0 + rng.integers(3, 10, n)], 1)
    crops = [np.ones((b[3] - b[1], b[2] - b[0]), np.uint8) for b in boxes]
    wrong = Instances.from_crops(cells.size, boxes, crops, 1, cells.classes, cells.names)
    both = Instances.concat([cells, wrong])
    return both.with_scores(rng.uniform(0.2, 0.8, len(both)))


@pytest.fixture(scope="module")
def material():
    samples, raw, folds = [], {}, {}
    for k in range(4):
        for kind in KINDS:
            name = f"{kind}{k}"
            cells = make_image(kind, k, (150, 200))[1]
            samples.append(Sample(name, cells.size, None, cells, kind))
            raw[name], folds[name] = blind(cells, k), k % 3
    return raw, Dataset(tuple(samples), KINDS, "test"), folds


@pytest.fixture(scope="module")
def learned(material):
    return rescore_out_of_fold(*material, one_class=True)


def test_learned_scores_tell_good_masks_from_bad_where_the_models_do_not(material, learned):
    raw, dataset, _ = material
    truth = np.concatenate([true_iou(raw[i], dataset[i].annotated()) for i in raw])
    before = np.corrcoef(np.concatenate([raw[i].scores for i in raw]), truth)[0, 1]
    after = np.corrcoef(np.concatenate([learned.raw[i].scores for i in raw]), truth)[0, 1]
    assert abs(before) < 0.15
    assert after > 0.8
    assert list(learned.raw) == list(raw)
    for name, new in learned.raw.items():
        assert np.array_equal(new.pixels, raw[name].pixels)
        assert (new.scores >= 0).all()
        assert (new.scores <= 1).all()


def test_true_iou_is_that_of_full_masks(material):
    raw, dataset, _ = material
    one, truth = raw["cort0"], dataset["cort0"].annotated()
    masks = [truth.mask(j) for j in range(len(truth))]
    for i, found in enumerate(true_iou(one, truth)):
        mask = one.mask(i)
        assert found == max((mask & other).sum() / (mask | other).sum() for other in masks)


def test_no_score_knows_the_truth_of_its_own_fold(material, learned):
    raw, dataset, folds = material
    # The annotations of fold 0 are moved away: only what may know of them changes.
    moved = tuple(
        s
        if folds[s.id]
        else dataclasses.replace(s, instances=s.annotated().window(s.size, (40, 40))[0])
        for s in dataset
    )
    other = rescore_out_of_fold(
        raw, dataclasses.replace(dataset, samples=moved), folds, one_class=True
    )

    def same(one, two):
        return {name for name in one if np.array_equal(one[name].scores, two[name].scores)}

    fold0 = {name for name, fold in folds.items() if fold == 0}
    assert same(learned.raw, other.raw) == fold0
    assert same(learned.without[0], other.without[0]) == set(raw) - fold0
    # Fold 1's own estimate: images of fold 2 are scored by what was learned on fold 0 alone.
    assert same(learned.without[1], other.without[1]) == fold0
    for fold, views in learned.without.items():
        assert set(views) == {name for name in raw if folds[name] != fold}


def test_same_data_give_the_same_scores(material, learned):
    again = rescore_out_of_fold(*material, one_class=True)
    for name, one in learned.raw.items():
        assert np.array_equal(one.scores, again.raw[name].scores)


def test_images_of_one_fold_or_two(material):
    raw, dataset, folds = material
    for given in (dict.fromkeys(raw, 0), {name: fold % 2 for name, fold in folds.items()}):
        found = rescore_out_of_fold(raw, dataset, given, one_class=True)
        assert set(found.raw) == set(raw)
        assert all(found.without.values())


def test_description_of_class_and_vote():
    masks = np.zeros((3, 20, 20), bool)
    masks[0, :4, :4] = masks[1, 8:12, :2] = masks[2, 15:18, 15:18] = True
    raw = Instances.from_masks(
        masks, scores=[0.6, 0.3, 0.1], classes=np.array([1, 0, -1]), names=("p", "q")
    )
    rows = describe(raw, ("q", "r", "p"), {"q": 16.0, "p": 8.0}, one_class=False)
    assert rows.shape == (3, len(FEATURES) + 2 + 3)
    by_class, share, *each = rows[:, len(FEATURES) :].T
    assert by_class == pytest.approx([0, 0, 0])
    assert share == pytest.approx([2 / 3, 1 / 3, 0])
    assert np.array(each).T.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    # As one class it is q for all; its cells have 16 pixels.
    rows = describe(raw, ("q", "r", "p"), {"q": 16.0, "p": 8.0}, one_class=True)
    by_class, share, *each = rows[:, len(FEATURES) :].T
    assert by_class == pytest.approx(np.log([1, 9 / 17, 10 / 17]), rel=1e-5)
    assert share == pytest.approx(2 / 3)
    assert np.array(each).T.tolist() == [[1, 0, 0]] * 3


def test_file_is_an_xgboost_model_with_all_that_it_needs(material, learned, tmp_path):
    raw, _, _ = material
    path = tmp_path / "rescore.json"
    settings = {name: SettleSettings(score=0.4) for name in KINDS}
    dataclasses.replace(learned.rescorer, settings=settings).save(path)
    loaded = Rescorer.load(path)
    assert loaded.settings == settings
    assert loaded.one_class
    assert loaded.medians == learned.rescorer.medians
    one = raw["astro1"]
    assert np.array_equal(loaded(one).scores, learned.rescorer(one).scores)
    assert len(loaded(one[:0])) == 0
    booster = xgboost.Booster(model_file=path)
    rows = describe(one, loaded.names, loaded.medians, True)
    matrix = xgboost.DMatrix(rows, feature_names=booster.feature_names)
    assert booster.predict(matrix) == pytest.approx(loaded(one).scores)


def test_bad_files_are_told(tmp_path, learned):
    path = tmp_path / "rescore.json"
    with pytest.raises(SomasegError, match=r"rescore\.json: not a whole XGBoost model"):
        Rescorer.load(path)
    learned.rescorer.save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SomasegError, match=r"rescore\.json: not a whole XGBoost model"):
        Rescorer.load(path)
    # Sound for us, not for the library: it says so itself.
    learned.rescorer.save(path)
    model = json.loads(path.read_text())
    del model["learner"]["gradient_booster"]["model"]["trees"][0]["categories"]
    path.write_text(json.dumps(model))
    with pytest.raises(SomasegError, match=r"rescore\.json: XGBoost .* cannot read it \(Inv"):
        Rescorer.load(path)
    other = xgboost.train({}, xgboost.DMatrix(np.ones((4, 2)), np.ones(4)), 1)
    other.save_model(path)
    with pytest.raises(SomasegError, match="no rescoring of this somaseg"):
        Rescorer.load(path)
    other.set_attr(somaseg=learned.rescorer.booster.attr("somaseg"))
    other.save_model(path)
    with pytest.raises(SomasegError, match="learned from other features"):
        Rescorer.load(path)


def test_too_little_to_learn_from(material):
    raw, dataset, folds = material
    two = {name: raw[name] for name in ("cort0", "cort1")}
    with pytest.raises(SomasegError, match="too few images"):
        rescore_out_of_fold(two, dataset, folds, one_class=True)
    none = {name: one[:0] for name, one in raw.items()}
    with pytest.raises(SomasegError, match="no raw prediction of the images to learn from"):
        rescore_out_of_fold(none, dataset, folds, one_class=True)


def test_without_xgboost_it_says_how_to_install_it(material, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(SomasegError, match=r"pip install 'somaseg\[xgboost\]'"):
        rescore_out_of_fold(*material, one_class=True)
    with pytest.raises(SomasegError, match=r"rescore\.json: needs XGBoost"):
        Rescorer.load(tmp_path / "rescore.json")


def test_every_class_that_is_annotated_has_its_median_area(material):
    raw, dataset, folds = material
    learned = rescore_out_of_fold(raw, dataset, folds, one_class=True).rescorer
    areas = {kind: [] for kind in KINDS}
    for sample in dataset:
        areas[sample.image_class].extend(sample.annotated().areas)
    assert learned.medians == {kind: float(np.median(each)) for kind, each in areas.items()}
