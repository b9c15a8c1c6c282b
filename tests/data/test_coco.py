import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from somaseg.data import load_dataset, read_dataset
from somaseg.data.formats.coco import coco_categories, coco_image_ids
from somaseg.errors import SomasegError
from tests.data.make import coco, write_image

SQUARE = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}


def random_mask(seed=0):
    return np.asfortranarray(np.random.default_rng(seed).random((12, 16)) < 0.4, np.uint8)


def counts_of(mask):
    """Plain COCO counts the slow way: column by column, zeros first."""
    counts, value = [0], 0
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def test_polygons_have_the_pixels_of_pycocotools(tmp_path):
    star = [3.2, 0.7, 9.1, 4.4, 14.6, 1.3, 12.2, 10.9, 7.7, 7.1, 1.4, 11.6]
    island = [13, 9, 15.5, 9, 15.5, 11.5]
    coco(tmp_path, [{"segmentation": [star, island]}, SQUARE])
    found = load_dataset(tmp_path)["a"].instances
    for i, polygons in enumerate([[star, island], SQUARE["segmentation"]]):
        rles = coco_mask.frPyObjects(polygons, 12, 16)
        np.testing.assert_array_equal(found.mask(i), coco_mask.decode(coco_mask.merge(rles)))


def test_plain_and_compressed_counts(tmp_path):
    mask = random_mask()
    compressed = coco_mask.encode(mask)["counts"].decode()
    both = [
        {"segmentation": {"size": [12, 16], "counts": counts_of(mask)}},
        {"segmentation": {"size": [12, 16], "counts": compressed}},
    ]
    coco(tmp_path, both)
    found = load_dataset(tmp_path)["a"].instances
    np.testing.assert_array_equal(found.mask(0), mask)
    np.testing.assert_array_equal(found.mask(1), mask)


def test_names_ids_and_images(tmp_path):
    image = write_image(tmp_path / "images" / "a.png")
    coco(tmp_path, [SQUARE, SQUARE | {"category_id": 2}], categories=("neuron", "astro"))
    dataset = load_dataset(tmp_path)
    assert dataset.names == ("neuron", "astro"), "the file's own order"
    assert dataset.ids == ["a", "b"]
    assert dataset["a"].instances.classes.tolist() == [0, 1]
    np.testing.assert_array_equal(dataset["a"].image(), image)
    assert len(dataset["b"].instances) == 0, "no annotation: no cells"
    assert dataset.image_classes == {"a": None, "b": None}, "an image mixes classes"
    file = tmp_path / "annotations.json"
    assert coco_image_ids(file) == {"a": 11, "b": 12}
    assert coco_categories(file) == {1: "neuron", 2: "astro"}


def test_one_class_an_image_makes_it_the_images_class(tmp_path):
    annotations = [SQUARE, SQUARE | {"image_id": 12, "category_id": 2}]
    coco(tmp_path, annotations, categories=("neuron", "astro"))
    assert load_dataset(tmp_path).image_classes == {"a": "neuron", "b": "astro"}


def test_wells_of_livecell_are_groups(tmp_path):
    names = ["A172_Phase_C7_1_00d20h00m_4", "A172_Phase_C7_2_01d12h00m_3", "BT474_Phase_C7_1_x"]
    coco(tmp_path, [SQUARE], images=names)
    groups = [sample.group for sample in load_dataset(tmp_path)]
    assert groups == ["A172_C7", "A172_C7", "BT474_C7"]


def test_our_own_keys_keep_class_and_group(tmp_path):
    coco(tmp_path, [SQUARE], **{"class": "cell", "group": "dish 1"})
    dataset = load_dataset(tmp_path)
    assert dataset["b"].image_class == "cell"
    assert dataset["b"].group == "dish 1"


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("annotations.json", "images"),
        ("anything.json", "."),
        ("anything.json", "anything"),
        ("annotations/instances_train.json", "train"),
        ("annotations/x.json", "images"),
    ],
)
def test_the_images_are_found(tmp_path, file, images):
    coco(tmp_path / "made", [SQUARE], images=["a"])
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / "made" / "annotations.json").rename(tmp_path / file)
    write_image(tmp_path / images / "a.png")
    for path in (tmp_path, tmp_path / file):
        assert load_dataset(path)["a"].image_path == tmp_path / images / "a.png"


def test_file_names_with_folders(tmp_path):
    """Written on another computer: folders that are not here; or one name in two folders."""
    coco(tmp_path, [SQUARE])
    file = tmp_path / "annotations.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "D:\\data\\2021/a.png"
    file.write_text(json.dumps(content))
    assert load_dataset(tmp_path)[0].image_path == tmp_path / "images" / "a.png"

    for day in ("1", "2"):
        write_image(tmp_path / "images" / day / "x.png")
    for i, entry in enumerate(content["images"]):
        entry["file_name"] = f"{i + 1}/x.png"
    file.write_text(json.dumps(content))
    dataset = load_dataset(tmp_path)
    assert dataset.ids == ["1/x", "2/x"]
    assert dataset[1].image_path == tmp_path / "images" / "2" / "x.png"


def test_crowd_regions_are_left_out_with_a_warning(tmp_path):
    coco(tmp_path, [SQUARE, SQUARE | {"iscrowd": 1}], images=["a"])
    reading = read_dataset(tmp_path)
    assert len(reading.dataset["a"].instances) == 1
    (fault,) = reading.faults
    assert (fault.kind, fault.severity, fault.row) == ("crowd region", "warning", "annotation 101")


