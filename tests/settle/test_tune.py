import dataclasses

import numpy as np
import pytest

from somaseg.data.synthetic import KINDS, make_image
from somaseg.data.types import Dataset, Sample
from somaseg.evaluation import compare, competition_score
from somaseg.instances import Instances
from somaseg.settle import default_settings, settle
from somaseg.settle.tune import make_grid, score_table, tune


def noisy(cells, seed, overlap=False):
    """Raw predictions: the true cells with sure scores, and as many wrong ones with low scores."""
    rng = np.random.default_rng(seed)
    cells = cells.disjoint(largest_piece=True, min_area=10)[0]
    wrong = cells.replace(boxes=np.roll(cells.boxes, 0)).window(cells.size, (3, -4))[0]
    if not overlap:
        taken = cells.to_labels() > 0
        labels = np.where(taken, 0, wrong.to_labels())
        wrong = Instances.from_labels(labels, classes=0, names=cells.names)
        wrong = wrong.with_classes(np.full(len(wrong), cells.classes[0], np.int16))
    cells = cells.with_scores(rng.uniform(0.5, 0.9, len(cells)))
    wrong = wrong.with_scores(rng.uniform(0.1, 0.4, len(wrong)))
    both = Instances.concat([cells, wrong])
    levels = np.concatenate(
        [
            np.full(n, v)
            for n, v in zip(
                both.areas * 0 + np.diff(both.offsets),
                rng.integers(150, 255, len(both)),
                strict=True,
            )
        ]
    )
    return both.replace(pixels=(both.pixels * levels).astype(np.uint8), soft=True)


@pytest.fixture(scope="module")
def material():
    samples, raw, folds = [], {}, {}
    for k in range(4):
        for kind in KINDS:
            name = f"{kind}{k}"
            cells = make_image(kind, k, (130, 176))[1]
            samples.append(Sample(name, cells.size, None, cells, kind))
            raw[name] = noisy(cells, k)
            folds[name] = k % 2
    return Dataset(tuple(samples), samples[0].instances.names, "test"), raw, folds


def score(dataset, raw, settings):
    found = {i: settle(r, settings, one_class=True) for i, r in raw.items()}
    return competition_score(compare(dataset, found))


@pytest.mark.parametrize("overlap", [False, True])
def test_table_is_what_settling_and_scoring_give(overlap):
    for kind in KINDS:
        cells = make_image(kind, 1, (130, 176))[1]
        raw = noisy(cells, 1, overlap)
        dataset = Dataset((Sample("x", cells.size, None, cells),), cells.names, "test")
        grid = make_grid([raw], [cells])
        assert grid.overlapping == overlap
        table = score_table(raw, cells, grid)
        rng = np.random.default_rng(0)
        # Areas apply after overlaps are resolved only; elsewhere the table is exact.
        for _ in range(15):
            index = tuple(int(rng.integers(n)) for n in table.shape)
            index = (index[0], index[1], index[2] if not overlap else 0)
            settings = dict.fromkeys(cells.names, grid.settings(index))
            expected = competition_score(compare(dataset, {"x": settle(raw, settings)})).map
            assert table[index] == pytest.approx(expected, abs=0.02)


def test_tuning_finds_what_separates_right_from_wrong(material):
    dataset, raw, folds = material
    tuned = tune(raw, dataset, folds, one_class=True)
    assert set(tuned.settings) == set(dataset.names)
    assert all(0.3 < s.score < 0.6 for s in tuned.settings.values())
    before = score(dataset, raw, default_settings(dataset.names)).map
    after = score(dataset, raw, tuned.settings).map
    assert after > before + 0.1
    assert tuned.tried > 9_000


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


def test_mixed_images_share_one_setting(material):
    dataset, raw, folds = material
    tuned = tune(raw, dataset, folds, one_class=False)
    assert len({s.model_dump_json() for s in tuned.settings.values()}) == 1


def test_images_without_predictions(material):
    dataset, raw, folds = material
    empty = {i: r[:0] for i, r in raw.items()}
    tuned = tune(empty, dataset, folds, one_class=True)
    assert score(dataset, empty, tuned.settings).map == 0
