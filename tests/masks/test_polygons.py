import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as reference

from somaseg.errors import SomasegError
from somaseg.masks.rle import polygon_to_crop

SIZE = (12, 15)
NUMBERS = st.one_of(
    st.floats(-8, 22, width=32),
    st.integers(-8, 22).map(float),
    st.integers(-40, 110).map(lambda k: k / 5),
)
POLYGON = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=9).map(
    lambda points: [c for point in points for c in point]
)


def expected(polygons, size):
    return reference.decode(reference.merge(reference.frPyObjects(polygons, *size))).astype(bool)


def drawn(polygons, size):
    """Our full mask; all false if the polygon covers nothing."""
    image = np.zeros(size, bool)
    try:
        (x0, y0, x1, y1), crop = polygon_to_crop(polygons, size)
    except SomasegError as error:
        if str(error) != "the polygon covers no pixel":
            raise
        return image
    assert crop.any(0)[[0, -1]].all()
    assert crop.any(1)[[0, -1]].all()
    image[y0:y1, x0:x1] = crop
    return image


@given(POLYGON)
def test_one_polygon_is_the_reference(polygon):
    # Any points: outside the image, crossing themselves, repeated.
    assert (drawn([polygon], SIZE) == expected([polygon], SIZE)).all()


@given(st.lists(POLYGON, min_size=1, max_size=3))
def test_the_union_of_several_is_the_reference(polygons):
    assert (drawn(polygons, SIZE) == expected(polygons, SIZE)).all()


def test_large_round_shapes_are_the_reference():
    rng = np.random.default_rng(0)
    for _ in range(50):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
        radius = rng.uniform(20, 120, 40)
        points = np.stack([150 + radius * np.cos(angles), 100 + radius * np.sin(angles)], 1)
        shape = (200, 300)
        assert (drawn([points], shape) == expected([points.ravel().tolist()], shape)).all()


def test_a_rectangle():
    box, crop = polygon_to_crop([[2, 3, 6, 3, 6, 8, 2, 8]], SIZE)
    assert box.tolist() == [2, 3, 6, 8]
    assert crop.shape == (5, 4)
    assert crop.all()


@pytest.mark.parametrize(
    ("polygons", "reason"),
    [
        ([[1, 1, 5, 1, 5]], "polygon 0: 5 numbers, an odd count; x y pairs needed"),
        ([[1, 1, 5, 1]], "polygon 0: 2 points; three are needed at least"),
        ([[1, 1, 5, 1, 5, 5], []], "polygon 1: 0 points; three are needed at least"),
        ([[1, 1, 5, float("nan"), 5, 5]], "polygon 0: a coordinate is not finite"),
        ([[1, 1, 5, float("inf"), 5, 5]], "polygon 0: a coordinate is not finite"),
        ([[1, 1, 5, 1e7, 5, 5]], "polygon 0: a coordinate is not finite or beyond"),
        ([["a", 1, 5, 1, 5, 5]], "polygon 0: not a list of numbers"),
        ([[40, 40, 50, 40, 50, 50]], "the polygon covers no pixel"),
        ([[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]], "the polygon covers no pixel"),
        ([], "the polygon covers no pixel"),
    ],
)
def test_faults(polygons, reason):
    with pytest.raises(SomasegError) as caught:
        polygon_to_crop(polygons, SIZE)
    assert str(caught.value).startswith(reason)
