"""Mending annotations: each fault by itself, and sound annotations left alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from somaseg.data.clean import KINDS, CleanSettings, clean, clean_image
from somaseg.data.synthetic import make_image
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances

SIZE = (60, 80)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]


def disc(x, y, r):
    return (X - x) ** 2 + (Y - y) ** 2 <= r**2


def cells(*masks):
    return Instances.from_masks(np.array(masks), classes=0, names=("cell",))


def mend(annotation, found=None, **changes):
    return clean_image("a", annotation, CleanSettings(**changes), found)


def test_sound_annotations_stay():
    sound = cells(disc(20, 20, 8), disc(50, 30, 10))
    mended, changes = mend(sound, found=sound)
    assert changes == []
    assert np.array_equal(mended.pixels, sound.pixels)


def test_holes():
    holed = disc(30, 30, 10) & ~disc(30, 30, 3)
    mended, changes = mend(cells(holed))
    assert np.array_equal(mended.mask(0), ndimage.binary_fill_holes(holed))
    assert [(c.kind, c.row, c.what) for c in changes] == [("holes", 0, "filled 29 pixels")]
    assert mend(cells(holed), holes=False)[1] == []


def test_stray_pieces_go_and_large_ones_stay():
    stray, half = disc(30, 30, 8) | disc(60, 30, 2), disc(15, 45, 6) | disc(60, 50, 5)
    mended, changes = mend(cells(stray, half))
    assert np.array_equal(mended.mask(0), disc(30, 30, 8))
    assert np.array_equal(mended.mask(1), half)
    assert [(c.kind, c.row) for c in changes] == [("pieces", 0)]
    assert "dropped 1 of 2 pieces, 13 of 210 pixels" in changes[0].what


def test_slivers():
    line = np.zeros(SIZE, bool)
    line[10:12, 10:60] = True
    mended, changes = mend(cells(line, disc(30, 40, 5)))
    assert len(mended) == 1
    assert [(c.kind, c.row) for c in changes] == [("sliver", 0)]
    line[12, 30:33] = True  # now 3 wide, somewhere
    assert len(mend(cells(line))[0]) == 1


def test_of_duplicates_the_larger_stays():
    mended, changes = mend(cells(disc(30, 30, 8), disc(31, 30, 9), disc(60, 30, 8)))
    assert np.array_equal(mended.mask(0), disc(31, 30, 9))
    assert len(mended) == 2
    assert [(c.kind, c.row) for c in changes] == [("duplicate", 0)]
    assert "with instance 1" in changes[0].what


def test_a_mask_around_two_cells_is_cut_apart():
    one, two = disc(25, 30, 9), disc(46, 30, 9)
    bridge = (np.abs(Y - 30) <= 4) & (X > 25) & (X < 46)
    annotated = one | two | bridge
    mended, changes = mend(cells(annotated, disc(70, 10, 6)), found=cells(one, two))
    assert [(c.kind, c.row, c.what) for c in changes] == [("merged", 0, "cut into 2 cells")]
    assert len(mended) == 3
    left, right = mended.mask(0), mended.mask(1)
    assert not (left & right).any()
    assert np.array_equal(left | right, annotated)  # no pixel is lost
    assert (left & one).sum() == one.sum()
    assert (right & two).sum() == two.sum()


def test_a_shifted_mask_is_moved_onto_the_cell():
    cell = disc(40, 30, 9)
    off = np.roll(cell, (3, 6), (0, 1))
    mended, changes = mend(cells(off), found=cells(cell))
    assert np.array_equal(mended.mask(0), cell)
    assert [(c.kind, c.what) for c in changes] == [
        ("shifted", "moved by -6 -3 pixels: IoU with the prediction 0.37 → 1.00")
    ]
    assert mend(cells(off), found=cells(cell), shifts=2)[1] == []


def test_unsure_predictions_change_nothing():
    cell = disc(40, 30, 9)
    off = cells(np.roll(cell, (3, 6), (0, 1)))
    assert mend(off, found=cells(cell).with_scores(0.4))[1] == []


@given(st.sampled_from(["cort", "shsy5y", "astro"]), st.integers(0, 20))
def test_cleaning_twice_changes_nothing_more(kind, seed):
    annotation = make_image(kind, seed, (96, 96))[1]
    once, _ = clean_image("a", annotation, CleanSettings())
    twice, changes = clean_image("a", once, CleanSettings())
    assert changes == []
    assert np.array_equal(once.pixels, twice.pixels)


def test_a_data_set_keeps_all_but_the_faults():
    samples = (
        Sample("a", SIZE, None, cells(disc(30, 30, 10) & ~disc(30, 30, 3)), "cell", "well"),
        Sample("b", SIZE, None, None),
    )
    dataset = Dataset(samples, ("cell",), "here", 0.5)
    mended, changes = clean(dataset)
    assert [s.id for s in mended] == ["a", "b"]
    assert mended["a"].group == "well"
    assert mended["b"].instances is None
    assert mended.pixel_size == 0.5
    assert {c.kind for c in changes} <= set(KINDS)
    wrong = {"a": Instances.empty((5, 5), ("cell",))}
    with pytest.raises(SomasegError, match="image a: 80×60 pixels, but predicted on 5×5"):
        clean(dataset, found=wrong)
