import pytest
from scipy import ndimage

from somaseg.data.audit import audit
from somaseg.data.faults import KINDS
from somaseg.errors import SomasegError
from tests.data.make import SIZE, coco, competition, labels_folder, masks_of, write_image


def kinds(report):
    return {kind: count for kind, count in report.counts.items() if count}


def test_sound_data_has_no_faults(tmp_path):
    competition(tmp_path, [("a", "1 2 17 2"), ("b", "1 2")])
    report = audit(tmp_path)
    assert report.faults == ()
    assert report.errors == []
    assert len(report.dataset) == 2


def test_every_fault_of_a_broken_set_is_in_one_table(tmp_path):
    rows = [
        ("a", "1 4"),
        ("a", "1 4"),  # line 3: duplicate
        ("a", "1 3"),  # line 4: near-duplicate of both
        ("a", "33 3 49 1 51 1 65 3"),  # line 5: a ring
        ("a", "97 1 99 1"),  # line 6: two pieces
        ("a", "1 2 3"),  # line 7: odd
        ("a", "192 5"),  # line 8: outside
        ("a", ""),  # line 9: empty
        ("b", ""),  # line 10: an image without cells
        ("missing", "1 2"),  # line 11
        "c,1 2,16,12,",  # line 12: of no class
        ("small", "1 2"),  # line 13: another size
        ("cut", "1 2"),  # line 14: cannot be decoded
    ]
    competition(tmp_path, rows, images=["a", "b", "c", "cut", "extra"])
    write_image(tmp_path / "train" / "small.png", size=(5, 6))
    cut = tmp_path / "train" / "cut.png"
    cut.write_bytes(cut.read_bytes()[:60])
    report = audit(tmp_path)
    assert kinds(report) == {
        "missing image": 1,
        "unreadable image": 1,
        "size mismatch": 1,
        "odd count": 1,
        "run outside": 1,
        "empty mask": 1,
        "unknown class": 1,
        "image without annotation": 1,
        "image without cells": 1,
        "duplicate mask": 1,
        "near-duplicate mask": 2,
        "overlap": 1,
        "pieces": 1,
        "holes": 1,
    }
    where = {fault.kind: (fault.row, fault.image, fault.instance) for fault in report.faults}
    assert where["duplicate mask"] == ("line 3", "a", 1)
    assert where["near-duplicate mask"] == ("line 4", "a", 2)
    assert where["holes"] == ("line 5", "a", 3)
    assert where["pieces"] == ("line 6", "a", 4)
    assert where["odd count"] == ("line 7", "a", None)
    assert where["run outside"] == ("line 8", "a", None)
    assert where["empty mask"] == ("line 9", "a", None)
    assert where["unreadable image"] == (None, "cut", None)
    severities = [fault.severity for fault in report.faults]
    assert severities == sorted(severities), "errors come first"
    assert len(report.errors) == 7


def test_messages_carry_the_figures(tmp_path):
    competition(tmp_path, [("a", "1 4"), ("a", "2 4"), ("a", "33 3 49 1 51 1 65 3")], images=["a"])
    messages = {fault.kind: fault.message for fault in audit(tmp_path).faults}
    assert messages["near-duplicate mask"] == "IoU 0.60 with line 2; keep the better one"
    assert messages["overlap"] == "3 pixels, 23.08% of the foreground, belong to several instances"
    assert messages["holes"] == "holes of 1 pixels in a mask of 8"


def test_pieces_touch_by_corners_as_scipy_has_it(tmp_path):
    """Masks joined by a corner are one piece; what can be left through a corner is no hole."""
    runs = ["1 2 19 2", "1 2 20 2", "2 1 17 1 19 1 34 1", "3 1 18 1 20 1 35 1 37 9"]
    competition(tmp_path, [("a", text) for text in runs], images=["a"])
    report = audit(tmp_path)
    masks = masks_of(report.dataset["a"].instances)
    for kind, expected in {
        "pieces": [i for i, m in enumerate(masks) if ndimage.label(m, [[1] * 3] * 3)[1] > 1],
        "holes": [i for i, m in enumerate(masks) if ndimage.binary_fill_holes(m).sum() > m.sum()],
    }.items():
        assert [f.instance for f in report.faults if f.kind == kind] == expected
        assert expected


def test_coco_and_label_images_are_audited_too(tmp_path):
    ring = {"size": list(SIZE), "counts": [0, 3, 9, 1, 1, 1, 9, 3, 165]}
    square = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
    coco(tmp_path / "coco", [{"segmentation": ring}, square, square, {"category_id": 9} | square])
    report = audit(tmp_path / "coco")
    assert kinds(report) == {
        "unknown class": 1,
        "image without cells": 1,
        "duplicate mask": 1,
        "overlap": 1,
        "holes": 1,
    }
    rows = {fault.kind: fault.row for fault in report.faults}
    assert rows["holes"] == "annotation 100"
    assert rows["duplicate mask"] == "annotation 102"

    labels = [[5, 0, 5, 7], [0, 0, 0, 7]]
    labels_folder(tmp_path / "labels", {"a": labels})
    report = audit(tmp_path / "labels")
    assert kinds(report) == {"pieces": 1}
    assert report.faults[0].row == "label 5"
    assert report.faults[0].file.endswith("a.png")


def test_a_file_that_cannot_be_read_at_all_is_a_fault(tmp_path):
    (tmp_path / "train.csv").write_text("this is no table\n")
    report = audit(tmp_path)
    (fault,) = report.errors
    assert fault.kind == "unreadable file"
    assert "expected id and annotation" in fault.message
    with pytest.raises(SomasegError, match="no such file or folder"):
        audit(tmp_path / "nowhere")


def test_an_image_whose_rows_are_all_faulty_is_not_called_empty(tmp_path):
    competition(tmp_path, [("a", "1 2 3")], images=["a"])
    assert kinds(audit(tmp_path)) == {"odd count": 1}


def test_images_alone_cannot_be_trained_on(tmp_path):
    write_image(tmp_path / "a.png")
    report = audit(tmp_path)
    assert [fault.kind for fault in report.errors] == ["no annotation"]


def test_without_images_only_annotations_are_judged(tmp_path):
    competition(tmp_path, [("a", "1 2"), ("missing", "1 2")], images=["a"])
    cut = tmp_path / "train" / "a.png"
    cut.write_bytes(cut.read_bytes()[:60])
    assert audit(tmp_path, need_images=False).faults == ()
    assert len(audit(tmp_path).errors) == 2


def test_errors_are_listed_before_warnings():
    severities = list(KINDS.values())
    assert severities == sorted(severities)
