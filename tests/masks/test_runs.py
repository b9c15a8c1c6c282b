"""Room for runs: enough for any mask, in both directions."""

import numpy as np
import pytest

from somaseg.instances import Instances
from somaseg.masks import runs


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 7), (7, 2), (5, 5)])
@pytest.mark.parametrize("pattern", ["full", "checks", "stripes"])
def test_every_run_has_its_place(monkeypatch, shape, columns, pattern):
    # As Python, where a place out of bounds is an error and not another array's memory.
    monkeypatch.setattr(runs, "_encode", runs._encode.py_func)
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = {"full": y >= 0, "checks": (y + x) % 2 == 0, "stripes": y % 2 == 0}[pattern]
    image = np.zeros((20, 21), bool)
    image[3 : 3 + shape[0], 4 : 4 + shape[1]] = mask
    flat = Instances.from_masks(np.stack([image] * 3)).flat
    found, bounds = runs.encode(flat, image.shape, columns)
    line = np.r_[0, (image.T if columns else image).ravel().astype(int), 0]
    edges = np.flatnonzero(np.diff(line))
    expected = np.stack([edges[::2], edges[1::2] - edges[::2]], 1)
    assert bounds.tolist() == [len(expected) * k for k in range(4)]
    for k in range(3):
        assert np.array_equal(found[bounds[k] : bounds[k + 1]], expected)
