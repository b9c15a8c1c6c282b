import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.report.overlays import (
    CLASS_COLOURS,
    HIT,
    MISSED,
    SPURIOUS,
    WHITE,
    contact_sheet,
    distinct,
    overlay,
    paint,
    side_by_side,
    to_rgb,
    write_png,
)

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


def rim(mask: np.ndarray) -> np.ndarray:
    """Pixels with a 4-neighbour outside the mask; beyond the image is outside."""
    return mask & ~binary_erosion(mask, CROSS, border_value=0)


def disc(size, y, x, radius):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def masks_of(size, *discs, **fields):
    return Instances.from_masks(np.array([disc(size, *d) for d in discs]), **fields)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.integers(1, 3), fill=st.sampled_from([0.0, 0.4, 1.0]))
def test_outline_and_fill_are_those_of_dense_masks(seed, scale, fill):
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(4, 20)), int(rng.integers(4, 20)))
    masks = rng.random((int(rng.integers(1, 4)), *size)) < 0.7
    masks = masks[masks.any((1, 2))]
    cells = Instances.from_masks(masks)
    image = rng.integers(0, 256, size, dtype=np.uint8)
    colours = rng.integers(0, 256, (len(cells), 3), dtype=np.uint8)

    expected = to_rgb(image)
    if scale > 1:
        expected = cv2.resize(expected, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    order = sorted(range(len(masks)), key=lambda i: -masks[i].sum())
    large = [np.kron(mask, np.ones((scale, scale), bool)) for mask in masks]
    for i in order:
        blend = expected[large[i]] * (1 - fill) + fill * colours[i].astype(float)
        expected[large[i]] = np.floor(blend + 0.5)
    for i in order:
        expected[rim(large[i])] = colours[i]

    drawn = paint(image, cells, colours, fill=fill, scale=scale)
    assert drawn.dtype == np.uint8
    # Blending rounds float32 here and float64 there: one gray level apart at a tie.
    assert np.abs(drawn.astype(int) - expected).max() <= (1 if 0 < fill < 1 else 0)


def test_image_is_untouched_and_shown_as_it_is_elsewhere():
    image = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    before = image.copy()
    cells = masks_of((40, 50), (20, 25, 8))
    drawn = overlay(image, cells, fill=0.5)
    outside = ~cells.mask(0)
    assert np.array_equal(image, before)
    assert np.array_equal(drawn[outside], np.repeat(image[outside][:, None], 3, 1))
    assert np.array_equal(overlay(image, Instances.empty((40, 50))), to_rgb(image))


def test_colours_follow_class_names_and_unknown_is_white():
    size = (30, 90)
    cells = masks_of(
        size, (15, 15, 8), (15, 45, 8), (15, 75, 8), classes=[1, 0, -1], names=("a", "b")
    )
    drawn = overlay(np.zeros(size, np.uint8), cells)
    for i, colour in enumerate([CLASS_COLOURS[1], CLASS_COLOURS[0], WHITE]):
        assert (drawn[rim(cells.mask(i))] == colour).all()


def test_neighbouring_rows_have_distinct_colours():
    colours = distinct(800).astype(int)
    assert colours.shape == (800, 3)
    assert np.abs(np.diff(colours, axis=0)).sum(1).min() > 100
    assert distinct(0).shape == (0, 3)
    size = (30, 60)
    cells = masks_of(size, (15, 15, 8), (15, 45, 8))
    drawn = overlay(np.zeros(size, np.uint8), cells, color_by="instance")
    assert (drawn[rim(cells.mask(1))] == distinct(2)[1]).all()


def test_the_smaller_of_two_is_on_top_whatever_the_order():
    size = (40, 40)
    for discs, small in [(((20, 20, 15), (20, 20, 5)), 1), (((20, 20, 5), (20, 20, 15)), 0)]:
        cells = masks_of(size, *discs)
        drawn = overlay(np.zeros(size, np.uint8), cells, color_by="instance", fill=1.0)
        assert (drawn[cells.mask(small)] == distinct(2)[small]).all()


def test_soft_masks_are_cut_at_one_half():
    box = np.array([[2, 2, 6, 3]], np.int32)
    crop = np.array([[100, 127, 128, 255]], np.uint8)
    cells = Instances.from_crops((5, 8), box, [crop], soft=True)
    drawn = overlay(np.zeros((5, 8), np.uint8), cells)
    assert np.flatnonzero(drawn[2].any(1)).tolist() == [4, 5]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_images_are_stretched_to_what_a_screen_shows(dtype):
    image = np.linspace(1000, 5000, 64 * 64).reshape(64, 64).astype(dtype)
    shown = to_rgb(image)
    assert shown.dtype == np.uint8
    assert shown.min() == 0
    assert shown.max() == 255
    assert (np.diff(shown[..., 0].astype(int).ravel()) >= 0).all()


def test_dark_images_are_brightened_others_are_not():
    dark = np.zeros((50, 50), np.uint8)
    dark[10:30, 10:30] = 40
    assert to_rgb(dark)[20, 20].tolist() == [255] * 3
    assert to_rgb(dark)[0, 0].tolist() == [0] * 3
    bright = dark + np.uint8(100)
    assert np.array_equal(to_rgb(bright)[..., 1], bright)
    colour = np.repeat(dark[..., None], 3, 2)
    assert np.array_equal(to_rgb(colour), colour)


def test_side_by_side_tells_found_missed_and_spurious_apart():
    size = (60, 120)
    truth = masks_of(size, (20, 20, 10), (20, 60, 10), (20, 100, 10))
    # Found; half out, so missed and spurious; nothing there.
    prediction = masks_of(size, (20, 21, 10), (20, 69, 10), (45, 100, 9))
    picture = side_by_side(np.zeros(size, np.uint8), truth, prediction)
    text = picture.shape[0] - size[0]
    assert picture.shape == (size[0] + text, 2 * size[1] + 4, 3)
    left, right = picture[text:, : size[1]], picture[text:, size[1] + 4 :]
    for side, cells, colours in [
        (left, truth, [HIT, MISSED, MISSED]),
        (right, prediction, [HIT, SPURIOUS, SPURIOUS]),
    ]:
        for i, colour in enumerate(colours):
            assert (side[rim(cells.mask(i))] == colour).all()
    assert (picture[:text] != 255).any()


def test_side_by_side_keeps_its_place_when_a_soft_mask_is_empty():
    size = (40, 80)
    truth = masks_of(size, (20, 60, 10))
    boxes = np.array([[5, 5, 10, 10], [50, 10, 71, 31]], np.int32)
    x0, y0, x1, y1 = boxes[1]
    crops = [np.full((5, 5), 40, np.uint8), truth.mask(0)[y0:y1, x0:x1].astype(np.uint8) * 200]
    prediction = Instances.from_crops(size, boxes, crops, soft=True)
    picture = side_by_side(np.zeros(size, np.uint8), truth, prediction)
    right = picture[-size[0] :, size[1] + 4 :]
    assert (right[rim(truth.mask(0))] == HIT).all()


def test_side_by_side_of_nothing():
    none = Instances.empty((30, 40))
    assert side_by_side(np.full((30, 40), 9, np.uint8), none, none).shape[1] == 84


def test_contact_sheet_lays_out_rows_of_equal_cells():
    images = [np.full((10, 20), value, np.uint8) for value in (10, 20, 30)]
    images[2] = np.full((6, 8, 3), 30, np.uint8)
    sheet = contact_sheet(images, columns=2, gap=3)
    assert sheet.shape == (2 * 10 + 3, 2 * 20 + 3, 3)
    assert (sheet[:10, :20] == 10).all()
    assert (sheet[:10, 23:] == 20).all()
    assert (sheet[13:19, :8] == 30).all()
    assert (sheet[19:, :] == 255).all()
    assert contact_sheet(images).shape == (2 * 10 + 4, 2 * 20 + 4, 3)


def test_captions_stand_above_and_fit_narrow_pictures():
    image = np.full((30, 40), 200, np.uint8)
    plain = contact_sheet([image])
    sheet = contact_sheet([image], ["a caption that is far too long for forty pixels"])
    strip = sheet.shape[0] - plain.shape[0]
    assert strip > 0
    assert (sheet[strip:] == 200).all()
    assert (sheet[:strip] < 128).any()


def test_png_comes_back_the_same(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = tmp_path / "new" / "picture.png"
    write_png(path, rgb)
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], rgb)
    write_png(path, rgb[..., 0])
    assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), rgb[..., 0])
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_bad_input_is_said_in_one_line(tmp_path):
    cells = masks_of((20, 30), (10, 10, 4))
    image = np.zeros((20, 30), np.uint8)
    with pytest.raises(SomasegError, match="image is 30 × 20, its instances lie on 20 × 30"):
        overlay(image.T, cells)
    with pytest.raises(SomasegError, match="color_by='score'"):
        overlay(image, cells, color_by="score")
    with pytest.raises(SomasegError, match=r"fill=1.5"):
        overlay(image, cells, fill=1.5)
    with pytest.raises(SomasegError, match="at least one image"):
        contact_sheet([])
    with pytest.raises(SomasegError, match="2 captions for 1 images"):
        contact_sheet([image], ["a", "b"])
    with pytest.raises(SomasegError, match="is no picture"):
        write_png(tmp_path / "x.png", np.zeros((0, 3, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
