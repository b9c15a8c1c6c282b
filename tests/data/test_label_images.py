import cv2
import numpy as np
import pytest
import tifffile

from somaseg.data import load_dataset, read_dataset
from somaseg.data.formats.labels import without_ending
from somaseg.errors import SomasegError
from tests.data.make import labels_folder, write_image

LABELS = np.zeros((12, 16), int)
LABELS[1:4, 2:6] = 7
LABELS[6:9, 9:15] = 300
LABELS[10, 0] = 301


def test_images_and_labels(tmp_path):
    labels_folder(tmp_path, {"a": LABELS, "b": np.zeros((5, 6))})
    dataset = load_dataset(tmp_path)
    assert dataset.ids == ["a", "b"]
    assert dataset.names == ("cell",)
    assert dataset.image_classes == {"a": "cell", "b": "cell"}
    found = dataset["a"].instances
    for i, value in enumerate([7, 300, 301]):
        np.testing.assert_array_equal(found.mask(i), value == LABELS)
    assert len(dataset["b"].instances) == 0
    assert dataset["a"].image_path == tmp_path / "images" / "a.png"
    assert read_dataset(tmp_path).rows["a"] == ["label 7", "label 300", "label 301"]


@pytest.mark.parametrize("ending", ["_masks", "_mask", "_cp_masks", "_labels", "_label", "_seg"])
def test_pairs_side_by_side(tmp_path, ending):
    image = write_image(tmp_path / "a.tif", dtype=np.uint16)
    write_image(tmp_path / "unpaired.tif")
    tifffile.imwrite(tmp_path / f"a{ending}.tif", LABELS.astype(np.uint16))
    reading = read_dataset(tmp_path)
    assert reading.dataset.ids == ["a"]
    np.testing.assert_array_equal(reading.dataset["a"].image(), image)
    (fault,) = reading.faults
    assert (fault.kind, fault.image) == ("image without annotation", "unpaired")
    assert without_ending(f"a{ending}") == "a"


def test_masks_folder_with_endings_and_a_classes_file(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "masks" / f"{name}_masks.tif", LABELS.astype(np.int32))
    (tmp_path / "classes.csv").write_text("id,class,group\na,cort,dish 1\nb,astro,\n")
    dataset = load_dataset(tmp_path)
    assert dataset.names == ("astro", "cort")
    assert dataset.image_classes == {"a": "cort", "b": "astro"}
    assert dataset["a"].instances.classes.tolist() == [1, 1, 1]
    assert [sample.group for sample in dataset] == ["dish 1", None]


def test_classes_and_scores_of_cells(tmp_path):
    labels_folder(tmp_path, {"a": LABELS})
    table = "id,label,class,score\na,300,astro,0.25\na,7,cort,0.5\n"
    (tmp_path / "instances.csv").write_text(table + "a,301,cort,\n")
    found = load_dataset(tmp_path)["a"].instances
    assert [found.names[k] for k in found.classes] == ["cort", "astro", "cort"]
    assert found.scores.tolist() == [0.5, 0.25, 1.0]
    assert load_dataset(tmp_path)["a"].image_class is None


def test_a_lone_folder_of_labels_is_enough_to_score(tmp_path):
    labels_folder(tmp_path, {"a": LABELS}, images=False)
    for path in (tmp_path, tmp_path / "labels"):
        dataset = load_dataset(path, "labels", need_images=False)
        assert dataset["a"].image_path is None
        assert len(dataset["a"].instances) == 3
    with pytest.raises(SomasegError, match="no image a in"):
        load_dataset(tmp_path)


def test_the_labels_folder_itself_finds_images_beside_it(tmp_path):
    labels_folder(tmp_path, {"a": LABELS})
    dataset = load_dataset(tmp_path / "labels", "labels")
    assert dataset["a"].image_path == tmp_path / "images" / "a.png"


def test_size_mismatch_names_both(tmp_path):
    labels_folder(tmp_path, {"a": LABELS})
    write_image(tmp_path / "images" / "a.png", size=(16, 12))
    with pytest.raises(SomasegError, match=r"annotated on 16×12 pixels, but a\.png has 12×16"):
        load_dataset(tmp_path)


def test_unreadable_labels_are_all_named(tmp_path):
    labels_folder(tmp_path, {"a": LABELS, "b": LABELS, "c": LABELS})
    (tmp_path / "labels" / "a.png").write_bytes(b"")
    colours = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "labels" / "b.png"), colours)
    with pytest.raises(SomasegError) as caught:
        load_dataset(tmp_path)
    assert "a.png (image a): empty file" in str(caught.value)
    assert "b.png (image b): a label image has one channel, this has 3" in str(caught.value)
    assert read_dataset(tmp_path).dataset.ids == ["c"]


def test_two_label_images_for_one_image(tmp_path):
    write_image(tmp_path / "a.png")
    for ending in ("_masks", "_seg"):
        tifffile.imwrite(tmp_path / f"a{ending}.tif", LABELS.astype(np.uint16))
    with pytest.raises(SomasegError, match=r"a_masks\.tif and a_seg\.tif both label image a"):
        load_dataset(tmp_path)


def test_a_foreground_mask_is_no_label_image(tmp_path):
    mask = (LABELS > 0) * 255
    mask[0, ::6] = 255  # three more areas
    labels_folder(tmp_path, {"a": mask, "b": LABELS * 0})
    with pytest.raises(SomasegError, match="one number for 5 separate areas: a foreground mask"):
        load_dataset(tmp_path)
    labels_folder(tmp_path, {"b": LABELS})  # one image in pieces among others is a cell in pieces
    assert len(load_dataset(tmp_path)["a"].instances) == 1
    labels_folder(tmp_path / "single", {"a": LABELS > 0})  # a single broken cell
    assert len(load_dataset(tmp_path / "single")["a"].instances) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.csv", "id,kind\na,x\n", r"classes\.csv: lacks the column 'class'"),
        ("classes.csv", "id,class\na,x\na,y\n", r"classes\.csv line 3 .*: the image comes twice"),
        ("classes.csv", "id,class\n,x\na,x\n", r"classes\.csv line 2: no image id"),
        ("classes.csv", "id,class\na,x\nz,x\n", r"classes\.csv \(image z\): .*not there"),
        ("classes.csv", "id,class\na,\nb,x\n", r"3 cells \(first: label 7\) are of no class"),
        ("instances.csv", "id,label\na,seven\n", r"instances\.csv line 2 .*is no number"),
        ("instances.csv", "id,label\na,7\na,7\n", r"instances\.csv line 3 .*label 7 comes twice"),
        ("instances.csv", "id,label\na,8\n", r"instances\.csv: label 8 is not in"),
        ("instances.csv", "id,label,score\na,7,nan\n", r"instances\.csv line 2 .*is no number"),
        ("instances.csv", "id,class\na,x\n", r"instances\.csv: lacks the column 'label'"),
    ],
)
def test_faults_of_the_tables(tmp_path, name, text, message):
    labels_folder(tmp_path, {"a": LABELS, "b": LABELS * 0})
    (tmp_path / name).write_text(text)
    with pytest.raises(SomasegError, match=message):
        load_dataset(tmp_path)


def test_no_labels_at_all(tmp_path):
    (tmp_path / "labels").mkdir()
    with pytest.raises(SomasegError, match=r"labels: no label images \(PNG or TIFF\)"):
        load_dataset(tmp_path)
