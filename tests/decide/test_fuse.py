import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from somaseg.decide import METHODS, Fusion, common_images, fuse, fuse_images
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.overlap import iou_pairs
from somaseg.masks.resolve import mask_nms
from tests.decide.oracle import NAMES, dense, dense_fuse, members
from tests.masks.strategies import is_tight

ANY = st.sampled_from(METHODS)
MEANS = ("nmw", "wbf", "average")
FUSIONS = st.builds(
    Fusion,
    method=ANY,
    iou=st.sampled_from([0.1, 0.3, 0.55, 0.8]),
    within_class=st.booleans(),
    absent=st.sampled_from(["zero", "skip"]),
    linear=st.booleans(),
)
WEIGHTS = st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=3, max_size=3)


def same(one, two, tolerance=0):
    """Two results with the same masks, scores and classes, in the same order."""
    assert one.size == two.size
    assert one.names == two.names
    assert len(one) == len(two)
    assert np.abs(dense(one) - dense(two)).max(initial=0) <= tolerance
    assert np.allclose(one.scores, two.scores, atol=1e-6)
    assert one.classes.tolist() == two.classes.tolist()


@settings(max_examples=300)
@given(members(), FUSIONS, st.one_of(st.none(), WEIGHTS))
def test_fusion_is_that_of_full_masks(found, fusion, weights):
    weights = weights and weights[: len(found)]
    fused = fuse(found, weights, fusion)
    expected = [row for row in dense_fuse(found, weights, fusion) if row[0].max() > 0.5]
    assert fused.soft
    assert len(fused) == len(expected)
    assert np.allclose(fused.scores, [row[1] for row in expected], atol=1e-6)
    assert fused.classes.tolist() == [row[2] for row in expected]
    # Rounded to a gray value, in float32.
    masks = np.array([row[0] for row in expected]).reshape(-1, *fused.size)
    assert np.abs(dense(fused) - masks).max(initial=0) <= 0.501
    if fusion.method in MEANS:
        assert is_tight(fused.flat, fused.size)


@given(members(soft=False), FUSIONS)
def test_hard_masks_are_probabilities_of_nought_and_one(found, fusion):
    softened = [
        Instances(x.size, x.boxes, x.pixels * 255, x.offsets, x.scores, x.classes, x.names, True)
        for x in found
    ]
    same(fuse(found, None, fusion), fuse(softened, None, fusion))
    mixed = [x if k % 2 else y for k, (x, y) in enumerate(zip(found, softened, strict=True))]
    same(fuse(mixed, None, fusion), fuse(softened, None, fusion))


@given(members(), st.sampled_from([0.0, 0.3, 0.55, 0.9]))
def test_nms_is_mask_nms(found, iou):
    everything = Instances.concat(found)
    kept = everything[mask_nms(everything, everything.scores, iou)]
    kept = kept[kept.order("score")]
    same(fuse(found, None, Fusion(method="nms", iou=iou)), kept)


@given(members(most=1), st.sampled_from([*MEANS, "nms"]), st.integers(1, 4), st.booleans())
def test_identical_members_give_the_members_masks(found, method, copies, within):
    (one,) = found
    one = one[mask_nms(one, one.scores, 0.5)]  # else the member's own masks are one cell
    one = one[one.order("score")]
    fusion = Fusion(method=method, iou=0.55, within_class=within)
    fused = fuse([one] * copies, None, fusion)
    if method == "nms":  # a mask of less than a half nowhere suppresses nothing
        assert (one.areas > 0).all()
    same(fused, one)


@given(members(), FUSIONS, WEIGHTS, st.randoms())
def test_order_of_the_members_does_not_matter(found, fusion, weights, random):
    pairs = list(zip(found, weights, strict=False))
    random.shuffle(pairs)
    shuffled = fuse(*map(list, zip(*pairs, strict=True)), fusion)
    same(fuse(found, weights[: len(found)], fusion), shuffled, tolerance=1)


@given(members(), FUSIONS, WEIGHTS, st.sampled_from([0.25, 2.0, 7.0]))
def test_only_the_proportion_of_weights_counts(found, fusion, weights, factor):
    weights = weights[: len(found)]
    times = fuse(found, [factor * w for w in weights], fusion)
    same(fuse(found, weights, fusion), times, tolerance=1)


@given(members(), st.sampled_from(MEANS), WEIGHTS)
def test_a_mask_is_worth_the_share_of_the_members_that_have_it(found, method, weights):
    weights = np.array(weights[: len(found)])
    first = found[0][:1]
    assume(len(first))
    others = [one[:0] for one in found[1:]]
    fused = fuse([first, *others], weights, Fusion(method=method))
    share = weights[0] / weights.sum()
    assert np.abs(dense(fused) - share * dense(first)).max() <= 0.501
    whole = fuse([first, *others], weights, Fusion(method=method, absent="skip"))
    assert (dense(whole) == dense(first)).all()
    score = first.scores[0] * (share if method != "nmw" else weights[0] / weights.max())
    assert fused.scores == whole.scores == pytest.approx(score, rel=1e-6)


