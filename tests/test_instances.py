import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from somaseg.errors import SomasegError
from somaseg.instances import Instances
from tests.masks.strategies import blobs, full, is_tight, loose, stacks


def three(**fields):
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :2, :2], masks[1, 1:3, 1:5], masks[2, 3, 5] = True, True, True
    fields = {"scores": [0.5, 0.9, 0.1], "classes": [0, 1, -1], "names": ("a", "b")} | fields
    return Instances.from_masks(masks, **fields)


def parts(x):
    return (
        x.size,
        x.boxes.tolist(),
        x.pixels.tolist(),
        x.offsets.tolist(),
        x.scores.tolist(),
        x.classes.tolist(),
        x.names,
        x.soft,
    )


def test_fields_have_their_types():
    x = three()
    assert (len(x), x.size, x.names, x.soft) == (3, (4, 6), ("a", "b"), False)
    kinds = [x.boxes.dtype, x.pixels.dtype, x.offsets.dtype, x.scores.dtype, x.classes.dtype]
    assert kinds == [np.int32, np.uint8, np.int64, np.float32, np.int16]
    assert x.boxes.tolist() == [[0, 0, 2, 2], [1, 1, 5, 3], [5, 3, 6, 4]]
    assert x.areas.tolist() == [4, 8, 1]
    assert x.crop(1).shape == (2, 4)
    assert x.crop(-1).tolist() == [[1]]
    assert np.shares_memory(x.crop(0), x.pixels)
    assert x.mask(2).sum() == x.mask(2)[3, 5] == 1


def test_scores_and_classes_by_default():
    masks = np.ones((2, 3, 3), bool)
    assert Instances.from_masks(masks).scores.tolist() == [1, 1]
    assert Instances.from_masks(masks).classes.tolist() == [-1, -1]
    assert Instances.from_masks(masks, names=("cell",)).classes.tolist() == [0, 0]
    assert Instances.from_masks(masks, names=("a", "b")).classes.tolist() == [-1, -1]
    x = Instances.from_masks(masks, scores=0.25, classes=1, names=["a", "b"])
    assert (x.scores.tolist(), x.classes.tolist(), x.names) == ([0.25] * 2, [1, 1], ("a", "b"))


@given(stacks())
def test_full_masks_both_ways(masks):
    x = Instances.from_masks(masks)
    assert is_tight(x.flat, x.size)
    assert all((x.mask(i) == mask).all() for i, mask in enumerate(masks))
    again = Instances.from_crops(x.size, x.boxes, [x.crop(i) for i in range(len(x))])
    assert parts(again) == parts(x)


@given(loose(), st.data())
def test_an_index_takes_the_same_rows_of_every_field(case, data):
    x, values = case
    n = len(x)
    index = data.draw(
        st.one_of(
            st.slices(n),
            st.lists(st.booleans(), min_size=n, max_size=n).map(lambda b: np.array(b, bool)),
            *([st.lists(st.integers(-n, n - 1)), st.integers(-n, n - 1)] if n else [st.just([])]),
        )
    )
    plain = np.array(index, int) if isinstance(index, list) else index
    rows = np.atleast_1d(np.arange(n)[plain])
    taken = x[index]
    assert (full(taken.flat, x.size) == values[rows]).all()
    assert (taken.scores == x.scores[rows]).all()
    assert (taken.classes == x.classes[rows]).all()
    assert (taken.size, taken.names, taken.soft) == (x.size, x.names, x.soft)
    # Not checked when taken: so check here that it is sound.
    assert parts(taken.replace()) == parts(taken)


def test_rows_one_by_one():
    x = three()
    assert [one.areas.tolist() for one in x] == [[4], [8], [1]]
    assert x[np.int64(1)].classes.tolist() == [1]
    assert len(x[:0]) == len(x[[]]) == len(x[np.zeros(3, bool)]) == 0
    assert x[::-1].areas.tolist() == [1, 8, 4]
    assert x[2:1].areas.tolist() == []
    for wrong in (3, -4, [3], np.zeros(2, bool), np.zeros((3, 1), bool), [0.5], [[0, 1]], "a"):
        with pytest.raises(IndexError):
            x[wrong]


