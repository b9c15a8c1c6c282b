import numpy as np
import pytest

from somaseg.decide import MaskHead, second_pass
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from tests.decide.oracle import dense

IMAGE = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)


class Pencil:
    """Fills the box it is given, grown by a margin, with one level; keeps what it was asked."""

    def __init__(self, level, margin=0, names=("a", "b"), factor=1.0):
        self.level, self.margin, self.names, self.factor = level, margin, names, factor

    def predict_masks(self, image, boxes, classes, scores):
        assert image is IMAGE
        assert boxes.dtype == np.float32
        self.asked = boxes, classes
        grown = boxes.astype(int) + self.margin * np.array([-1, -1, 1, 1])
        grown = np.clip(grown, 0, [50, 40, 50, 40])
        crops = [np.full((y1 - y0, x1 - x0), self.level, np.uint8) for x0, y0, x1, y1 in grown]
        return Instances.from_crops(
            (40, 50), grown, crops, scores * self.factor, classes, self.names, soft=True
        )


def fused():
    """A mask whose box is wider than what is above a half, and one that is nowhere above it."""
    wide = np.full((10, 12), 50, np.uint8)
    wide[2:6, 3:9] = 200
    return Instances.from_crops(
        (40, 50),
        np.array([[5, 4, 17, 14], [30, 20, 34, 24]]),
        [wide, np.full((4, 4), 90, np.uint8)],
        [0.8, 0.4],
        [1, 0],
        ("b", "a"),
        soft=True,
    )


def test_masks_are_the_weighted_mean_of_those_drawn_in_the_fused_boxes():
    models = [Pencil(240), Pencil(120, margin=2, names=("a", "c", "b"), factor=0.5)]
    result = second_pass(models, IMAGE, fused(), [2, 1])
    assert isinstance(models[0], MaskHead)
    assert models[0].asked[0].tolist() == [[8, 6, 14, 10], [30, 20, 34, 24]]
    assert models[0].asked[1].tolist() == [0, 1]  # by name
    assert models[1].asked[1].tolist() == [0, 2]
    expected = np.zeros((2, 40, 50))
    expected[0, 4:12, 6:16] = expected[1, 18:26, 28:36] = 120 / 3
    expected[0, 6:10, 8:14] = expected[1, 20:24, 30:34] = (2 * 240 + 120) / 3
    assert (dense(result) == expected).all()
    assert result.scores == pytest.approx(fused().scores * (2 + 0.5) / 3)
    assert result.classes.tolist() == [1, 0]
    assert result.names == ("b", "a")


def test_one_model_draws_alone():
    result = second_pass([Pencil(200)], IMAGE, fused())
    assert result.boxes.tolist() == [[8, 6, 14, 10], [30, 20, 34, 24]]
    assert (result.pixels == 200).all()


def test_unknown_classes():
    unknown = fused().with_classes(-1)
    one = Pencil(200, names=("cell",))
    second_pass([one], IMAGE, unknown)
    assert one.asked[1].tolist() == [0, 0]
    with pytest.raises(SomasegError, match="2 of 2 fused ones have none"):
        second_pass([Pencil(200)], IMAGE, unknown)
    with pytest.raises(SomasegError, match="class 'b' is not among"):
        second_pass([Pencil(200, names=("a",))], IMAGE, fused())


def test_nothing_to_draw_or_nobody_who_can():
    assert len(second_pass([Pencil(200)], IMAGE, fused()[:0])) == 0
    with pytest.raises(SomasegError, match="no member draws masks"):
        second_pass([], IMAGE, fused())
    assert not isinstance(object(), MaskHead)


def test_a_head_that_loses_cells_is_found_out():
    class Loses(Pencil):
        def predict_masks(self, *arguments):
            return super().predict_masks(*arguments)[:1]

    with pytest.raises(ValueError, match="predict_masks gave"):
        second_pass([Loses(200)], IMAGE, fused())
