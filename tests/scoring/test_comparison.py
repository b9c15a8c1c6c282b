import numpy as np
import pytest

from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.scoring import compare, competition_score, evaluate
from tests.scoring.strategies import dataset, instances, rectangle, stack

SIZE = (20, 30)
SQUARES = stack([rectangle(2, 2, 8, 8, SIZE), rectangle(2, 12, 8, 18, SIZE)], SIZE)
TWO = instances(SQUARES)


def test_unknown_images_are_refused():
    truth = dataset([TWO])
    with pytest.raises(SomasegError, match=r"^found\.json: image 'z' is not in truth; give the"):
        compare(truth, {"a": TWO, "z": TWO}, source="found.json")
    with pytest.raises(SomasegError, match=r"2 images \('y', …\) are not in truth"):
        compare(truth, {"a": TWO, "y": TWO, "z": TWO})


def test_unknown_images_can_be_left_out():
    comparison = compare(dataset([TWO]), {"a": TWO, "z": TWO}, ignore_unknown=True)
    assert competition_score(comparison).map == 1
    assert comparison.notes == ("predictions: image 'z' is not in truth and left out",)


def test_missing_images_count_as_empty_and_are_named():
    comparison = compare(dataset([TWO, TWO, TWO]), {"b": TWO}, source="found.json")
    assert competition_score(comparison).map == pytest.approx(1 / 3)
    assert comparison.notes == (
        "found.json: 2 images ('a', …) are missing and counted as if nothing was found",
    )


def test_images_without_annotation_are_left_out_and_named():
    samples = (*dataset([TWO]).samples, Sample("bare", SIZE))
    comparison = compare(Dataset(samples, ("cell",), "truth"), {"a": TWO, "bare": TWO})
    assert [image.id for image in comparison.images] == ["a"]
    assert comparison.notes == ("truth: image 'bare' is not annotated and left out of the score",)


def test_nothing_annotated_is_refused():
    truth = Dataset((Sample("bare", SIZE),), ("cell",), "folder")
    with pytest.raises(SomasegError, match="folder: no image is annotated"):
        compare(truth, {})


def test_other_sizes_are_refused():
    with pytest.raises(SomasegError) as caught:
        compare(dataset([TWO]), {"a": Instances.empty((40, 30))}, source="found.json")
    assert str(caught.value) == (
        "found.json: image 'a': the prediction is 30×40 pixels, the truth 30×20; "
        "predict the image as it is, or resize the masks back"
    )


def test_classes_that_the_truth_lacks_are_named():
    names = ("astro", "cort")
    truth = dataset([instances(SQUARES, classes=[0, 1], names=names)], names)
    found = instances(SQUARES, [0.9, 0.8], [0, 1], ("astro", "neuron"))
    comparison = compare(truth, {"a": found})
    assert comparison.notes == (
        "predictions: class 'neuron' (1 predictions) is none of the truth's (astro, cort); right "
        "in the score without classes, wrong in those by class: rename it",
    )
    result = evaluate(comparison)
    assert result.competition.map == 1
    assert result.competition.by_class == {"astro": 1.0, "cort": 0.0}
    assert result.coco.ap == 0.5
    assert result.coco.agnostic.precision.mean() == 1


def test_names_that_no_prediction_uses_are_not_mentioned():
    names = ("astro", "cort")
    truth = dataset([instances(SQUARES, classes=[0, 1], names=names)], names)
    found = instances(SQUARES, [0.9, 0.8], [0, 1], ("astro", "cort", "neuron"))
    assert compare(truth, {"a": found}).notes == ()


def test_with_one_class_foreign_classes_play_no_part():
    found = instances(SQUARES, [0.9, 0.8], [0, 1], ("astro", "neuron"))
    comparison = compare(dataset([TWO]), {"a": found})
    assert comparison.notes == ()
    result = evaluate(comparison)
    assert result.competition.by_class == {"cell": 1.0}
    assert result.coco.ap == 1


def test_progress_is_told_of_every_image():
    steps = []
    compare(dataset([TWO, TWO, TWO]), {}, progress=lambda: steps.append(1))
    assert len(steps) == 3


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_change_nothing(workers):
    truth = dataset([TWO, instances(SQUARES[:1]), TWO])
    found = {"a": TWO, "b": TWO, "c": instances(SQUARES[:1])}
    result = evaluate(compare(truth, found, workers=workers)).to_json()
    assert result["images"] == {"a": 1.0, "b": 0.5, "c": 0.5}


def test_predictions_without_scores_have_no_ap_but_all_else():
    result = evaluate(compare(dataset([TWO]), {"a": TWO}), with_explanation=True)
    assert result.coco is None
    assert any("same score" in note for note in result.notes)
    plain = result.to_json()
    assert (plain["map"], plain["coco_ap"], plain["coco"]) == (1.0, None, None)
    assert (plain["f1_50"], plain["pq_50"]) == (1.0, 1.0)
    assert plain["explain"]["total"]["score"] == 1.0


def test_no_truth_in_any_image_says_so():
    truth = dataset([Instances.empty(SIZE, ("cell",))])
    result = evaluate(compare(truth, {"a": TWO.with_scores([0.5, 0.6])}))
    assert result.coco is None
    assert "no truth in any image: COCO AP is undefined" in result.notes
    assert result.competition.map == 0


def test_a_class_is_its_images_and_one_without_any_is_left_out():
    names = ("a", "b", "c")
    square = np.ones((1, 4, 4), bool)
    samples = tuple(
        Sample(f"{k}", (4, 4), None, Instances.from_masks(square, names=names), label)
        for k, label in enumerate("aca")
    )
    truth = Dataset(samples, names, "truth")
    groups = compare(truth, {s.id: s.instances for s in samples}).groups
    assert {name: [image.id for image in images] for name, images in groups.items()} == {
        "a": ["0", "2"],
        "c": ["1"],
    }


def test_what_is_missing_is_warned_of_or_left_out_at_will():
    square = np.ones((1, 4, 4), bool)
    samples = tuple(Sample(k, (4, 4), None, Instances.from_masks(square)) for k in "abc")
    truth, found = Dataset(samples, (), "truth"), {"b": Instances.from_masks(square)}
    with pytest.warns(UserWarning, match="2 images .* missing and counted .* shared=True"):
        all_images = compare(truth, found)
    assert competition_score(all_images).map == pytest.approx(1 / 3)
    shared = compare(truth, found, shared=True)
    assert [image.id for image in shared.images] == ["b"]
    assert competition_score(shared).map == 1
    assert shared.notes == ("predictions: 2 images ('a', …) are missing and left out of the score",)
    with pytest.raises(SomasegError, match="no annotated image of truth is predicted"):
        compare(truth, {}, shared=True)
