import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from somaseg.data.synthetic import make_image
from somaseg.models.semantic.targets import semantic_targets
from tests.models.test_flow_targets import discs


def brute_force(labels):
    """Each target by its definition, pixel by pixel."""
    h, w = labels.shape
    touching, outline, edge = np.zeros((3, h, w), bool)
    for y in range(h):
        for x in range(w):
            around = labels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            cells = set(around[around > 0].tolist())
            touching[y, x] = len(cells) > 1
            if labels[y, x]:
                near = [
                    labels[v, u]
                    for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
                    if 0 <= v < h and 0 <= u < w
                ]
                outline[y, x] = 0 in near
                edge[y, x] = any(other != labels[y, x] for other in near)
    depth = np.zeros((h, w))
    for k in np.unique(labels[labels > 0]):
        own = labels == k
        # A cell that fills the image has no outermost pixel to be far from.
        rim = edge & own
        away = distance_transform_edt(~rim) if rim.any() else np.zeros((h, w))
        depth[own] = (away[own] + 1) / (away[own].max() + 1)
    return touching, outline, depth


@given(st.integers(0, 10_000))
def test_equals_brute_force(seed):
    labels = discs(seed, (28, 33), count=7)
    ours = semantic_targets(labels)
    touching, outline, depth = brute_force(labels)
    assert np.array_equal(ours.foreground, labels > 0)
    assert np.array_equal(ours.touching, touching)
    assert np.array_equal(ours.outline, outline)
    assert np.allclose(ours.depth, depth, atol=1e-5)


def test_a_gap_of_one_pixel_is_touching():
    labels = np.array([[1, 1, 0, 2, 2, 0, 0, 3]])
    assert semantic_targets(labels).touching.tolist() == [[0, 0, 1, 0, 0, 0, 0, 0]]


def test_the_images_edge_is_no_border():
    targets = semantic_targets(np.ones((6, 7), np.int32))
    assert not targets.outline.any()
    assert not targets.touching.any()
    assert (targets.depth == 1).all()


def test_turns_with_the_image():
    labels = make_image("shsy5y", 3, (60, 70))[1].to_labels()
    for one, other in zip(
        semantic_targets(labels), semantic_targets(np.rot90(labels)), strict=True
    ):
        assert np.allclose(np.rot90(one), other, atol=1e-6)


@pytest.mark.parametrize("labels", [np.zeros((5, 6), int), np.zeros((1, 1), np.uint8)])
def test_no_cells(labels):
    for target in semantic_targets(labels):
        assert target.shape == labels.shape
        assert target.dtype == np.float32
        assert not target.any()


@pytest.mark.parametrize("towards", [np.inf, -np.inf])
def test_depth_is_the_same_wherever_the_image_lies_in_memory(monkeypatch, towards):
    """OpenCV's distances are not, in their last bit: trainings that were repeated ended apart."""
    labels = discs(3, (90, 110), count=12)
    expected = semantic_targets(labels).depth
    measured = cv2.distanceTransform
    monkeypatch.setattr(
        cv2,
        "distanceTransform",
        lambda *given: np.nextafter(measured(*given), np.float32(towards)),
    )
    assert np.array_equal(semantic_targets(labels).depth, expected)