def test_concat_merges_names_by_name():
    one = three()[[0, 1]]
    two = three(names=("b", "c"), classes=[0, 1, -1])
    both = Instances.concat([one, two, Instances.empty((4, 6), ("d",), soft=True)])
    assert both.names == ("a", "b", "c", "d")
    assert both.classes.tolist() == [0, 1, 1, 2, -1]
    assert both.areas.tolist() == [4, 8, 4, 8, 1]
    assert both.offsets.tolist() == [0, 4, 12, 16, 24, 25]
    assert not both.soft
    assert both.scores.tolist() == pytest.approx([0.5, 0.9, 0.5, 0.9, 0.1])


@given(st.lists(loose(), min_size=1, max_size=4))
def test_concat_of_parts_is_the_whole(cases):
    x, _ = cases[0]
    for cut in range(len(x) + 1):
        assert parts(Instances.concat([x[:cut], x[cut:]])) == parts(x)


def test_concat_refuses_what_does_not_join():
    x = three()
    soft = Instances.from_masks(np.full((1, 4, 6), 9, np.uint8), soft=True)
    for wrong, reason in (
        ([], "nothing to join"),
        ([x, Instances.empty((4, 7))], "images of different sizes do not join"),
        ([x, soft], "soft and hard masks do not join"),
    ):
        with pytest.raises(SomasegError, match=reason):
            Instances.concat(wrong)
    assert Instances.concat([Instances.empty((4, 6)), soft]).soft


def test_rename_keeps_the_class_of_each():
    x = three().rename(("c", "b", "a"))
    assert x.classes.tolist() == [2, 1, -1]
    assert three()[1:].rename(["b"]).classes.tolist() == [0, -1]
    with pytest.raises(SomasegError, match=r"class 'a' is not among \('b',\)"):
        three().rename(["b"])


def test_other_values_make_a_new_object():
    x = three()
    y = x.with_scores([0.1, 0.2, 0.3]).with_classes(0, ["x"])
    assert y.scores.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert (y.classes.tolist(), y.names) == ([0, 0, 0], ("x",))
    assert x.scores.tolist() == pytest.approx([0.5, 0.9, 0.1])
    assert x.with_scores(1).scores.tolist() == [1, 1, 1]
    with pytest.raises(AttributeError):
        x.scores = y.scores
    with pytest.raises(SomasegError, match="2 scores for 3 boxes"):
        x.with_scores([1, 2])


def test_copies_and_pickles():
    x = three()
    assert parts(pickle.loads(pickle.dumps(x))) == parts(x)
    assert parts(copy.deepcopy(x)) == parts(x)


def test_a_short_picture_in_words():
    assert repr(three()) == "Instances(3 in 6 x 4; a: 1, b: 1, unknown: 1)"
    assert repr(Instances.empty((4, 6), soft=True)) == "Instances(0 soft in 6 x 4; none)"


BOX = np.array([[0, 0, 2, 2]], np.int32)
SOUND = {
    "size": (4, 6),
    "boxes": BOX,
    "pixels": np.ones(4, np.uint8),
    "offsets": np.array([0, 4]),
    "scores": np.ones(1),
    "classes": np.array([0]),
    "names": ("a",),
}


