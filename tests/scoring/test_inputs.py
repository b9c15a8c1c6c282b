import json

import cv2
import numpy as np
import pytest

from somaseg.data.formats.coco import write_annotations
from somaseg.data.formats.competition import write_training_table
from somaseg.data.formats.label_files import write_labels
from somaseg.data.formats.labels import write_label_folder
from somaseg.data.formats.results import write_results
from somaseg.data.formats.submission import write_submission
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.scoring import compare, evaluate
from somaseg.scoring.inputs import read_predictions, read_truth
from tests.scoring.strategies import instances, rectangle, stack

SIZE = (30, 44)
NAMES = ("astro", "cort")
CELLS = stack(
    [rectangle(2 + 10 * (k // 3), 2 + 12 * (k % 3), 9 + 10 * (k // 3), 11 + 12 * (k % 3), SIZE)
     for k in range(6)], SIZE,
)  # fmt: skip
TRUTH = {"one": (CELLS, "astro"), "two": (CELLS[:4], "cort"), "three": (CELLS[:0], "cort")}
#: Found: 5 of 6; 4 of 4 with one moved by a column (IoU 8/10); one where there is none.
FOUND = {
    "one": CELLS[:5],
    "two": np.concatenate([CELLS[:3], np.roll(CELLS[3:4], 1, axis=2)]),
    "three": CELLS[:1],
}
SCORE_TWO = (6 * 1 + 4 * 3 / 5) / 10  # hits all four up to 0.75, three of them above
SCORE = (5 / 6 + SCORE_TWO + 0) / 3


def truth_dataset():
    samples = []
    for name, (masks, kind) in TRUTH.items():
        cells = instances(masks, classes=NAMES.index(kind), names=NAMES)
        samples.append(Sample(name, SIZE, instances=cells, image_class=kind))
    return Dataset(tuple(samples), NAMES, "truth")


def found_instances():
    rng = np.random.default_rng(0)
    return {
        name: instances(masks, rng.random(len(masks)), NAMES.index(TRUTH[name][1]), NAMES)
        for name, masks in FOUND.items()
    }


def write_truth(folder, kind):
    dataset = truth_dataset()
    if kind == "table":
        write_training_table(folder / "train.csv", dataset)
        return folder
    if kind == "coco":
        write_annotations(folder / "annotations.json", dataset)
        return folder / "annotations.json"
    if kind == "submission":
        cells = {sample.id: sample.instances for sample in dataset}
        write_submission(folder / "truth.csv", cells)
        return folder / "truth.csv"
    write_label_folder(folder, dataset)
    return folder if kind == "labels" else folder / "labels"


def write_found(folder, kind, source=None):
    found = found_instances()
    if kind == "predict's folder":
        write_results(folder / "predictions.json", found)
        write_submission(folder / "submission.csv", found)
        return folder
    if kind == "results":
        write_results(folder / "found.json", found)
        return folder / "found.json"
    if kind == "submission":
        write_submission(folder / "found.csv", found)
        return folder / "found.csv"
    for name, cells in found.items():
        write_labels(folder / "found" / f"{name}.png", cells.to_labels())
    return folder / "found"


PAIRS = [
    (truth, predictions)
    for truth in ("table", "coco", "labels", "bare labels", "submission")
    for predictions in ("predict's folder", "results", "submission", "bare")
    if not truth == predictions == "submission"  # sizes known to neither: refused, see below
]


@pytest.mark.parametrize(("truth", "predictions"), PAIRS)
def test_every_format_gives_the_same_score(tmp_path, truth, predictions):
    truth_path = write_truth(tmp_path / "truth", truth)
    found_path = write_found(tmp_path / "found", predictions)
    dataset = read_truth(truth_path, found_path)
    result = evaluate(compare(dataset, read_predictions(found_path, dataset)))
    assert result.competition.map == pytest.approx(SCORE, abs=1e-12)
    if truth in ("table", "coco", "labels"):
        assert result.competition.by_class == {
            "astro": pytest.approx(5 / 6),
            "cort": pytest.approx(SCORE_TWO / 2),
        }
    has_scores = predictions in ("predict's folder", "results")
    assert (result.coco is not None) == has_scores


def test_results_with_the_numbers_of_a_coco_file(tmp_path):
    source = write_truth(tmp_path, "coco")
    write_results(tmp_path / "found.json", found_instances(), source)
    numbers = {entry["image_id"] for entry in json.loads((tmp_path / "found.json").read_text())}
    assert numbers == {1, 2, 3}
    dataset = read_truth(source)
    result = evaluate(compare(dataset, read_predictions(tmp_path / "found.json", dataset)))
    assert result.competition.map == pytest.approx(SCORE, abs=1e-12)


def test_a_data_set_against_itself(tmp_path):
    path = write_truth(tmp_path, "table")
    dataset = read_truth(path)
    comparison = compare(dataset, read_predictions(path, dataset))
    assert evaluate(comparison).competition.map == 1
    assert comparison.notes == ()


def test_images_that_results_do_not_mention_are_named_where_cells_were_to_be_found(tmp_path):
    found = found_instances()
    del found["two"], found["three"]
    write_results(tmp_path / "found.json", found)
    dataset = truth_dataset()
    predictions = read_predictions(tmp_path / "found.json", dataset)
    notes = compare(dataset, predictions).notes
    assert notes == ("predictions: image 'two' is missing and counted as if nothing was found",)


@pytest.mark.parametrize("kind", ["results", "submission", "bare"])
def test_unknown_images(tmp_path, kind):
    path = write_found(tmp_path, kind)
    dataset = truth_dataset().subset(["one", "two"])
    with pytest.raises(SomasegError) as caught:
        compare(dataset, read_predictions(path, dataset), source=str(path))
    assert str(caught.value) == (
        f"{path}: image 'three' is not in truth; give the data set they belong to, "
        "or leave them out with --ignore-unknown"
    )
    known = read_predictions(path, dataset, ignore_unknown=True)
    assert set(known) == {"one", "two"}
    assert evaluate(compare(dataset, known)).competition.map == pytest.approx(
        (5 / 6 + SCORE_TWO) / 2
    )


def test_a_submission_without_classes_is_of_no_class(tmp_path):
    dataset = truth_dataset()
    comparison = compare(dataset, read_predictions(write_found(tmp_path, "submission"), dataset))
    assert comparison.names == NAMES
    assert comparison.notes == (
        "predictions: no classes; what needs the class of each cell is left out",
    )


def results_with(tmp_path, **change):
    write_results(tmp_path / "found.json", found_instances())
    entries = json.loads((tmp_path / "found.json").read_text())
    for key, value in change.items():
        if value is None:
            del entries[2][key]
        else:
            entries[2][key] = value
    (tmp_path / "found.json").write_text(json.dumps(entries))
    return tmp_path / "found.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": None}, "entry 3 (image one): its score is None"),
        ({"score": float("nan")}, "entry 3 (image one): its score is nan"),
        ({"score": "high"}, "entry 3 (image one): its score is 'high'"),
        ({"segmentation": {"size": [9, 9], "counts": "11"}}, "size [9, 9]"),
    ],
)
def test_faulty_results_are_named_by_entry(tmp_path, change, message):
    path = results_with(tmp_path, **change)
    with pytest.raises(SomasegError) as caught:
        read_predictions(path, truth_dataset())
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_that_the_truth_lacks_is_named(tmp_path):
    path = results_with(tmp_path, category="neuron")
    dataset = truth_dataset()
    notes = compare(dataset, read_predictions(path, dataset)).notes
    assert len(notes) == 1
    assert "class 'neuron' (1 predictions) is none of the truth's (astro, cort)" in notes[0]


