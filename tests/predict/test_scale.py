"""Cells of another size than the model knows."""

import numpy as np
import pytest
import tifffile

from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.predict.load import load_segmenter
from somaseg.predict.outputs import segment_samples
from somaseg.predict.predictor import Predictor
from somaseg.predict.scale import estimate_diameter, rescale, restore
from somaseg.predict.segmenter import Segmenter
from somaseg.scoring import Overlaps
from tests.predict.fakes import INFO, FakeRegion, discs
from tests.predict.test_outputs import SETTINGS


class Picky(FakeRegion):
    """Sure of cells of its own diameter, 8, less so of others; sees none under 4 or above 16."""

    def find(self, gray):
        found = super().find(gray)
        width = 2 * np.sqrt(found.areas / np.pi) / 8
        seen = (width > 0.5) & (width < 2)
        sure = np.exp(-(np.log(np.maximum(width, 0.1)) ** 2) * 4)
        return found.with_scores(sure.astype(np.float32))[seen]


def picky(**options):
    return Segmenter(Predictor([Picky()], tile=512, **options), INFO.names, SETTINGS, False)


def scene(diameter):
    """Discs of about one diameter, without noise; 8 bit, and their labels."""
    side = int(diameter * 24)
    gray, labels = discs((side, side), 60, radius=(diameter * 0.42, diameter * 0.55), gap=2)
    return np.round(gray * 250).astype(np.uint8), labels


@pytest.mark.parametrize("diameter", [4, 8, 20, 40])
def test_cells_of_other_sizes_are_found_once_it_is_given(diameter):
    image, labels = scene(diameter)
    truth = picky()(image).from_labels(labels)
    for given in (diameter, "auto"):
        segment = picky()
        segment.diameter = given
        cells = segment(image)
        assert cells.size == image.shape
        hits = int((Overlaps.between(truth, cells).matches((70,))[0] >= 0).sum())
        assert hits >= 0.9 * len(truth) > 40
        assert cells.areas.sum() == np.count_nonzero(cells.to_labels())
    # Without, next to none of the large ones: what the image's border cuts small.
    assert len(picky()(image)) < 0.1 * len(truth) or diameter in (4, 8)


@pytest.mark.parametrize("diameter", [4, 8, 13, 20, 40])
def test_the_diameter_is_estimated(diameter):
    image, labels = scene(diameter)
    true = np.median(2 * np.sqrt(np.bincount(labels.ravel())[1:] / np.pi))
    assert estimate_diameter(picky(), image, 8) == pytest.approx(true, rel=0.12)
    assert estimate_diameter(picky(), np.full_like(image, 7), 8) is None


def test_scaling_goes_there_and_back():
    image, _ = scene(20)
    for scale in (0.3, 0.5, 1.7):
        small = rescale(image, scale)
        assert small.dtype == image.dtype
        assert small.shape == tuple(round(side * scale) for side in image.shape)
        color = rescale(np.stack([image] * 3, axis=2), scale)
        assert color.shape == (*small.shape, 3)
    found = Segmenter(Predictor([FakeRegion()]), INFO.names, SETTINGS, False)(image)
    back = restore(found, image.shape)
    assert np.array_equal(back.to_labels(), found.to_labels())


def test_a_folder_says_what_was_taken(tmp_path):
    image, _ = scene(20)
    tifffile.imwrite(tmp_path / "a.tif", image)
    samples = [Sample("a", image.shape, tmp_path / "a.tif")]
    segment = picky()
    plain = segment_samples(segment, samples, tmp_path / "out")
    assert plain.diameters == {}
    segment.diameter = "auto"
    done = segment_samples(segment, samples, tmp_path / "out")
    assert done.done == ("a",)  # another diameter is another prediction
    assert done.diameters == {"a": pytest.approx(20, rel=0.12)}
    assert segment_samples(segment, samples, tmp_path / "out").diameters == done.diameters


@pytest.mark.parametrize("wrong", ["large", "-3", "0", "nan", "inf"])
def test_mistakes(wrong):
    with pytest.raises(SomasegError, match="give the cells' diameter in pixels, or auto"):
        load_segmenter(diameter=wrong)
