"""Files as other tools write them: each kind from a public bug report or from a tool's source."""

import dataclasses
import json
import unicodedata

import cv2
import numpy as np
import pytest
import tifffile
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from somaseg.data import Dataset, Sample, load_dataset, read_dataset
from somaseg.data.audit import audit
from somaseg.data.folds import make_folds
from somaseg.data.formats.coco import write_annotations
from somaseg.data.formats.results import read_results, write_results
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.scoring import compare
from somaseg.scoring.coco import coco_score
from tests.data.make import SIZE, coco, competition, labels_folder, write_image

SQUARE = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
OTHER = {"segmentation": [[8, 1, 12, 1, 12, 4, 8, 4]]}
LABELS = np.zeros(SIZE, int)
LABELS[1:4, 2:6], LABELS[6:9, 9:15] = 1, 2


def changed(root, change):
    path = root / "annotations.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return root


def kinds(reading):
    return [fault.kind for fault in reading.faults]


def test_a_file_of_nothing_but_crowds_is_refused(tmp_path):
    reading = read_dataset(coco(tmp_path, [SQUARE | {"iscrowd": 1}, OTHER | {"iscrowd": 1}]))
    assert kinds(reading) == ["crowd region", "crowd region", "all crowd"]
    with pytest.raises(SomasegError, match="all 2 annotations have iscrowd 1, as pycococreator"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("value", "crowd"), [("0", False), (0.0, False), (False, False), (None, False), ("1", True)]
)
def test_iscrowd_is_compared_by_value(tmp_path, value, crowd):
    dataset = load_dataset(coco(tmp_path, [SQUARE | {"iscrowd": value}, OTHER]))
    assert len(dataset["a"].instances) == (1 if crowd else 2)
    assert (dataset["a"].crowd is not None) == crowd


def test_crowd_regions_come_back_from_a_converted_file(tmp_path):
    dataset = load_dataset(coco(tmp_path, [SQUARE | {"iscrowd": 1}, OTHER]))
    write_annotations(tmp_path / "again.json", dataset)
    again = load_dataset(tmp_path / "again.json", need_images=False)
    np.testing.assert_array_equal(again["a"].crowd.mask(0), dataset["a"].crowd.mask(0))


