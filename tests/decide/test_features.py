import numpy as np
import pytest
from hypothesis import given, settings
from scipy.spatial import ConvexHull
from skimage.measure import regionprops

from somaseg.decide.features import FEATURES, instance_features
from somaseg.instances import Instances
from tests.decide.make import crowds


def named(raw):
    return dict(zip(FEATURES, instance_features(raw).T.astype(float), strict=True))


def full(raw, i):
    """Probabilities of row i in the full image."""
    image = np.zeros(raw.size)
    x0, y0, x1, y1 = raw.boxes[i]
    image[y0:y1, x0:x1] = raw.crop(i) / (255 if raw.soft else 1)
    return image


@given(crowds())
@settings(max_examples=60)
def test_shapes_are_those_of_other_libraries(raw):
    found = named(raw)
    for i in range(len(raw)):
        mask, soft = raw.mask(i), full(raw, i)
        area = mask.sum()
        got = {name: column[i] for name, column in found.items()}
        if area == 0:
            assert got["area"] == got["solidity"] == 0
            continue
        (region,) = regionprops(mask.astype(np.uint8))
        assert np.expm1(got["area"]) == pytest.approx(area, rel=1e-5)
        # There pixels are points; as squares each has a second moment of a twelfth.
        major, minor = (
            np.sqrt(x**2 + 16 / 12) for x in (region.axis_major_length, region.axis_minor_length)
        )
        assert np.expm1(got["length"]) == pytest.approx(major, rel=1e-4)
        assert got["elongation"] == pytest.approx(minor / major, rel=1e-4)
        ys, xs = mask.nonzero()
        corners = [
            (y + a, x + b) for y, x in zip(ys, xs, strict=True) for a in (0, 1) for b in (0, 1)
        ]
        assert got["solidity"] == pytest.approx(area / ConvexHull(corners).volume, rel=1e-5)
        padded = np.pad(mask, 1)
        outline = sum((padded != np.roll(padded, 1, axis)).sum() for axis in (0, 1))
        assert got["roundness"] == pytest.approx(4 * np.pi * area / outline**2, rel=1e-5)
        x0, y0, x1, y1 = raw.boxes[i]
        assert got["extent"] == pytest.approx(area / ((x1 - x0) * (y1 - y0)), rel=1e-5)
        assert got["certainty"] == pytest.approx(soft[mask].mean(), rel=1e-5)
        core = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1]
        core &= padded[1:-1, :-2] & padded[1:-1, 2:]
        assert got["border"] == pytest.approx(soft[mask & ~core].mean(), rel=1e-5)
        assert got["stability"] == pytest.approx((soft > 0.6).sum() / (soft > 0.4).sum(), rel=1e-5)
        distance = min(x0, y0, raw.size[1] - x1, raw.size[0] - y1)
        assert np.expm1(got["to_edge"]) == pytest.approx(distance, abs=1e-4)


@given(crowds())
@settings(max_examples=60)
def test_neighbours_are_counted_as_by_hand(raw):
    found = named(raw)
    n = len(raw)
    masks = [raw.mask(i) for i in range(n)]
    areas = np.array([mask.sum() for mask in masks])
    centres = [
        np.argwhere(mask).mean(0)
        if mask.any()
        else (raw.boxes[i][[1, 0]] + raw.boxes[i][[3, 2]]) / 2
        for i, mask in enumerate(masks)
    ]
    for i in range(n):
        got = {name: column[i] for name, column in found.items()}
        others = [j for j in range(n) if j != i and (masks[i] & masks[j]).any()]
        iou = [(masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum() for j in others]
        assert got["best_iou"] == pytest.approx(max(iou, default=0), rel=1e-5)
        assert got["best_rival"] == max((raw.scores[j] for j in others), default=0)
        assert got["rivals"] == len(others)
        assert got["supporters"] == sum(value > 0.5 for value in iou)
        better = [j for j in others if raw.scores[j] > raw.scores[i]]
        covered = sum((masks[i] & masks[j]).sum() / areas[i] for j in better)
        assert got["covered"] == pytest.approx(covered, rel=1e-4)
        assert got["rank"] == pytest.approx((raw.scores < raw.scores[i]).sum() / n)
        assert np.expm1(got["count"]) == pytest.approx(n, rel=1e-5)
        median = max(np.median(areas), 1)
        relative = np.log1p(areas[i]) - np.log1p(median)
        assert got["relative_area"] == pytest.approx(relative, abs=1e-4)
        away = [np.hypot(*(centres[i] - centres[j])) for j in range(n) if j != i]
        nearest = min(away, default=0) / np.sqrt(max(areas[i], 1))
        assert got["nearest"] == pytest.approx(nearest, rel=1e-4)
        near = sum(distance <= 4 * np.sqrt(median) + 1e-9 for distance in away)
        assert got["density"] == near


def test_nothing_and_hard_masks():
    assert instance_features(Instances.empty((9, 9))).shape == (0, len(FEATURES))
    hard = named(Instances.from_masks(np.ones((1, 5, 5), bool)))
    assert hard["certainty"] == hard["border"] == hard["stability"] == hard["solidity"] == 1
