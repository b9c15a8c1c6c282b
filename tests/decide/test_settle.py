import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from somaseg.decide import (
    SettleSettings,
    default_settings,
    dump_settings,
    parse_settings,
    settle,
    vote,
)
from somaseg.errors import SomasegError
from somaseg.instances import Instances

NAMES = ("a", "b")


def disc(y, x, r, size=(40, 50)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= r * r


def soft(masks, levels=None, scores=None, classes=0):
    hard = Instances.from_masks(np.array(masks), scores=scores, classes=classes, names=NAMES)
    if levels is None:
        return hard
    cropped = [(hard.crop(i) * (255 * level)).astype(np.uint8) for i, level in enumerate(levels)]
    return Instances.from_crops(
        hard.size, hard.boxes, cropped, hard.scores, hard.classes, NAMES, soft=True
    )


def both(**fields):
    return dict.fromkeys(NAMES, SettleSettings(**{"min_area": 1, "score": 0, **fields}))


@st.composite
def scenes(draw):
    count = draw(st.integers(0, 7))
    number = st.integers(0, 45)
    masks = [disc(draw(number), draw(number), draw(st.integers(1, 12))) for _ in range(count)]
    masks = [m for m in masks if m.any()]
    scores = draw(st.lists(st.floats(0, 1, width=32), min_size=len(masks), max_size=len(masks)))
    classes = draw(st.lists(st.integers(-1, 1), min_size=len(masks), max_size=len(masks)))
    if not masks:
        return Instances.empty((40, 50), NAMES)
    return soft(masks, scores=np.array(scores, np.float32), classes=np.array(classes, np.int16))


@given(
    scenes(),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 60),
    st.sampled_from(["smallest_first", "largest_first", "score"]),
    st.booleans(),
)
def test_what_is_left_is_sound(raw, score, iou, smallest, order, one_class):
    settings = both(score=score, nms_iou=iou, min_area=smallest, order=order)
    final = settle(raw, settings | {"unknown": settings["a"]}, one_class=one_class)
    masks = np.array([final.mask(i) for i in range(len(final))]).reshape(-1, 40, 50)
    assert (masks.sum(0) <= 1).all()
    assert (masks.sum((1, 2)) >= smallest).all()
    assert (final.scores >= np.float32(score)).all()
    assert len(final) <= len(raw)
    if one_class:
        assert len(set(final.classes)) <= 1


def test_thresholds_are_those_of_the_class():
    raw = soft([disc(10, 10, 5), disc(30, 30, 5)], scores=[0.4, 0.4], classes=np.array([0, 1]))
    settings = {"a": SettleSettings(score=0.3), "b": SettleSettings(score=0.5)}
    assert settle(raw, settings).classes.tolist() == [0]


def test_the_images_class_decides_for_all_its_cells():
    raw = soft(
        [disc(10, 10, 5), disc(10, 30, 5), disc(30, 30, 5)],
        scores=[0.9, 0.3, 0.3],
        classes=np.array([0, 1, 1]),
    )
    assert vote(raw) == 0
    final = settle(
        raw, {"a": SettleSettings(score=0), "b": SettleSettings(score=1)}, one_class=True
    )
    assert final.classes.tolist() == [0, 0, 0]


def test_mask_threshold_cuts_probabilities():
    raw = soft([disc(10, 10, 5), disc(30, 30, 5)], levels=[0.45, 0.8])
    assert len(settle(raw, both(mask_threshold=0.5))) == 1
    assert len(settle(raw, both(mask_threshold=0.4))) == 2


def test_of_two_alike_the_better_stays():
    raw = soft([disc(20, 20, 8), disc(20, 21, 8)], scores=[0.5, 0.7])
    final = settle(raw, both(nms_iou=0.3))
    assert final.scores.tolist() == pytest.approx([0.7])
    assert len(settle(raw, both(nms_iou=1.0))) == 2


@pytest.mark.parametrize(
    ("order", "owner"), [("smallest_first", 1), ("largest_first", 0), ("score", 0)]
)
def test_shared_pixels_go_to_the_first(order, owner):
    masks = [disc(20, 15, 10), disc(20, 26, 5)]
    raw = soft(masks, scores=[0.9, 0.5])
    final = settle(raw, both(order=order))
    assert (final.mask(owner) == masks[owner]).all()
    assert final.areas[1 - owner] < masks[1 - owner].sum()


def test_only_the_largest_piece_stays_and_holes_are_filled():
    ring = disc(20, 20, 8) & ~disc(20, 20, 2)
    raw = soft([ring | disc(3, 45, 2)])
    final = settle(raw, both())
    assert (final.mask(0) == disc(20, 20, 8)).all()


def test_sizes():
    raw = soft([disc(10, 10, 2), disc(25, 25, 10)])
    assert settle(raw, both(min_area=50)).areas.tolist() == [disc(25, 25, 10).sum()]
    assert settle(raw, both(max_area=50)).areas.tolist() == [disc(10, 10, 2).sum()]


def test_class_without_settings_is_named():
    with pytest.raises(SomasegError, match="no settings for class 'a'"):
        settle(soft([disc(9, 9, 3)]), {"b": SettleSettings()})


def test_settings_round_trip_and_errors():
    settings = default_settings(NAMES)
    assert parse_settings(dump_settings(settings), NAMES) == settings
    assert list(default_settings(())) == ["unknown"]
    with pytest.raises(SomasegError, match="the classes are a, b"):
        parse_settings({"a": {}}, NAMES)
    with pytest.raises(SomasegError, match="not settings by class name"):
        parse_settings(True, NAMES)
    with pytest.raises(SomasegError, match="score"):
        parse_settings({"a": {"score": 2}, "b": {}}, NAMES)
    with pytest.raises(SomasegError, match="below min_area"):
        parse_settings({"a": {"min_area": 9, "max_area": 3}, "b": {}}, NAMES)
