"""Annotations that lie beside the image: found, believed only where sure, undone."""

from dataclasses import replace

import numpy as np
import pytest

from somaseg.data.types import Dataset, Sample
from somaseg.decide import SettleSettings, decide, dump_settings, parse_settings, settle
from somaseg.decide.grid import AXES, SEARCHED, make_grid
from somaseg.decide.offset import distances, shifted
from somaseg.decide.table import score_table
from somaseg.instances import Instances
from somaseg.scoring import compare, competition_score

SIZE = (150, 160)
KINDS = ("round", "long")


def cells(rng, kind):
    """Centres and half axes of cells that do not touch."""
    y, x = np.mgrid[12:140:18, 12:150:18].reshape(2, -1)
    jitter = rng.uniform(-2.5, 2.5, (2, len(y)))
    axes = (5.0, 5.0) if kind == "round" else (3.5, 6.5)
    return y + jitter[0], x + jitter[1], rng.uniform(0.85, 1.15, len(y)), axes


def draw(found, by=(0.0, 0.0), noise=None):
    """Soft discs with an edge of two pixels, moved by (dy, dx)."""
    rng = np.random.default_rng(0) if noise is None else noise
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    masks = []
    for y, x, scale, (a, b) in zip(*found[:3], [found[3]] * len(found[0]), strict=True):
        if noise is not None:  # no network draws a cell quite as it is
            y, x, scale = (
                y + rng.normal(0, 0.25),
                x + rng.normal(0, 0.25),
                scale * rng.normal(1, 0.03),
            )
        away = np.hypot((rows - y - by[0]) / (a * scale), (columns - x - by[1]) / (b * scale))
        masks.append(255 / (1 + np.exp(np.minimum(4 * (away - 1) * min(a, b), 50))))
    return np.array(masks).astype(np.uint8)


def material(offsets, images=6, seed=0):
    """Images of each kind, annotated beside the cells by ``offsets[kind]``; predictions; folds."""
    rng = np.random.default_rng(seed)
    samples, raw, folds = [], {}, {}
    for kind in KINDS:
        for k in range(images):
            found = cells(rng, kind)
            truth = Instances.from_masks(draw(found, offsets[kind]) > 127, names=KINDS)
            name = f"{kind}{k}"
            label = KINDS.index(kind)
            samples.append(Sample(name, SIZE, None, truth.with_classes(label), kind))
            soft = Instances.from_masks(draw(found, noise=rng), names=KINDS, soft=True)
            raw[name] = soft.with_classes(label).with_scores(0.9).tightened()[0]
            folds[name] = k % 3
    return Dataset(tuple(samples), KINDS, "shifted"), raw, folds


@pytest.fixture(scope="module")
def moved():
    return material(dict.fromkeys(KINDS, (-0.6, 0.3)))


def test_whole_pixels_are_moved_whole_and_parts_by_interpolation():
    rng = np.random.default_rng(1)
    image = np.zeros((9, 11), np.uint8)
    image[3:6, 4:8] = rng.integers(1, 255, (3, 4))
    one = Instances.from_masks(image[None], soft=True).tightened()[0]
    there = shifted(one, (2, -3))
    assert np.array_equal(there.boxes, [[1, 5, 5, 8]])
    assert np.array_equal(there.pixels, one.pixels)
    padded = np.pad(image.astype(float), 1)
    up, left = 0.371, 0.253  # by (-up, -left): each pixel takes from those below and to the right
    expected = sum(
        a * b * padded[1 + dy : 10 + dy, 1 + dx : 12 + dx]
        for a, dy in ((1 - up, 0), (up, 1))
        for b, dx in ((1 - left, 0), (left, 1))
    )
    there = shifted(one, (-up, -left))
    assert np.array_equal(there.boxes, [[3, 2, 8, 6]])
    assert np.array_equal(there.crop(0), np.floor(expected + 0.5)[2:6, 3:8].astype(np.uint8))
    assert shifted(one, (0, 0)) is one


