import dataclasses
import filecmp

import numpy as np
import pytest

from somaseg.data import load_dataset
from somaseg.data.convert import write_dataset
from somaseg.errors import SomasegError
from tests.data.make import assert_same, coco, competition, write_image

TARGETS = ("competition", "coco", "labels")
ROWS = [
    "a,1 4 17 4,16,12,astro",
    "a,4 2,16,12,astro",
    "b,33 3 49 1 51 1 65 3,16,12,cort",
    "c,,16,12,cort",
]


@pytest.fixture
def source(tmp_path):
    root = competition(tmp_path / "source", ROWS, images=["a", "c"])
    write_image(root / "train" / "b.tif", dtype=np.uint16)
    return root


@pytest.mark.parametrize("first", TARGETS)
@pytest.mark.parametrize("second", TARGETS)
def test_every_way_and_back(tmp_path, source, first, second):
    dataset = load_dataset(source)
    write_dataset(tmp_path / "1", dataset, first)
    write_dataset(tmp_path / "2", load_dataset(tmp_path / "1"), second)
    back = load_dataset(tmp_path / "2")
    assert back.names == dataset.names
    if "labels" in (first, second):
        samples = [dataclasses.replace(s, instances=s.instances.disjoint()[0]) for s in dataset]
        assert_same(dataclasses.replace(dataset, samples=tuple(samples)), back)
    else:
        assert_same(dataset, back)
    for sample in dataset:
        assert filecmp.cmp(sample.image_path, back[sample.id].image_path, shallow=False)
        assert sample.image_path.name == back[sample.id].image_path.name


def test_the_loss_of_label_images_is_told(tmp_path, source):
    loss = write_dataset(tmp_path / "out", load_dataset(source), "labels")
    assert (loss.pixels, loss.shared, loss.hidden) == (1, 1, 0)
    assert write_dataset(tmp_path / "coco", load_dataset(source), "coco").pixels == 0


def test_images_that_are_not_at_hand_are_left_out(tmp_path, source):
    (source / "train" / "a.png").unlink()
    dataset = load_dataset(source, need_images=False)
    write_dataset(tmp_path / "out", dataset, "coco")
    assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == ["b.tif", "c.png"]


def test_converting_in_place_keeps_the_images(source):
    before = (source / "train" / "a.png").read_bytes()
    write_dataset(source, load_dataset(source), "competition")
    assert (source / "train" / "a.png").read_bytes() == before


def test_ids_with_folders_become_file_names(tmp_path):
    square = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
    root = coco(tmp_path / "source", [square], images=["day1/x", "day2/x"])
    assert load_dataset(root).ids == ["day1/x", "day2/x"]
    write_dataset(tmp_path / "out", load_dataset(root), "labels")
    assert load_dataset(tmp_path / "out").ids == ["day1%2Fx", "day2%2Fx"]


def test_unannotated_images_and_unknown_formats_are_refused(tmp_path, source):
    with pytest.raises(SomasegError, match="not annotated, but annotations are needed"):
        write_dataset(tmp_path / "out", load_dataset(source / "train"), "coco")
    with pytest.raises(SomasegError, match="format 'yolo': choose one of competition, coco"):
        write_dataset(tmp_path / "out", load_dataset(source), "yolo")
    assert not (tmp_path / "out").exists()
