"""A folder that `somaseg predict` wrote is a data set, wherever its images are."""

import cv2
import numpy as np
import pytest

from somaseg.data import load_dataset
from somaseg.data.formats.results import write_results
from somaseg.errors import SomasegError
from somaseg.files import write_json
from somaseg.instances import Instances


@pytest.fixture
def masks(tmp_path):
    """Two images of one name in two folders, and one in which nothing was found."""
    labels = np.zeros((20, 30), np.int32)
    labels[2:8, 3:9], labels[10:15, 4:20] = 1, 2
    cells = Instances.from_labels(labels).with_classes(np.array([1, 0]), ("astro", "cort"))
    paths = {"a/x": "a/x.png", "b/x": "b/x.png", "none": "none.png"}
    for path in paths.values():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / path), np.zeros((20, 30), np.uint8))
    out = tmp_path / "masks"
    found = {"a/x": cells, "b/x": cells[:1], "none": cells[:0]}
    write_results(out / "predictions.json", found)
    write_json(out / "images.json", {name: str(tmp_path / path) for name, path in paths.items()})
    (out / "labels").mkdir()
    return out


def test_cells_classes_and_images(masks):
    dataset = load_dataset(masks)
    assert list(dataset.ids) == ["a/x", "b/x", "none"]
    assert [len(sample.annotated()) for sample in dataset] == [2, 1, 0]
    first = dataset["a/x"].annotated()
    assert [first.names[k] for k in first.classes] == ["cort", "astro"]
    assert all(sample.image().shape == (20, 30) for sample in dataset)


def test_moved_images_are_named(masks):
    (masks.parent / "a").rename(masks.parent / "moved")
    with pytest.raises(SomasegError, match=r"a/x.png: not there\) may have been moved"):
        load_dataset(masks)
    (masks.parent / "b/x.png").unlink()
    found = load_dataset(masks, need_images=False)
    assert found["a/x"].image_path is None
    (masks.parent / "none.png").rename(masks.parent / "moved" / "none.png")
    again = load_dataset(masks, images=masks.parent / "moved", need_images=False)
    assert again["a/x"].image_path == masks.parent / "moved" / "x.png"


def test_a_run_is_no_data_set(tmp_path):
    (tmp_path / "plan.yaml").touch()
    with pytest.raises(SomasegError, match="a fit, not a data set"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("name", ["train.csv", "cells.json"])
def test_what_a_killed_writer_left_is_no_data(tmp_path, name):
    """Half a table beside images: the images are what there is."""
    content = '{"images": [], "annotations": [], "categories": []}'
    if name.endswith(".csv"):
        content = "id,annotation,width,height\na,1 5,30,20\n"
    stem, ending = name.split(".")
    (tmp_path / f".{stem}.{ending}.abcd_123.tmp.{ending}").write_text(content)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30), np.uint8))
    assert load_dataset(tmp_path)["a"].instances is None