def test_what_is_cut_by_the_image_goes_on_beyond_its_edge():
    image = np.zeros((6, 6), np.uint8)
    image[3:, :2] = 200
    one = Instances.from_masks(image[None], soft=True).tightened()[0]
    there = shifted(one, (-1, 1.0))
    full = np.zeros((6, 6), np.uint8)
    full[2:, :3] = 200
    assert np.array_equal(there.mask(0), full > 127)
    dot = np.zeros((1, 6, 6), bool)
    dot[0, 2, 2] = True
    lone = Instances.from_masks(dot)
    assert len(shifted(lone, (16, 16)).binary()) == 0
    hard = shifted(lone, (0.4, 0.4))
    assert not hard.soft
    assert set(np.unique(hard.pixels)) <= {0, 1}


def test_distances_are_those_of_the_annotations(moved):
    dataset, raw, _ = moved
    found = np.concatenate([distances(raw[s.id], s.instances) for s in dataset])
    assert len(found) > 500
    assert found.mean(0) == pytest.approx([-0.6, 0.3], abs=0.05)


def test_the_offset_is_found_without_the_fold_and_pays(moved):
    dataset, raw, folds = moved
    decision = decide({"one": raw}, dataset, folds)
    for settings in (decision.tuned.settings, *decision.tuned.nested.values()):
        for kind in KINDS:
            dy, dx = settings[kind].offset
            assert -1.0 <= dy <= -0.4
            assert 0.1 <= dx <= 0.6
    without = decide({"one": raw}, dataset, folds, search=AXES)
    assert not any(any(s.offset) for s in without.tuned.settings.values())
    gains = np.array([i.score for i in decision.nested.images]) - [
        i.score for i in without.nested.images
    ]
    assert gains.mean() > 0.05
    assert gains.mean() > 5 * gains.std() / np.sqrt(len(gains))
    # A fold's own annotations have no say in its offset.
    spoilt = replace(
        dataset,
        samples=tuple(
            replace(s, instances=s.instances.window(SIZE, (2, 2))[0]) if folds[s.id] == 0 else s
            for s in dataset
        ),
    )
    again = decide({"one": raw}, spoilt, folds)
    assert again.tuned.nested[0] == decision.tuned.nested[0]


def test_nothing_is_moved_where_nothing_is_sure():
    for seed in range(3):
        dataset, raw, folds = material(dict.fromkeys(KINDS, (0.0, 0.0)), 4, seed)
        decision = decide({"one": raw}, dataset, folds, search=["offset"])
        assert {s.offset for s in decision.tuned.settings.values()} == {(0.0, 0.0)}


def test_classes_that_differ_have_offsets_of_their_own():
    dataset, raw, folds = material({"round": (-0.8, 0.0), "long": (0.8, 0.0)})
    settings = decide({"one": raw}, dataset, folds, search=["offset"]).tuned.settings
    assert settings["round"].offset[0] < -0.5
    assert settings["long"].offset[0] > 0.5


def test_the_table_scores_what_settling_gives(moved):
    """What the tuner reads off its table for moved masks is the score of settled predictions."""
    dataset, raw, _ = moved
    offset = (-0.6, 0.3)
    for sample in list(dataset)[:3]:
        there = shifted(raw[sample.id], offset)
        grid = make_grid([there], [sample.instances], ["mask_threshold", "min_area"])
        table = score_table(there, sample.instances, grid)
        for place in np.ndindex(*grid.shape):
            if place[2] % 4 == 0:
                setting = grid.settings(place).model_copy(update={"offset": offset})
                final = settle(raw[sample.id], dict.fromkeys(KINDS, setting))
                score = competition_score(compare(dataset.subset([sample.id]), {sample.id: final}))
                assert score.map == pytest.approx(table[place], abs=1e-12)


def test_settings_on_disk():
    old = {"a": {"score": 0.3, "mask_threshold": 0.5, "nms_iou": 0.3, "min_area": 20,
                 "max_area": None, "order": "score"}}  # fmt: skip
    settings = parse_settings(old, ["a"])
    assert settings["a"].offset == (0.0, 0.0)
    assert dump_settings(settings) == old  # where there is none, older versions read it, too
    there = {"a": SettleSettings(offset=(-0.4, -0.2))}
    assert parse_settings(dump_settings(there), ["a"]) == there
    assert dump_settings(there)["a"]["offset"] == [-0.4, -0.2]
    assert set(SEARCHED) == set(SettleSettings.model_fields)