def test_coco_ap_ignores_what_lies_on_crowds_as_pycocotools_does(tmp_path):
    rng = np.random.default_rng(0)
    size, samples, predictions = (60, 80), [], {}
    for name in ("a", "b", "c"):
        masks = np.zeros((9, *size), bool)
        for k in range(9):
            y, x = rng.integers(0, 45), rng.integers(0, 65)
            masks[k, y : y + rng.integers(5, 15), x : x + rng.integers(5, 15)] = True
        cells = Instances.from_masks(masks, classes=np.arange(9) % 2, names=("x", "y"))
        samples.append(Sample(name, size, None, cells[:6], crowd=cells[6:]))
        moved = np.roll(masks, (1, 1), (1, 2))
        predictions[name] = Instances.from_masks(
            moved, rng.random(9), classes=np.arange(9) % 2, names=("x", "y")
        )
    dataset = Dataset(tuple(samples), ("x", "y"), str(tmp_path / "t.json"))
    write_annotations(tmp_path / "t.json", dataset)
    write_results(tmp_path / "r.json", predictions, tmp_path / "t.json")
    truth = COCO(str(tmp_path / "t.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "r.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    expected = evaluation.eval["precision"][:, :, :, 0, -1].mean()
    score = coco_score(compare(dataset, predictions)).ap
    assert score == pytest.approx(expected, abs=1e-9)
    bare = [dataclasses.replace(sample, crowd=None) for sample in samples]
    without = coco_score(compare(dataclasses.replace(dataset, samples=tuple(bare)), predictions))
    assert without.ap < score


def test_names_of_windows_and_equal_names_in_folders(tmp_path):
    root = coco(tmp_path / "1", [SQUARE])

    def windows(content):
        for image in content["images"]:
            image["file_name"] = "C:\\data\\set 1\\" + image["file_name"]

    assert load_dataset(changed(root, windows)).ids == ["a", "b"]
    root = coco(tmp_path / "2", [SQUARE], images=["p1/im", "p2/im"])

    def folders(content):
        for image in content["images"]:
            image["file_name"] = "D:\\x\\" + image["file_name"].replace("/", "\\")

    dataset = load_dataset(changed(root, folders))
    assert dataset.ids == ["p1/im", "p2/im"]
    assert [sample.image_path.parent.name for sample in dataset] == ["p1", "p2"]


def test_two_entries_are_not_given_one_file(tmp_path):
    root = coco(tmp_path, [SQUARE], images=["im"])

    def twins(content):
        content["images"] += [{**content["images"][0], "id": 99, "file_name": "p2/im.png"}]
        content["images"][0]["file_name"] = "p1/im.png"

    assert "ambiguous image" in kinds(read_dataset(changed(root, twins)))


def test_a_byte_order_mark_flat_polygons_and_ids_of_any_type(tmp_path):
    root = coco(tmp_path, [{"segmentation": SQUARE["segmentation"][0], "image_id": 11.0}, OTHER])

    def loose(content):
        content["images"][1]["id"] = "12"
        content["annotations"][1] |= {"image_id": 12, "category_id": "1"}
        del content["annotations"][0]["id"]

    changed(root, loose)
    path = root / "annotations.json"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    reading = read_dataset(root)
    assert not reading.faults.errors
    assert [len(sample.instances) for sample in reading.dataset] == [1, 1]
    assert reading.dataset["a"].instances.areas.tolist() == [12]
    assert reading.rows["a"] == ["annotation 1 (in order)"]


def test_results_whose_ids_differ_by_ending_or_type(tmp_path):
    dataset = load_dataset(coco(tmp_path, [SQUARE]))
    write_results(tmp_path / "r.json", {"a": dataset["a"].instances})
    (entry,) = json.loads((tmp_path / "r.json").read_text())
    for value in ("a.png", "a.tif", "images/a.png", 11, 11.0, "11"):
        (tmp_path / "r.json").write_text(json.dumps([entry | {"image_id": value}]))
        assert len(read_results(tmp_path / "r.json", dataset)["a"]) == 1, value


def test_an_empty_mask_among_results_is_left_out_and_told(tmp_path):
    dataset = load_dataset(coco(tmp_path, [SQUARE]))
    write_results(tmp_path / "r.json", {"a": dataset["a"].instances})
    (entry,) = json.loads((tmp_path / "r.json").read_text())
    empty = entry | {"segmentation": {"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]}}
    (tmp_path / "r.json").write_text(json.dumps([empty, entry]))
    with pytest.warns(UserWarning, match="1 results with an empty mask are left out; .* entry 1"):
        assert len(read_results(tmp_path / "r.json", dataset)["a"]) == 1


def test_categories_counted_from_zero_are_warned_of(tmp_path):
    dataset = load_dataset(coco(tmp_path, [SQUARE], categories=("x", "y")))
    write_results(tmp_path / "r.json", {"a": dataset["a"].instances})
    (entry,) = json.loads((tmp_path / "r.json").read_text())
    del entry["category"]
    entries = [entry | {"category_id": number} for number in (0, 1)]
    (tmp_path / "r.json").write_text(json.dumps(entries))
    with pytest.warns(UserWarning, match="count categories from 0, the truth from 1"):
        read_results(tmp_path / "r.json", dataset)


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("a_img.png", "a_masks.png"),
        ("a.png", "a-labelled.png"),
        ("a.ome.tif", "a_masks.tif"),
        ("a.ome.tif", "a_labels.ome.tif"),
    ],
)
def test_pairs_by_the_names_that_tools_give(tmp_path, image, labels):
    for name, values in ((image, LABELS * 9), (labels, LABELS)):
        if name.endswith(".png"):
            cv2.imwrite(str(tmp_path / name), values.astype(np.uint16))
        else:
            tifffile.imwrite(tmp_path / name, values.astype(np.uint16), metadata=None)
    dataset = load_dataset(tmp_path)
    assert dataset.ids == ["a"]
    assert dataset["a"].image_path.name == image
    assert len(dataset["a"].instances) == 2


def test_decomposed_names_meet_composed_ones(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "zellkörper") for form in ("NFC", "NFD"))
    labels_folder(tmp_path, {composed: LABELS}, images=False)
    write_image(tmp_path / "images" / f"{decomposed}.png")
    dataset = load_dataset(tmp_path)
    assert dataset.ids == [composed]
    assert dataset[composed].image_path is not None


@pytest.mark.parametrize("inside", [False, True])
def test_one_mask_a_cell(tmp_path, inside):
    folder = tmp_path / "abc"
    write_image(folder / "images" / "abc.png")
    (folder / "masks").mkdir()
    for k in (1, 2):
        cv2.imwrite(str(folder / "masks" / f"m{k}.png"), (255 * (k == LABELS)).astype(np.uint8))
    reading = read_dataset(folder if inside else tmp_path)
    assert not reading.faults.errors
    cells = reading.dataset["abc"].instances
    assert cells.areas.tolist() == [12, 18]
    assert reading.rows["abc"] == ["m1.png", "m2.png"]


def test_the_table_of_dsb2018_is_named(tmp_path):
    (tmp_path / "stage1_train_labels.csv").write_text("ImageId,EncodedPixels\na,1 2\n")
    with pytest.raises(SomasegError, match="Data Science Bowl 2018, whose runs go down"):
        load_dataset(tmp_path)


def blobs(size=(120, 160)):
    labels = np.zeros(size, np.uint16)
    for k, (y, x) in enumerate((y, x) for y in range(5, 110, 16) for x in range(5, 150, 16)):
        labels[y : y + 12, x : x + 12] = k + 1
    return labels


def test_shattered_label_images_are_refused_with_the_likely_cause(tmp_path):
    labels = blobs()
    small = cv2.resize(labels, (93, 70), interpolation=cv2.INTER_LINEAR)
    labels_folder(tmp_path / "resized", {"a": cv2.resize(small, (160, 120))})
    labels_folder(tmp_path / "sound", {"a": labels})
    assert not read_dataset(tmp_path / "sound").faults.errors
    with pytest.raises(SomasegError, match="resized with interpolation"):
        load_dataset(tmp_path / "resized")
    (tmp_path / "jpeg" / "labels").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "jpeg" / "labels" / "a.jpg"), labels.astype(np.uint8))
    with pytest.raises(SomasegError, match="a JPEG, which changes the numbers"):
        load_dataset(tmp_path / "jpeg", need_images=False)