def test_label_images_of_another_size(tmp_path):
    write_labels(tmp_path / "one.png", np.ones((10, 12), np.int32))
    dataset = truth_dataset()
    found = read_predictions(tmp_path, dataset)
    with pytest.raises(
        SomasegError, match="image 'one': the prediction is 12×10 pixels, the truth"
    ):
        compare(dataset, found)


def test_photographs_are_not_taken_for_label_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 60, (80, 90)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "one.png"), noise)
    with pytest.raises(
        SomasegError, match=r"image 'one' looks like a photograph, not like a label"
    ):
        read_predictions(tmp_path, truth_dataset())


def test_a_submission_as_truth_whose_sizes_nobody_knows(tmp_path):
    truth = write_truth(tmp_path, "submission")
    with pytest.raises(SomasegError, match=r"truth\.csv: says nowhere how large its images"):
        read_truth(truth, truth)


def test_empty_results_are_no_truth(tmp_path):
    (tmp_path / "found.json").write_text("[]")
    with pytest.raises(SomasegError, match="an empty list of results"):
        read_truth(tmp_path / "found.json")


def test_results_as_truth(tmp_path):
    path = write_found(tmp_path, "results")
    dataset = read_truth(path)
    assert evaluate(compare(dataset, read_predictions(path, dataset))).competition.map == 1


@pytest.mark.parametrize(
    "reader", [read_truth, lambda path: read_predictions(path, truth_dataset())]
)
def test_nothing_there(tmp_path, reader):
    with pytest.raises(SomasegError, match="no such file or folder"):
        reader(tmp_path / "nowhere")
