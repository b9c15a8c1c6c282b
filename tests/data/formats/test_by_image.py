"""Annotations of one file an image, as their programs write them, and back."""

import base64
import io
import json
import pathlib
import pickle
import zipfile

import cv2
import numpy as np
import pytest
import roifile

from somaseg.data import load_dataset
from somaseg.data.convert import write_dataset
from somaseg.data.formats.rois import write_rois
from somaseg.data.load import read_dataset
from somaseg.data.pickled import Unknown, read_pickled
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import write_json
from tests.data.formats.test_exchange import SIZE, same, some_cells


@pytest.fixture
def dataset(tmp_path):
    """Two images with cells in them, of two classes, with a hole and with pieces."""
    cells = some_cells().with_classes(np.array([0, 1, 0, 0, 1], np.int16), ("a", "b"))
    samples = []
    for k, name in enumerate(("one", "day1/two")):
        path = tmp_path / "raw" / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full(SIZE, k, np.uint8))
        samples.append(Sample(name, SIZE, path, cells[k:]))
    return Dataset(tuple(samples), ("a", "b"), "x")


@pytest.mark.parametrize("format", ["rois", "geojson"])
def test_there_and_back(tmp_path, dataset, format):
    write_dataset(tmp_path / "out", dataset, format)
    back = load_dataset(tmp_path / "out")
    assert back.ids == ["day1%2Ftwo", "one"]
    for one, other in zip(dataset, reversed(list(back)), strict=True):
        same(one.annotated(), other.annotated())
        assert np.array_equal(one.image(), other.image())
    # Lying beside their images, or named alone, they are the same.
    for file in (tmp_path / "out" / format).iterdir():
        file.rename(tmp_path / "out/images" / file.name)
    again = load_dataset(tmp_path / "out/images", format=format)
    assert [len(s.annotated()) for s in again] == [len(s.annotated()) for s in back]


def test_one_wrong_file_is_a_line_and_costs_no_other(tmp_path, dataset):
    for format, ending in (("rois", "zip"), ("geojson", "geojson")):
        out = tmp_path / format
        write_dataset(out, dataset, format)
        cv2.imwrite(str(out / "images/one.png"), np.zeros((10, 10), np.uint8))
        reading = read_dataset(out)
        assert reading.dataset.ids == ["day1%2Ftwo"]
        (fault,) = reading.faults.errors
        assert fault.file.endswith(f"one.{ending}")
        assert "outside of the image; is it of an image of 10×10 pixels?" in fault.message
        assert "\n" not in str(fault)


def test_corrected_results_find_the_images_that_were_predicted(tmp_path, dataset):
    out = tmp_path / "masks"
    write_json(out / "images.json", {s.id: str(s.image_path) for s in dataset})
    write_json(out / "predictions.json", [])
    for sample in dataset:
        name = sample.id.replace("/", "%2F")
        write_rois(out / "rois" / f"{name}.zip", sample.annotated()[:2])
    for place in (out / "rois", out):
        found = load_dataset(place, format="rois")
        assert [len(s.annotated()) for s in found] == [2, 2]
        assert found["one"].image_path == dataset["one"].image_path


def test_fiji_calls_a_set_of_rois_its_own_way(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros(SIZE, np.uint8))
    oval = roifile.ImagejRoi.frompoints([[3, 4], [20, 4], [20, 15]], name="mine")
    with zipfile.ZipFile(tmp_path / "a_RoiSet.zip", "w") as file:
        file.writestr("0001-0002.roi", oval.tobytes())
    (sample,) = load_dataset(tmp_path)
    cells = sample.annotated()
    assert (sample.id, len(cells), cells.names) == ("a", 1, ("cell",))
    with zipfile.ZipFile(tmp_path / "a_RoiSet.zip", "w"):
        pass  # all cells deleted
    assert len(load_dataset(tmp_path)["a"].annotated()) == 0


def seg(path, masks):
    content = {
        "outlines": np.zeros((4, 4), np.int32), "masks": masks, "ismanual": np.zeros(3, bool),
        "filename": str(path), "flows": [np.zeros((2, 3), np.float32), [], None, 1.5, np.int64(3)],
        "est_diam": np.float64(12.5), "model_path": pathlib.Path("cyto3"),
    }  # fmt: skip
    np.save(path, content)


