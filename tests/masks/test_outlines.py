"""Outlines along pixel edges, held against shapely and brute force."""

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from somaseg.errors import SomasegError
from somaseg.masks.outlines import fill, outline

masks = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.integers(0, 1),
)


@given(masks, st.integers(0, 5), st.integers(0, 5))
def test_outlines_are_simple_and_cover_exactly_the_mask(
    mask: npt.NDArray[np.uint8], x: int, y: int
) -> None:
    polygons = outline(mask, (x, y))
    assert len(polygons) == ndimage.label(mask)[1]
    shapes = [shapely.Polygon(shell, holes) for shell, *holes in polygons]
    assert all(shape.is_valid for shape in shapes)
    assert shapely.union_all(shapes).area == mask.sum() == sum(shape.area for shape in shapes)
    size = (y + mask.shape[0] + 2, x + mask.shape[1] + 1)
    whole = np.zeros(size, np.uint8)
    whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    rows, columns = np.mgrid[: size[0], : size[1]]
    centres = shapely.points(columns + 0.5, rows + 0.5)
    assert np.array_equal(shapely.contains(shapely.union_all(shapes), centres), whole)
    if mask.any():
        box, crop = fill(polygons, size)
        again = np.zeros(size, np.uint8)
        again[box[1] : box[3], box[0] : box[2]] = crop
        assert np.array_equal(again, whole)
        assert crop.any(0)[[0, -1]].all()
        assert crop.any(1)[[0, -1]].all()


def test_a_pixel_has_four_corners_clockwise_on_the_screen() -> None:
    assert outline(np.ones((1, 1)), (3, 7))[0][0].tolist() == [[4, 7], [4, 8], [3, 8], [3, 7]]


def test_what_lies_outside_of_the_image_is_cut_off() -> None:
    box, crop = fill([[np.array([[-3, -3], [2.6, -3], [2.6, 2.4], [-3, 2.4]])]], (10, 10))
    assert box.tolist() == [0, 0, 3, 2]
    assert crop.all()


@pytest.mark.parametrize(
    ("ring", "reason"),
    [
        ([[0, 0], [1, 1]], "three points"),
        ([[0, 0], [1, np.nan], [2, 2]], "finite"),
        ([[20, 20], [30, 20], [30, 30]], "outside"),
        ([[1.1, 1.1], [1.3, 1.1], [1.3, 1.3]], "no pixel"),
    ],
)
def test_a_bad_outline_says_why(ring: list[list[float]], reason: str) -> None:
    with pytest.raises(SomasegError, match=reason):
        fill([[np.array(ring)]], (10, 10))
