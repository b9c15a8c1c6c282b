import numpy as np
import pytest

from somaseg.inference.views import VIEWS, View
from somaseg.models.flow.targets import label_flows


def labels():
    y, x = np.mgrid[:41, :53]
    out = np.zeros((41, 53), np.int32)
    out[((y - 15) / 9) ** 2 + ((x - 20) / 14) ** 2 < 1] = 1
    out[30:39, 40:51] = 2
    return out


@pytest.mark.parametrize("view", VIEWS["all"])
def test_flows_of_a_view_turn_back(view):
    field = labels().astype(np.float32)
    maps = np.concatenate(
        [label_flows(view.image(field).astype(np.int32)), view.image(field)[None]]
    )
    back = view.undo(maps, [(0, 1)])
    assert np.array_equal(back[2], field)
    cosine = (back[:2] * label_flows(labels())).sum(0)[labels() > 0]
    # A centre between two pixels may fall on the other one in a view.
    assert np.median(cosine) > 0.99
    assert (cosine > 0.8).mean() > 0.9


def test_the_views_are_eight_different_ones():
    field = np.arange(12, dtype=np.float32).reshape(3, 4)
    seen = {(v.image(field).shape, v.image(field).tobytes()) for v in VIEWS["all"]}
    assert len(seen) == 8


def test_flips_keep_the_size():
    field = np.zeros((3, 4), np.float32)
    assert {v.image(field).shape for v in VIEWS["flips"]} == {(3, 4)}
    assert VIEWS["none"] == (View(0, False),)
