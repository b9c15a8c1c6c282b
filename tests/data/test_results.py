import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from somaseg.data import Dataset, Sample, load_dataset
from somaseg.data.formats.results import is_results_file, read_results, unknown_images
from somaseg.errors import SomasegError
from tests.data.make import coco

SQUARE = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
MASK = np.asfortranarray(np.random.default_rng(0).random((12, 16)) < 0.3, np.uint8)
RLE = {"size": [12, 16], "counts": coco_mask.encode(MASK)["counts"].decode()}
ENTRY = {"image_id": "a", "category_id": 1, "segmentation": RLE, "score": 0.75}
IMAGES = Dataset((Sample("a", (12, 16)), Sample("b", (12, 16))), ("astro", "cort"), "here")


def written(tmp_path, entries):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(entries))
    return path


def test_for_the_images_of_a_data_set(tmp_path):
    named = ENTRY | {"category_id": 1, "category": "cort", "score": 0.5}
    found = read_results(written(tmp_path, [ENTRY, named]), IMAGES)
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"].mask(0), MASK)
    assert found["a"].names == ("astro", "cort")
    assert found["a"].classes.tolist() == [0, 1], "the name goes before the number"
    assert found["a"].scores.tolist() == [0.75, 0.5]
    assert len(found["b"]) == 0


def test_by_the_numbers_of_the_coco_file_that_was_read(tmp_path):
    coco(tmp_path, [SQUARE], categories=("neuron", "astro"))
    dataset = load_dataset(tmp_path)
    entries = [ENTRY | {"image_id": 12, "category_id": 2}, ENTRY]
    found = read_results(written(tmp_path, entries), dataset)
    assert found["b"].classes.tolist() == [1]
    assert len(found["a"]) == 1, "our own id is understood as well"


def test_without_a_data_set(tmp_path):
    entries = [ENTRY | {"image_id": 7, "category": "cort"}, ENTRY | {"category": "astro"}]
    found = read_results(written(tmp_path, entries))
    assert list(found) == ["7", "a"]
    assert found["7"].size == (12, 16)
    assert found["7"].names == ("astro", "cort")
    assert found["7"].classes.tolist() == [1]
    assert read_results(written(tmp_path, [])) == {}


def test_number_zero_is_no_class(tmp_path):
    path = written(tmp_path, [ENTRY | {"category_id": 0}])
    assert read_results(path, IMAGES)["a"].classes.tolist() == [-1]
    assert read_results(path)["a"].classes.tolist() == [-1]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (5, "not an object with image_id, segmentation and score"),
        (ENTRY | {"image_id": "z"}, "its image_id 'z' is none of the images predicted"),
        (ENTRY | {"image_id": [1]}, "its image_id .* is none of the images predicted"),
        (ENTRY | {"category_id": 9}, "its class 9 is none of astro, cort"),
        (ENTRY | {"score": None}, "its score is None, not a number"),
        (ENTRY | {"score": float("nan")}, "its score is nan, not a number"),
        (ENTRY | {"segmentation": {"size": [12, 16], "counts": "0"}}, "sum up to 0 pixels"),
        (ENTRY | {"segmentation": {"size": [16, 12], "counts": ""}}, "the image's is"),
        (ENTRY | {"segmentation": None}, "no segmentation"),
    ],
)
def test_each_fault_names_its_entry(tmp_path, entry, message):
    path = written(tmp_path, [ENTRY, entry])
    with pytest.raises(SomasegError, match=rf"predictions\.json entry 2.*{message}"):
        read_results(path, IMAGES)


def test_polygons_need_a_size_from_somewhere(tmp_path):
    path = written(tmp_path, [ENTRY | SQUARE | {"image_id": "b"}])
    assert read_results(path, IMAGES)["b"].areas.tolist() == [12]
    with pytest.raises(SomasegError, match=r"entry 1 .*polygons without a size of the image"):
        read_results(path)


def test_images_that_were_not_asked_for(tmp_path):
    path = written(tmp_path, [ENTRY, ENTRY | {"image_id": "z"}])
    assert unknown_images(path, IMAGES) == ["z"]
    assert len(read_results(path, IMAGES, ignore_unknown=True)["a"]) == 1


def test_what_is_no_results_file(tmp_path):
    path = written(tmp_path, {"images": []})
    assert not is_results_file(path)
    with pytest.raises(SomasegError, match=r"predictions\.json: not COCO results; expected a list"):
        read_results(path, IMAGES)
    assert is_results_file(written(tmp_path, []))
    assert not is_results_file(tmp_path)
    assert not is_results_file(tmp_path / "nothing.json")


def test_results_may_be_held_against_results(tmp_path):
    path = written(tmp_path, [ENTRY])
    (a,) = read_results(path).values()
    dataset = Dataset((Sample("a", a.size, instances=a),), a.names, str(path))
    assert len(read_results(path, dataset)["a"]) == 1


@pytest.mark.parametrize("image", [{"a": 1}, [1], None, 1.5, True])
def test_an_id_that_is_none_is_a_fault_of_its_row(tmp_path, image):
    runs = {"size": [3, 4], "counts": [5, 5, 2]}
    path = tmp_path / "r.json"
    path.write_text(json.dumps([{"image_id": image, "category_id": 1, "segmentation": runs}]))
    with pytest.raises(SomasegError, match=r"r\.json entry 1"):
        read_results(path)


def test_a_size_that_only_the_list_claims_is_held_against_the_limit(tmp_path):
    wide = {"size": [60_000, 60_000], "counts": [5, 5, 60_000**2 - 10]}
    path = tmp_path / "r.json"
    entry = {"image_id": "a", "category_id": 1, "score": 0.5, "segmentation": wide}
    path.write_text(json.dumps([entry]))
    with pytest.raises(SomasegError, match="claims 60000×60000 pixels, more than"):
        read_results(path)
    path.write_text(json.dumps([{**entry, "segmentation": {"size": [-1, 5], "counts": [5]}}]))
    with pytest.raises(SomasegError, match="claims 5×-1 pixels"):
        read_results(path)
