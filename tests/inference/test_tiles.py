import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from somaseg.inference.tiles import ramp, spans, tiled_maps


@given(st.integers(1, 500), st.integers(2, 120), st.data())
def test_spans_cover_and_overlap(length, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    parts = list(spans(length, tile, overlap))
    assert parts[0].start == 0
    assert parts[-1].stop == length
    assert all(p.stop - p.start == min(tile, length) for p in parts)
    assert all(a.stop - b.start >= overlap for a, b in itertools.pairwise(parts))


def test_seams_of_a_local_operator_do_not_show():
    gray = np.random.default_rng(0).random((150, 210), dtype=np.float32)

    def run(part):
        return np.stack([cv2.GaussianBlur(part, (9, 9), 2), part])

    assert np.allclose(tiled_maps(run, gray, 64, 24)[1], gray, atol=1e-6)
    # Where a tile ends it sees a mirror; there its neighbour has the larger say.
    assert np.abs(tiled_maps(run, gray, 64, 24)[0] - run(gray)[0]).mean() < 2e-3


def test_small_image_runs_whole():
    calls = []
    tiled_maps(lambda part: calls.append(part.shape) or part[None], np.zeros((64, 50), "f4"), 64, 8)
    assert calls == [(64, 50)]


def test_memory_and_work_stay_within_a_tile():
    shapes = []
    tiled_maps(lambda p: shapes.append(p.shape) or p[None], np.zeros((300, 90), "f4"), 100, 20)
    assert set(shapes) == {(100, 90)}


def test_overlap_must_be_less_than_the_tile():
    with pytest.raises(ValueError, match="must be less"):
        tiled_maps(lambda part: part[None], np.zeros((9, 9), np.float32), 4, 4)


def test_ramp_never_reaches_zero():
    weights = ramp(slice(10, 30), 100, 8)
    assert weights.min() > 0
    assert weights[10] == 1
