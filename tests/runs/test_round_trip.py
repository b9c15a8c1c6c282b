"""Predict, correct in Fiji's format, train on the corrections, predict: better on the new kind."""

import cv2
import numpy as np
import pytest
import yaml

from somaseg.data import load_dataset
from somaseg.data.convert import write_dataset
from somaseg.data.formats.rois import write_rois
from somaseg.data.types import Dataset, Sample
from somaseg.instances import Instances
from somaseg.scoring import Overlaps
from tests.cli.run import somaseg

SIDE = 112
MODEL = {"family": "pixel_forest", "depth": 3, "pixels": 4000, "levels": 1, "class_rounds": 5}
MODEL |= {"diameter": 16}


def draw(folder, seed, inverted):
    """Bright discs on a dark ground, or dark ones on a bright."""
    random = np.random.default_rng(seed)
    labels, image = np.zeros((SIDE, SIDE), np.int32), np.full((SIDE, SIDE), 60, np.float32)
    y, x = np.mgrid[:SIDE, :SIDE]
    for _ in range(200):
        (cy, cx), radius = random.integers(8, SIDE - 8, 2), random.uniform(6, 9)
        disc = (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
        if not labels[disc].any():
            labels[disc] = labels.max() + 1
            image[disc] += 90
    image = cv2.GaussianBlur(image, (0, 0), 1) + random.normal(0, 4, image.shape)
    image = np.clip(255 - image if inverted else image, 0, 255).astype(np.uint8)
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / f"{seed}.png"), image)
    cells = Instances.from_labels(labels).with_classes(0, ("cell",))
    return Sample(str(seed), image.shape, folder / f"{seed}.png", cells)


def share_found(masks, samples):
    """Cells found at IoU 0.5, of all that are there or were claimed."""
    found = load_dataset(masks)
    shares = []
    for sample in samples:
        cells, truth = found[sample.id].annotated(), sample.annotated()
        hits = int((Overlaps.between(truth, cells).matches((50,))[0] >= 0).sum())
        shares.append(hits / (len(truth) + len(cells) - hits))
    return float(np.mean(shares))


def test_corrections_make_it_better_on_images_of_another_kind(tmp_path):
    pytest.importorskip("xgboost")
    known = [draw(tmp_path / "known", k, False) for k in range(2)]
    new = [draw(tmp_path / "new", k, True) for k in range(10, 13)]
    held = [draw(tmp_path / "held", k, True) for k in range(20, 22)]
    write_dataset(tmp_path / "data", Dataset(tuple(known), ("cell",), "x"), "labels")
    preset = tmp_path / "forest.yaml"
    preset.write_text(yaml.safe_dump({"model": MODEL, "training": {"steps": 15}}))
    train = ("--model", preset, "--folds", 2, "--jobs", 1, "--refit")

    somaseg("train", tmp_path / "data", "--out", tmp_path / "first", *train)
    predict = ("--write", "rois", "--no-overlays")
    for name in ("new", "held"):
        found = tmp_path / f"{name}-first"
        somaseg("predict", tmp_path / name, "-m", tmp_path / "first", "-o", found, *predict)
    before = share_found(tmp_path / "held-first", held)
    for sample in new:  # corrected
        write_rois(tmp_path / f"new-first/rois/{sample.id}.zip", sample.annotated())
    somaseg("data", "convert", tmp_path / "new-first/rois", tmp_path / "mine", "--to", "labels")
    assert share_found(tmp_path / "mine", new) == 1

    said = somaseg("train", tmp_path / "mine", "--out", tmp_path / "second", *train).stdout
    assert "nested" in said
    again = tmp_path / "held-second"
    somaseg("predict", tmp_path / "held", "-m", tmp_path / "second", "-o", again, *predict)
    assert share_found(again, held) > before + 0.5
