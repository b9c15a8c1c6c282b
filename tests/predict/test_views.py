import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from somaseg.instances import Instances
from somaseg.models.flow.targets import label_flows
from somaseg.predict.views import VIEWS, View
from tests.predict.fakes import discs

RIGID = VIEWS["all"]
SCALED = [view for view in VIEWS["flips+scales"] if view.scale != 1] + [
    View(1, False, 0.7),
    View(3, True, 1.5),
]
grays = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 255)
)


def gradient(field):
    """(dy, dx) of an image, by central differences: turns with the image to the last bit."""
    padded = np.pad(field, 1, mode="edge")
    return np.stack([padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]])


@pytest.mark.parametrize("view", RIGID)
@given(field=grays)
def test_maps_and_vectors_come_back(view, field):
    shown = view.image(field)
    maps = np.concatenate([gradient(shown), shown[None]])
    back = view.undo_maps(maps, field.shape, [(0, 1)])
    assert np.array_equal(back[2], field)
    assert np.array_equal(back[:2], gradient(field))


@pytest.mark.parametrize("view", RIGID)
@given(field=grays, soft=st.booleans(), data=st.data())
def test_instances_come_back(view, field, soft, data):
    h, w = field.shape
    masks = data.draw(hnp.arrays(np.uint8, (2, h, w), elements=st.integers(0, 255)))
    masks[:, data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))] = 255
    masks = masks if soft else masks > 127
    shown = np.stack([view.image(mask) for mask in masks])
    truth = Instances.from_masks(masks, scores=[0.25, 0.5], soft=soft)
    found = Instances.from_masks(shown, scores=[0.25, 0.5], soft=soft)
    back = view.undo_instances(found, (h, w))
    assert back.size == (h, w)
    assert back.soft == soft
    for field_name in ("boxes", "pixels", "offsets", "scores", "classes"):
        assert np.array_equal(getattr(back, field_name), getattr(truth, field_name))


@pytest.mark.parametrize("view", SCALED)
def test_scaled_maps_come_back(view):
    y, x = np.mgrid[:60, :83] / 12
    field = np.stack([np.sin(y) * np.cos(x), np.cos(x + y), np.sin(y)]).astype(np.float32)
    shown = np.stack([view.image(channel) for channel in field])
    back = view.undo_maps(shown, field.shape[1:])
    assert back.dtype == np.float32
    assert back.shape == field.shape
    assert np.abs(back - field)[:, 2:-2, 2:-2].max() < 0.02


@pytest.mark.parametrize("view", SCALED)
def test_scaled_vectors_keep_their_length_and_direction(view):
    labels = discs((90, 70), 6, radius=(8, 12), gap=4)[1]
    masks = [view.image((labels == k).astype(np.float32)) > 0.5 for k in range(1, 7)]
    shown = label_flows(sum(k * mask for k, mask in enumerate(masks, 1)).astype(np.int32))
    back = view.undo_maps(shown, labels.shape, [(0, 1)])
    own = label_flows(labels)
    inside = (np.hypot(*own) > 0.9) & (np.hypot(*back) > 0.9)
    cosine = (own * back).sum(0)[inside]
    assert inside.sum() > 0.5 * (labels > 0).sum()
    assert np.median(cosine) > 0.95


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("view", SCALED)
def test_scaled_instances_come_back(view, soft):
    labels = discs((90, 70), 9, radius=(5, 12), gap=3)[1]
    n = labels.max()
    shown = np.stack([view.image((labels == k + 1).astype(np.float32)) for k in range(n)])
    masks = np.round(shown * 255).astype(np.uint8) if soft else shown > 0.5
    back = view.undo_instances(
        Instances.from_masks(masks, scores=np.arange(n) / n, soft=soft), labels.shape
    )
    assert len(back) == n
    assert np.array_equal(back.scores, np.arange(n, dtype=np.float32) / np.float32(n))
    for k in range(n):
        truth, mask = labels == k + 1, back.mask(k)
        assert (truth & mask).sum() / (truth | mask).sum() > 0.9


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_a_cell_that_fills_the_image_reaches_its_border(scale):
    view = View(scale=scale)
    found = Instances.from_masks(np.full((1, *view.image(np.zeros((40, 30), "f4")).shape), True))
    assert view.undo_instances(found, (40, 30)).mask(0).all()


def test_scaled_crops_agree_with_scaled_maps():
    view = View(scale=1.25)
    gray = discs((50, 64), 5, radius=(5, 9))[0]
    shown = np.clip(view.image(gray), 0, 1)
    soft = np.round(shown * 255).astype(np.uint8)
    maps = view.undo_maps(soft[None].astype(np.float32), gray.shape)[0]
    found = view.undo_instances(Instances.from_masks(soft[None], soft=True), gray.shape)
    whole = np.zeros(gray.shape, np.float32)
    x0, y0, x1, y1 = found.boxes[0]
    whole[y0:y1, x0:x1] = found.crop(0)
    assert np.abs(whole - maps).max() <= 0.51 + 255 / 32  # OpenCV weighs by 32nds of a pixel


def test_an_instance_lost_between_pixels_is_left_out():
    view = View(scale=2)
    masks = np.zeros((2, 16, 16), bool)
    masks[0, 4, 4] = True  # a quarter of an image pixel
    masks[1, 8:12, 8:12] = True
    back = view.undo_instances(Instances.from_masks(masks, scores=[0.1, 0.2]), (8, 8))
    assert back.scores.tolist() == pytest.approx([0.2])
    assert back.boxes.tolist() == [[4, 4, 6, 6]]


def test_no_instances():
    for view in (*RIGID, *SCALED):
        shown = view.image(np.zeros((8, 12), np.float32))
        back = view.undo_instances(Instances.empty(shown.shape, ("a",), soft=True), (8, 12))
        assert back.size == (8, 12)
        assert len(back) == 0


def test_the_views_are_eight_different_ones():
    field = np.arange(12, dtype=np.float32).reshape(3, 4)
    seen = {(v.image(field).shape, v.image(field).tobytes()) for v in VIEWS["all"]}
    assert len(seen) == 8


def test_named_sets():
    field = np.zeros((10, 20), np.float32)
    assert {v.image(field).shape for v in VIEWS["flips"]} == {(10, 20)}
    assert VIEWS["none"] == (View(),)
    assert {v.image(field).shape for v in VIEWS["scales"]} == {(10, 20), (8, 16), (12, 25)}
    assert len(set(VIEWS["flips+scales"])) == 12
    # The plain view comes first: its instances lead where scores are equal.
    assert all(views[0] == View() for views in VIEWS.values())