def square(x, score, label, names=NAMES, side=10):
    return Instances.from_crops(
        (20, 60),
        np.array([[x, 2, x + side, 12]]),
        [np.ones((10, side), np.uint8)],
        score,
        label,
        names,
    )


def test_classes_are_joined_by_name():
    one, two = square(5, 0.9, 0, ("x", "y")), square(5, 0.8, 1, ("y", "x"))
    for method in METHODS:
        fused = fuse([one, two], None, Fusion(method=method, within_class=True))
        assert fused.names == ("x", "y")
        assert fused.classes[0] == 0
        assert len(fused) == (2 if method == "soft-nms" else 1)
    fused = fuse([one, square(5, 0.8, 0, ("z",))], None, Fusion(within_class=True))
    assert fused.names == ("x", "y", "z")
    assert fused.classes.tolist() == [0, 2]


@pytest.mark.parametrize("method", MEANS)
def test_the_class_has_most_of_the_scores(method):
    found = [square(5, 0.9, 0), square(5, 0.5, 1), square(6, 0.6, 1)]
    assert fuse(found, None, Fusion(method=method)).classes.tolist() == [1]
    assert fuse(found, [3, 1, 1], Fusion(method=method)).classes.tolist() == [0]
    apart = fuse(found, None, Fusion(method=method, within_class=True))
    assert apart.classes.tolist() == ([0, 1] if method == "nmw" else [1, 0])
    # Unknown ones do not vote, and meet every class.
    unknown = [square(5, 0.9, -1), square(5, 0.5, 1), square(6, 0.6, -1, ())]
    fused = fuse(unknown, None, Fusion(method=method, within_class=True))
    assert fused.classes.tolist() == [1]
    assert fuse([square(5, 0.5, -1, ())] * 2, None, Fusion(method=method)).classes.tolist() == [-1]
    # Of equal ones that of the best instance.
    tie = [square(5, 0.5, 2), square(5, 0.25, 0), square(5, 0.25, 0)]
    assert fuse(tie, None, Fusion(method=method)).classes.tolist() == [2]


def test_a_cluster_follows_its_mean_or_its_head():
    """The last of three in a row overlaps the mean of the first two, but hardly the first."""
    row = [square(10, 0.9, 0), square(13, 0.8, 0), square(15, 0.7, 0)]
    ious = {(a, b): v for a, b, v in zip(*iou_pairs(Instances.concat(row)), strict=True)}
    assert ious[0, 1] > 0.38 > ious[0, 2]
    assert len(fuse(row, None, Fusion(method="nmw", iou=0.38))) == 2
    # Of equal masks the mean is at least a half where either is, so it has moved ...
    assert len(fuse(row, None, Fusion(method="average", iou=0.38))) == 1
    # ... but not yet where the first has more weight.
    assert len(fuse(row, None, Fusion(method="wbf", iou=0.38))) == 2
    assert len(fuse(row, [1, 2, 1], Fusion(method="wbf", iou=0.38))) == 1


def test_masks_without_scores_and_of_score_nought():
    found = [square(5, 1, 0), square(5, 0, 1), square(30, 0, -1), square(31, 0, 2)]
    for method in MEANS:
        fused = fuse(found, None, Fusion(method=method, absent="skip"))
        assert fused.classes.tolist() == [0, 2]
        assert fused.scores[1] == 0
        assert fused.areas[0] == 100
        assert fused.boxes[1].tolist() == [30, 2, 41, 12]


def test_scores_do_not_pass_one():
    twice = Instances.concat([square(5, 1, 0), square(6, 1, 0)])
    assert fuse([twice, square(5, 1, 0)], [5, 1]).scores.tolist() == [1]


def test_nothing():
    for method in METHODS:
        fused = fuse(
            [Instances.empty((4, 5), ("x",)), Instances.empty((4, 5), ("y",))],
            None,
            Fusion(method=method),
        )
        assert len(fused) == 0
        assert fused.size == (4, 5)
        assert fused.names == ("x", "y")
        assert fused.soft


def test_many_images():
    rng = np.random.default_rng(0)
    first = {f"image{k}": square(int(rng.integers(0, 40)), 0.5, 0, ("x",)) for k in range(5)}
    second = {name: square(7, 0.4, 0, ("y",)) for name in ["other", *first][:4]}
    both = fuse_images([first, second], [2, 1], workers=2)
    assert list(both) == common_images([first, second]) == ["image0", "image1", "image2"]
    for name, fused in both.items():
        same(fused, fuse([first[name], second[name]], [2, 1]))
    second["image1"] = Instances.empty((3, 3))
    with pytest.raises(SomasegError, match=r"image 'image1': .*different sizes"):
        fuse_images([first, second])


def test_bad_input():
    one = square(5, 1, 0)
    with pytest.raises(ValueError, match="no member to fuse"):
        fuse([])
    with pytest.raises(ValueError, match="2 weights for 1 members"):
        fuse([one], [1, 2])
    with pytest.raises(ValueError, match="give numbers above 0"):
        fuse([one, one], [1, -1])
    with pytest.raises(ValueError, match="iou"):
        Fusion(iou=1.5)