def test_runs_numbered_down_the_columns_are_refused(tmp_path):
    cells = Instances.from_labels(blobs().T.astype(np.int32))
    rows = [f"a,{runs},160,120,cort" for runs in cells.to_runs()]
    competition(tmp_path, rows, images=[])
    with pytest.raises(SomasegError, match="runs numbered down the columns"):
        load_dataset(tmp_path, need_images=False)


def test_no_cell_at_all_is_an_error_of_the_check(tmp_path):
    report = audit(coco(tmp_path, []))
    assert [fault.kind for fault in report.errors] == ["no cell"]


def test_one_image_gets_advice_that_can_be_followed():
    for images in (
        [Sample("a", SIZE)],
        [Sample("a", SIZE, group="g"), Sample("b", SIZE, group="g")],
    ):
        with pytest.raises(SomasegError, match=r"cannot fill 2 folds: .* cut an image") as caught:
            make_folds(Dataset(tuple(images), (), "here"), 2)
        assert "ask for" not in str(caught.value)


def test_the_sound_part_of_a_reading(tmp_path):
    root = coco(tmp_path, [SQUARE, OTHER | {"segmentation": []}], images=["a", "b", "c"])
    (root / "images" / "b.png").unlink()
    reading = read_dataset(root)
    assert reading.sound().ids == ["a", "c"]
    assert len(reading.sound()["a"].instances) == 1