BAD = {
    "bad row": ({"image_id": 99} | SQUARE, "its image_id 99 is none of the images"),
    "unknown class": ({"category_id": 7} | SQUARE, "category_id 7 is none of the categories"),
    "empty mask": ({"segmentation": []}, "no segmentation; a box is not enough"),
    "empty mask 2": ({"bbox": [1, 2, 3, 4]}, "no segmentation; a box is not enough"),
    "empty mask 3": (
        {"segmentation": {"size": [12, 16], "counts": [192]}},
        "the mask is empty",
    ),
    "empty mask 4": ({"segmentation": [[40, 40, 50, 40, 50, 50]]}, "covers no pixel"),
    "bad polygon": ({"segmentation": [[1, 2, 3, 4, 5]]}, "5 numbers, an odd count"),
    "bad polygon 2": ({"segmentation": [[1, 2, 3, 4]]}, "2 points; three are needed"),
    "bad polygon 3": ({"segmentation": [["a", 2, 3, 4, 5, 6]]}, "not a list of numbers"),
    "bad counts": (
        {"segmentation": {"size": [12, 16], "counts": [10, 5]}},
        "sum up to 15 pixels but the image has 192",
    ),
    "bad counts 2": (
        {"segmentation": {"size": [12, 16], "counts": "\x01"}},
        "impossible character",
    ),
    "bad counts 3": (
        {"segmentation": {"size": [12, 16], "counts": [200, -8]}},
        "negative number",
    ),
    "size mismatch": (
        {"segmentation": {"size": [16, 12], "counts": [10, 182]}},
        r"its counts are for size \[16, 12\], the image's is \[12, 16\]",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_each_bad_annotation_is_named(tmp_path, case):
    annotation, message = BAD[case]
    coco(tmp_path, [SQUARE, annotation], images=["a"])
    with pytest.raises(SomasegError, match=rf"annotations\.json annotation 101.*: .*{message}"):
        load_dataset(tmp_path)
    reading = read_dataset(tmp_path)
    assert [fault.kind for fault in reading.faults] == [case.rstrip(" 0123456789")]
    assert len(reading.dataset["a"].instances) == 1


def test_all_bad_annotations_are_reported(tmp_path):
    coco(tmp_path, [annotation for annotation, _ in BAD.values()], images=["a"])
    with pytest.raises(SomasegError, match=f"{len(BAD)} faults in the data"):
        load_dataset(tmp_path)


def test_a_polygon_that_leaves_the_image_is_cut_off_with_a_warning(tmp_path):
    coco(tmp_path, [{"segmentation": [[10, 5, 20, 5, 20, 9, 10, 9]]}], images=["a"])
    reading = read_dataset(tmp_path)
    (fault,) = reading.faults
    assert (fault.kind, fault.severity) == ("polygon outside", "warning")
    assert "4.0 pixels beyond the image" in fault.message
    assert reading.dataset["a"].instances.boxes.tolist() == [[10, 5, 16, 9]]


def test_entries_of_images_and_categories(tmp_path):
    coco(tmp_path, [SQUARE])
    file = tmp_path / "annotations.json"
    content = json.loads(file.read_text())

    def written(**change):
        file.write_text(json.dumps(content | change))
        return load_dataset(tmp_path)

    with pytest.raises(SomasegError, match=r"image 3 \(in order\): an image needs an id"):
        written(images=[*content["images"], {"file_name": "c.png"}])
    with pytest.raises(SomasegError, match=r"image a \(id 11\) comes twice"):
        written(images=[*content["images"], content["images"][0]])
    with pytest.raises(SomasegError, match="category 2 'cell' comes twice"):
        written(categories=[{"id": 1, "name": "cell"}, {"id": 2, "name": "cell"}])
    with pytest.raises(SomasegError, match="needs an id and a name"):
        written(categories=[{"id": 1}])
    with pytest.raises(SomasegError, match=r"annotations\.json annotation 2 .*: not an annotation"):
        written(annotations=[content["annotations"][0], 5])
    with pytest.raises(SomasegError, match="expected the lists images, annotations, categories"):
        written(annotations=None)


def test_missing_images_and_sizes(tmp_path):
    coco(tmp_path, [SQUARE])
    (tmp_path / "images" / "b.png").unlink()
    write_image(tmp_path / "images" / "a.png", size=(16, 12))
    with pytest.raises(SomasegError) as caught:
        load_dataset(tmp_path)
    assert "annotated on 16×12 pixels, but a.png has 12×16" in str(caught.value)
    assert "(image b): no image b.png in" in str(caught.value)
    coco(tmp_path / "2", [SQUARE], width=None)
    assert load_dataset(tmp_path / "2")["a"].size == (12, 16), "the image says it"
    (tmp_path / "2" / "images" / "a.png").unlink()
    with pytest.raises(SomasegError, match=r"neither its size nor image a\.png"):
        load_dataset(tmp_path / "2", need_images=False)


def test_broken_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"images": [}')
    with pytest.raises(SomasegError, match=r"a\.json: not valid JSON .*line 1 column 13"):
        load_dataset(tmp_path / "a.json")