def test_the_sound_case_is_sound():
    assert len(Instances(**SOUND)) == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"size": (-1, 6)}, "the image size (-1, 6) is negative"),
        ({"boxes": np.array([0, 0, 2, 2])}, "boxes must have 2 dimensions, not 1"),
        ({"boxes": BOX[:, :3]}, "boxes are (n, 4), not (1, 3)"),
        ({"boxes": BOX.astype(float)}, "boxes must be int32, not float64"),
        ({"boxes": BOX.astype(np.int64) + 2**32}, "boxes do not fit int32"),
        ({"boxes": BOX[:, [2, 1, 0, 3]]}, "box 0 (x0 y0 x1 y1 = 2 0 0 2) is empty or leaves"),
        (
            {"boxes": BOX - 1},
            "box 0 (x0 y0 x1 y1 = -1 -1 1 1) is empty or leaves the image of 6 x 4",
        ),
        (
            {"boxes": BOX + np.array([5, 0, 5, 0])},
            "box 0 (x0 y0 x1 y1 = 5 0 7 2) is empty or leaves",
        ),
        (
            {"boxes": BOX + np.array([0, 3, 0, 3])},
            "box 0 (x0 y0 x1 y1 = 0 3 2 5) is empty or leaves",
        ),
        ({"pixels": np.ones(5, np.uint8)}, "5 pixels, but the boxes cover 4"),
        ({"pixels": np.ones((2, 2), np.uint8)}, "pixels must have 1 dimensions, not 2"),
        ({"pixels": np.ones(4)}, "pixels must be uint8, not float64"),
        ({"pixels": np.full(4, 255, np.uint8)}, "pixels of hard masks are 0 or 1"),
        ({"offsets": np.array([0, 3])}, "offsets of 1 boxes are 2 numbers"),
        ({"offsets": np.array([0])}, "offsets of 1 boxes are 2 numbers"),
        ({"offsets": np.array([0.0, 4.0])}, "offsets must be int64, not float64"),
        ({"scores": np.ones(2)}, "2 scores for 1 boxes"),
        ({"scores": np.array([np.nan])}, "score 0 is not a number"),
        ({"scores": np.array(["a"])}, "scores must be float32, not <U1"),
        ({"classes": np.array([0, 0])}, "2 classes for 1 boxes"),
        ({"classes": np.array([1])}, "classes 1 … 1 do not index the 1 names ('a',)"),
        ({"classes": np.array([-2])}, "classes -2 … -2 do not index the 1 names"),
        ({"classes": np.array([2**16])}, "classes do not fit int16"),
        ({"classes": np.array([0.5])}, "classes must be int16, not float64"),
        ({"names": ("a", "a")}, "a class name occurs twice in ('a', 'a')"),
        ({"names": "a"}, "names are a list of names, not the text 'a'"),
    ],
)
def test_unsound_fields_are_refused(fields, reason):
    with pytest.raises(SomasegError) as caught:
        Instances(**(SOUND | fields))
    assert str(caught.value).startswith(f"instances: {reason}")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Instances.from_masks(np.zeros((1, 3, 3), bool)), "mask 0 is empty"),
        (lambda: Instances.from_masks(np.ones((3, 3), bool)), r"masks are \(n, height, width\)"),
        (lambda: Instances.from_masks(np.ones((1, 3, 3)), soft=True), "uint8 if soft"),
        (
            lambda: Instances.from_crops((9, 9), BOX, [np.ones((2, 3), bool)]),
            r"crop 0 has shape \(2, 3\) but its box .* needs \(2, 2\)",
        ),
        (lambda: Instances.from_crops((9, 9), BOX, []), "1 boxes but 0 crops"),
        (lambda: Instances.from_crops((9, 9), BOX, [np.ones((2, 2))]), "crops are uint8 or bool"),
        (
            lambda: Instances.from_crops((9, 9), BOX + 0.4, [np.ones((2, 2), bool)]),
            "boxes are whole pixels",
        ),
        (
            lambda: Instances.from_masks(np.full((1, 3, 3), 9, np.uint8), soft=True).to_runs(),
            "soft masks have no runs",
        ),
    ],
)
def test_unsound_input_is_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def test_no_instances_at_all():
    x = Instances.empty((4, 6), ("a",))
    assert (len(x), x.names, x.areas.tolist(), x.to_runs()) == (0, ("a",), [], [])
    assert x.to_labels().shape == (4, 6)
    assert not x.to_labels().any()
    for other in (x[:], x.binary(), x.split()[0], x.window((2, 2))[0], x.with_scores([])):
        assert len(other) == 0
    assert len(Instances.from_labels(np.zeros((4, 6), int))) == 0
    assert len(Instances.from_masks(np.zeros((0, 4, 6), bool))) == 0
    assert len(Instances.concat([x, x])) == 0
    assert len(Instances.empty((0, 0))) == 0


def test_two_thousand_instances_take_the_memory_of_their_boxes():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 1980, (2000, 2))
    boxes = np.concatenate([corner, corner + 20], 1)
    crops = list((rng.random((2000, 20, 20)) < 0.7).astype(np.uint8))
    x = Instances.from_crops((2000, 2000), boxes, crops)
    assert x.pixels.nbytes == 2000 * 400
    assert (Instances.from_runs(x.size, x.to_runs()).areas == x.areas).all()
    settled, rows = x.disjoint("smallest_first", largest_piece=True, fill_holes=True)
    assert settled.areas.sum() == (settled.to_labels() > 0).sum()
    assert len(settled) == len(rows)


def test_split_gives_pieces_with_the_fields_of_the_whole():
    masks = blobs(4, (30, 30), 2)
    masks[0] = masks[0] | masks[1]
    x = Instances.from_masks(masks[[0]], scores=[0.25], classes=[0], names=["a"])
    split, rows = x.split()
    assert rows.tolist() == [0] * len(split)
    assert (split.scores == 0.25).all()
    assert split.areas.sum() == x.areas[0]
    assert is_tight(split.flat, split.size)