def test_cellpose_is_read_without_running_its_pickle(tmp_path):
    cells = some_cells()
    labels = cells.to_labels()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros(SIZE, np.uint8))
    for masks in (labels.astype(np.uint16), np.asfortranarray(labels)[None], labels.astype(">i4")):
        seg(tmp_path / "a_seg.npy", masks)
        (sample,) = load_dataset(tmp_path)
        assert np.array_equal(sample.annotated().to_labels(), labels)
    for masks, reason in [
        (labels[:10], "masks of 60×10 pixels, but the image has 60×40"),
        (None, "no masks in it"),
        (-labels, "not numbered from 0"),
    ]:
        seg(tmp_path / "a_seg.npy", masks)
        with pytest.raises(SomasegError, match=reason):
            load_dataset(tmp_path)
    seg(tmp_path / "a_seg.npy", labels)
    data = (tmp_path / "a_seg.npy").read_bytes()
    for cut in (5, 90, 200, len(data) // 2, len(data) - 1):
        (tmp_path / "a_seg.npy").write_bytes(data[:cut])
        with pytest.raises(SomasegError, match=r"a_seg\.npy.*truncated or damaged"):
            load_dataset(tmp_path)


class Harm:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.write_text, (self.path, "harm")


def test_a_pickle_runs_nothing(tmp_path):
    harm = tmp_path / "harm"
    for protocol in (2, 3, 4, 5):
        found = read_pickled(pickle.dumps({"x": Harm(harm), "y": [1, 2.5, "é", b"z"]}, protocol))
        assert not harm.exists()
        assert isinstance(found["x"], Unknown)
        assert found["y"][:3] == [1, 2.5, "é"]
    pickle.loads(pickle.dumps(Harm(harm)))  # as it would have
    assert harm.exists()
    large = b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"x."
    with pytest.raises(ValueError, match=r"expected|bytes"):
        read_pickled(large)


def test_labelme_shapes(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros(SIZE, np.uint8))
    mask = cv2.imencode(".png", np.array([[0, 255], [255, 255]], np.uint8))[1].tobytes()
    shapes = [
        {"label": "b", "points": [[2, 3], [7, 3], [7, 9], [2, 9]], "shape_type": "polygon"},
        {"label": "a", "points": [[20, 10], [30, 14]], "shape_type": "rectangle", "group_id": 1},
        {"label": "a", "points": [[40, 10], [42, 14]], "shape_type": "rectangle", "group_id": 1},
        {"label": "a", "points": [[20, 30], [20, 34]], "shape_type": "circle", "group_id": None},
        {"label": "b", "points": [[50, 20], [52, 22]], "shape_type": "mask",
         "mask": base64.b64encode(mask).decode()},
    ]  # fmt: skip
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "a.jpg",
               "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}  # fmt: skip
    write_json(tmp_path / "a.json", content)
    (sample,) = load_dataset(tmp_path)
    cells = sample.annotated()
    assert cells.areas.tolist()[:2] == [30, 48]
    assert abs(cells.areas[2] - np.pi * 16) < 4
    assert cells.areas[3] == 3
    assert [cells.names[k] for k in cells.classes] == ["b", "a", "a", "b"]
    for change, reason in [
        ({"shape_type": "line", "points": [[1, 1], [2, 2]]}, "shape 1: a line, which has no area"),
        ({"points": [[70, 3], [77, 3], [77, 9]]}, "shape 1: .*outside of the image"),
        ({"points": [[2, "x"]]}, "shape 1: no LabelMe shape"),
    ]:
        write_json(tmp_path / "a.json", content | {"shapes": [shapes[0] | change]})
        with pytest.raises(SomasegError, match=reason):
            load_dataset(tmp_path)
    write_json(tmp_path / "a.json", content | {"imageHeight": 99})
    with pytest.raises(SomasegError, match="drawn on an image of 60×99 pixels"):
        load_dataset(tmp_path)


def test_yolo_outlines(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"images/{split}/{split}.png"), np.zeros((50, 100), np.uint8))
    lines = "1 0.1 0.1 0.2 0.1 0.2 0.3 0.1 0.3\n\n0 0.5 0.5 1 0.5 1 1 0.5 1\n"
    (tmp_path / "labels/train/train.txt").write_text(lines)
    (tmp_path / "labels/val/val.txt").write_text("")
    (tmp_path / "data.yaml").write_text("names: {0: astro, 1: cort}\n")
    dataset = load_dataset(tmp_path)
    assert dataset.ids == ["train", "val"]
    assert dataset.names == ("astro", "cort")
    cells = dataset["train"].annotated()
    assert cells.areas.tolist() == [100, 1250]
    assert cells.classes.tolist() == [1, 0]
    assert len(dataset["val"].annotated()) == 0
    for line, reason in [
        ("0 0.5 0.5 0.2 0.2", "line 1: a class and a box; an outline is needed"),
        ("7 0 0 1 0 1 1", "line 1: class 7 has no name"),
        ("0 0 0 30 0 30 10", "line 1: a point outside of the image"),
        ("0 0 0 1 x 1 1", "line 1: could not convert"),
    ]:
        (tmp_path / "labels/train/train.txt").write_text(line)
        with pytest.raises(SomasegError, match=reason) as told:
            load_dataset(tmp_path)
        assert "\n" not in str(told.value)


def coco(image, annotation):
    return {
        "images": [{"id": 1, "width": SIZE[1], "height": SIZE[0], "file_name": image}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **annotation}],
    }


def test_coco_of_cvat_and_label_studio(tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), np.zeros(SIZE, np.uint8))
    counts = [10, 5, SIZE[0] * SIZE[1] - 15]
    brush = {"segmentation": {"size": list(SIZE), "counts": counts}, "iscrowd": 1}
    write_json(tmp_path / "x.json", coco("a.png", brush | {"attributes": {"occluded": False}}))
    assert load_dataset(tmp_path)["a"].annotated().areas.tolist() == [5]
    polygon = {"segmentation": [[2, 2, 9, 2, 9, 9]], "iscrowd": 0, "ignore": 0}
    write_json(tmp_path / "x.json", coco("images/0a1b2c3d-a.png", polygon))
    (sample,) = load_dataset(tmp_path)
    assert sample.image_path == tmp_path / "images/a.png"


def test_no_name_in_a_pickle_is_looked_up():
    file = io.BytesIO()
    pickle.Pickler(file, 4).dump({"f": json.dumps})
    assert not callable(read_pickled(file.getvalue())["f"])
