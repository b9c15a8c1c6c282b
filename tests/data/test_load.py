import numpy as np
import pytest

from somaseg.data import load_dataset
from somaseg.errors import SomasegError
from tests.data.make import coco, competition, labels_folder, write_image, write_table

SQUARE = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}


def test_each_format_is_told_by_itself_and_by_name(tmp_path):
    folders = {
        "competition": competition(tmp_path / "competition", [("a", "1 2"), ("b", "1 2")]),
        "coco": coco(tmp_path / "coco", [SQUARE]),
        "labels": labels_folder(tmp_path / "labels_", {"a": np.eye(4), "b": np.eye(5)}),
        "images": tmp_path / "images_",
    }
    for name in "ab":
        write_image(folders["images"] / f"{name}.png")
    for format, folder in folders.items():
        for dataset in (load_dataset(folder), load_dataset(folder, format)):
            assert dataset.ids == ["a", "b"], format
            assert (dataset["a"].instances is None) == (format == "images")
            assert dataset["a"].image_path is not None


def test_images_alone(tmp_path):
    write_image(tmp_path / "images" / "a.tif", dtype=np.uint16)
    path = tmp_path / "images" / "a.tif"
    for given in (tmp_path, tmp_path / "images", path):
        dataset = load_dataset(given)
        assert dataset.names == ()
        assert dataset["a"].image_path == path
        assert dataset["a"].size == (12, 16)


def test_two_images_of_one_name(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "a.tif")
    with pytest.raises(SomasegError, match=r"a\.png and a\.tif are both image a; rename one"):
        load_dataset(tmp_path)


def test_train_csv_goes_before_the_sample_submission(tmp_path):
    competition(tmp_path, [("a", "1 2")], images=["a"])
    (tmp_path / "sample_submission.csv").write_text("id,predicted\nx,1 2\n")
    assert load_dataset(tmp_path).ids == ["a"]


def test_several_annotations_are_not_guessed_between(tmp_path):
    coco(tmp_path, [SQUARE])
    labels_folder(tmp_path, {"a": np.ones((12, 16)), "b": np.ones((12, 16))})
    with pytest.raises(
        SomasegError, match=r"several annotations: annotations\.json \(coco\), .* \(labels\); name"
    ):
        load_dataset(tmp_path)
    assert len(load_dataset(tmp_path, "coco")["b"].instances) == 0
    assert len(load_dataset(tmp_path, "labels")["b"].instances) == 1
    (tmp_path / "other.json").write_text((tmp_path / "annotations.json").read_text())
    with pytest.raises(SomasegError, match=r"annotations\.json and other\.json could be meant"):
        load_dataset(tmp_path, "coco")


def test_tables_and_json_of_other_kinds_do_not_disturb(tmp_path):
    coco(tmp_path, [SQUARE])
    (tmp_path / "notes.csv").write_text("id,microscope\na,1\n")
    (tmp_path / "blob.csv").write_bytes(b"\xff\x00\xff")
    (tmp_path / "folds.json").write_text('{"k": 2, "folds": {}}')
    (tmp_path / "list.json").write_text('[{"images": 1}]')
    assert load_dataset(tmp_path).ids == ["a", "b"]


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("auto", "neither annotations nor images"),
        ("competition", "no CSV with the columns id and annotation in this folder"),
        ("coco", "no COCO JSON in this folder"),
        ("labels", "no label images"),
        ("images", "neither annotations nor images"),
    ],
)
def test_an_empty_folder(tmp_path, format, message):
    with pytest.raises(SomasegError, match=f"{tmp_path.name}: {message}"):
        load_dataset(tmp_path, format)


def test_what_cannot_be_a_data_set(tmp_path):
    (tmp_path / "a.npy").touch()
    (tmp_path / "a.xlsx").touch()
    write_image(tmp_path / "a.png")
    for name, format, message in [
        ("a.npy", "auto", "NumPy files may carry code and are not read"),
        ("a.xlsx", "auto", "not known; give a folder, a CSV, a COCO JSON, or images"),
        ("nothing", "auto", "no such file or folder"),
        ("a.png", "labels", "a file; give the folder of label images"),
        ("a.png", "voc", "format 'voc': choose one of auto, competition"),
    ]:
        with pytest.raises(SomasegError, match=message):
            load_dataset(tmp_path / name, format)
    with pytest.raises(SomasegError, match="elsewhere: no such folder of images"):
        load_dataset(tmp_path / "a.png", images=tmp_path / "elsewhere")


def test_the_order_of_rows_is_the_order_of_images(tmp_path):
    write_table(tmp_path / "t.csv", [("b", "1 2"), ("a", "1 2"), ("b", "5 2"), ("c", "1 2")])
    assert load_dataset(tmp_path, need_images=False).ids == ["b", "a", "c"]
