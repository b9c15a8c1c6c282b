import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from somaseg.data import Dataset, Sample, load_dataset
from somaseg.data.formats.competition import write_training_table
from somaseg.data.formats.submission import (
    Row,
    check_submission,
    read_rows,
    write_submission,
)
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from tests.data.make import SIZE, assert_same, datasets, instances, masks_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@settings(max_examples=60, deadline=None)
@given(dataset=datasets())
def test_the_training_table_comes_back(folder, dataset):
    write_training_table(folder / "train.csv", dataset)
    again = load_dataset(folder / "train.csv", need_images=False)
    if set(dataset.names) - set(again.names):
        assert not any(len(s.instances) for s in dataset if s.image_class not in again.names)
    assert again.names == dataset.names
    assert_same(dataset, again)


def test_a_table_has_one_class_an_image(tmp_path):
    mixed = Instances.from_runs((2, 4), ["1 2", "5 1"], classes=[0, 1], names=("x", "y"))
    dataset = Dataset((Sample("a", (2, 4), None, mixed),), ("x", "y"), "here")
    with pytest.raises(SomasegError, match=r"t\.csv: image a holds cells of x, y, but this table"):
        write_training_table(tmp_path / "t.csv", dataset)
    assert not (tmp_path / "t.csv").exists()


def runs_by_hand(mask):
    """Runs of one mask, pixel by pixel."""
    runs, before = [], False
    for number, pixel in enumerate(mask.ravel(), start=1):
        if pixel and not before:
            runs.append([number, 0])
        if pixel:
            runs[-1][1] += 1
        before = pixel
    return " ".join(f"{start} {length}" for start, length in runs)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), instances(), min_size=1))
def test_a_submission_holds_the_masks_and_passes_its_own_check(predictions):
    import tempfile
    from pathlib import Path

    settled = {name: found.disjoint()[0] for name, found in predictions.items()}
    ids = sorted(settled)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        count = write_submission(path, settled, ids)
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["id", "predicted"]
        expected = [
            [name, text]
            for name in ids
            for text in [runs_by_hand(mask) for mask in masks_of(settled[name])] or [""]
        ]
        assert rows[1:] == expected
        assert count == len(expected)
        sizes = dict.fromkeys(ids, SIZE)
        assert check_submission(read_rows(path), sizes, ids) == []


@settings(max_examples=60, deadline=None)
@given(instances())
def test_shared_pixels_are_counted_as_by_painting(found):
    claims = masks_of(found).sum(0) if len(found) else np.zeros(SIZE, int)
    rows = [Row(f"line {i + 2}", "a", text) for i, text in enumerate(found.to_runs() or [""])]
    problems = check_submission(rows, {"a": SIZE}, ["a"])
    shared = int((claims > 1).sum())
    if not shared:
        assert problems == []
    else:
        (problem,) = problems
        assert problem.startswith(f"image a: {shared} pixels belong to several of its instances")
        masks = masks_of(found)
        involved = [f"line {i + 2}" for i, m in enumerate(masks) if (claims[m] > 1).any()]
        assert f"({', '.join(involved[:4])}" in problem


def rows_of(*pairs):
    return [Row(f"line {i + 2}", name, runs) for i, (name, runs) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (rows_of(("a", "1 2")), "image b is missing; give it a row with an empty cell"),
        (
            rows_of(("a", "1 2"), ("b", ""), ("z", "1 2")),
            "line 4: image 'z' is not one of those asked for",
        ),
        (rows_of(("a", "1 2"), ("a", ""), ("b", "")), "line 3 .*: an empty row beside others"),
        (rows_of(("a", "9 2 1 2"), ("b", "")), r"line 2 \(image a\): its runs are not sorted"),
        (rows_of(("a", "192 2"), ("b", "")), r"line 2 .*: run 192 2 ends outside the image"),
        (rows_of(("a", "1 2 3"), ("b", "")), "line 2 .*: 3 numbers, an odd count"),
        (rows_of(("a", "1 -2"), ("b", "")), "line 2 .*: run 1 -2: a length is at least 1"),
        (rows_of(("a", "1 x"), ("b", "")), "line 2 .*: 'x' .* is not a whole number"),
        (
            rows_of(("a", "1 4"), ("a", "9 1 4 2"), ("b", "")),
            "line 3 .*: its runs are not sorted",
        ),
        (
            rows_of(("a", "1 4"), ("a", "4 2"), ("a", "9 1"), ("b", "")),
            r"image a: 1 pixels belong to several of its instances \(line 2, line 3\)",
        ),
    ],
)
def test_each_problem_is_named(rows, problem):
    found = check_submission(rows, {"a": SIZE, "b": SIZE}, ["a", "b"])
    with pytest.raises(SomasegError, match=problem):
        raise SomasegError(found[0])


def test_nothing_is_written_unless_all_is_well(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("the last one")
    overlapping = Instances.from_runs(SIZE, ["1 4", "4 2"])
    with pytest.raises(SomasegError, match=r"submission\.csv: not written: image a: 1 pixels"):
        write_submission(path, {"a": overlapping})
    with pytest.raises(SomasegError, match=r"not written, 2 problems:\n  image b is missing"):
        write_submission(path, {"a": overlapping}, ["a", "b"])
    with pytest.raises(SomasegError, match="image 'a' is not one of those asked for"):
        write_submission(path, {"a": Instances.empty(SIZE)}, [])
    soft = overlapping.replace(soft=True)
    with pytest.raises(SomasegError, match="soft masks have no runs"):
        write_submission(path, {"a": soft})
    assert path.read_text() == "the last one"


def test_long_lists_of_problems_are_cut(tmp_path):
    with pytest.raises(SomasegError) as caught:
        write_submission(tmp_path / "s.csv", {}, [f"{n:02d}" for n in range(30)])
    lines = str(caught.value).splitlines()
    assert "30 problems" in lines[0]
    assert len(lines) == 22
    assert lines[-1] == "  … and 10 more"


def test_images_without_instances_keep_a_row_in_the_order_asked_for(tmp_path):
    predictions = {"a": Instances.from_runs(SIZE, ["1 2", "5 1"]), "b": Instances.empty(SIZE)}
    assert write_submission(tmp_path / "s.csv", predictions, ["b", "a"]) == 3
    assert (tmp_path / "s.csv").read_text() == "id,predicted\nb,\na,1 2\na,5 1\n"


def test_other_tables_are_no_submission(tmp_path):
    (tmp_path / "t.csv").write_text("id,annotation\na,1 2\n")
    with pytest.raises(SomasegError, match=r"t\.csv: has the columns id, annotation; a submission"):
        read_rows(tmp_path / "t.csv")
