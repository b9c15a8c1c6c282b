import json

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from somaseg.data import Dataset, Sample, load_dataset
from somaseg.data.formats.coco import write_annotations
from somaseg.data.formats.results import read_results, write_results
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from tests.data.make import SIZE, assert_same, datasets, masks_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("coco")


@settings(max_examples=50, deadline=None)
@given(dataset=datasets(mixed=True))
def test_annotations_come_back(folder, dataset):
    write_annotations(folder / "a.json", dataset)
    again = load_dataset(folder / "a.json", need_images=False)
    assert again.names == dataset.names
    assert_same(dataset.subset(dataset.ids), _without_classes(again))


@settings(max_examples=30, deadline=None)
@given(dataset=datasets())
def test_annotations_of_one_class_an_image_come_back(folder, dataset):
    write_annotations(folder / "a.json", dataset)
    assert_same(dataset, load_dataset(folder / "a.json", need_images=False))


@settings(max_examples=15, deadline=None)
@given(dataset=datasets(mixed=True))
def test_pycocotools_reads_the_same_masks_and_boxes(folder, dataset):
    write_annotations(folder / "a.json", dataset)
    with (folder / "a.json").open() as file:
        content = json.load(file)
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    for number, sample in enumerate(dataset, start=1):
        found = coco.loadAnns(coco.getAnnIds(imgIds=number))
        masks = masks_of(sample.instances)
        assert len(found) == len(masks)
        for annotation, mask, label in zip(found, masks, sample.instances.classes, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            rle = annotation["segmentation"]
            assert annotation["area"] == mask.sum() == int(coco_mask.area(rle))
            assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()
            assert coco.cats[annotation["category_id"]]["name"] == dataset.names[label]


@settings(max_examples=50, deadline=None)
@given(dataset=datasets(mixed=True, scored=True))
def test_results_come_back(folder, dataset):
    predictions = {sample.id: sample.instances for sample in dataset}
    write_results(folder / "r.json", predictions)
    for path_only in (False, True):
        again = read_results(folder / "r.json", None if path_only else dataset)
        expected = {k: v for k, v in predictions.items() if len(v) or not path_only}
        assert set(again) == set(expected)
        for name, found in expected.items():
            np.testing.assert_array_equal(masks_of(found), masks_of(again[name]))
            np.testing.assert_array_equal(found.scores, again[name].scores)
            kinds = [[x.names[k] for k in x.classes] for x in (found, again[name])]
            assert kinds[0] == kinds[1]


def test_results_with_the_numbers_of_a_coco_file_are_scored_by_pycocotools(tmp_path):
    """The tool that others use finds every prediction of the annotations themselves."""
    from pycocotools.cocoeval import COCOeval

    found = Instances.from_runs(SIZE, ["1 4 17 4", "101 5"], classes=[1, 0], names=("x", "y"))
    dataset = Dataset((Sample("b", SIZE, None, found),), ("x", "y"), "memory")
    file = tmp_path / "annotations.json"
    write_annotations(file, dataset)
    content = json.loads(file.read_text())
    content["images"].insert(0, {"id": 5, "file_name": "a.png", "width": 16, "height": 12})
    file.write_text(json.dumps(content))
    write_results(tmp_path / "r.json", {"b": found}, source=file)
    coco = COCO(str(file))
    evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "r.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
    truth = load_dataset(file, need_images=False)
    assert read_results(tmp_path / "r.json", truth)["b"].classes.tolist() == [1, 0]


def test_masks_in_loose_boxes_get_tight_ones(tmp_path):
    loose = Instances.from_crops(SIZE, [[0, 0, 6, 6]], [np.pad(np.ones((2, 3), np.uint8), 2)[:, :6]
                                 .copy()[:6]], names=("cell",))  # fmt: skip
    write_results(tmp_path / "r.json", {"a": loose})
    (entry,) = json.loads((tmp_path / "r.json").read_text())
    assert entry["bbox"] == [2, 2, 3, 2]


def test_what_cannot_be_written_is_refused(tmp_path):
    one = Instances.from_runs(SIZE, ["1 4"], classes=[-1], names=("x",))
    dataset = Dataset((Sample("a", SIZE, None, one),), ("x",), "memory")
    path = tmp_path / "a.json"
    with pytest.raises(SomasegError, match=r"a\.json: image a has instances of no class"):
        write_annotations(path, dataset)
    with pytest.raises(SomasegError, match="soft masks cannot be written"):
        write_results(path, {"a": one.replace(soft=True)})
    named = one.with_classes(0)
    write_annotations(path, Dataset((Sample("a", SIZE, None, named),), ("x",), "memory"))
    for predictions, message in [
        ({"b": named}, r"a\.json: no image b, but it was predicted"),
        ({"a": named.with_classes(0, ("z",))}, r"a\.json: no category 'z', but it was predicted"),
    ]:
        with pytest.raises(SomasegError, match=message):
            write_results(tmp_path / "r.json", predictions, source=path)
    assert not (tmp_path / "r.json").exists()


def _without_classes(dataset):
    import dataclasses

    samples = tuple(dataclasses.replace(sample, image_class=None) for sample in dataset)
    return dataclasses.replace(dataset, samples=samples)
