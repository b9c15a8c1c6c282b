"""Raw predictions to settle: soft, overlapping, some of them wrong."""

import numpy as np
from hypothesis import strategies as st

from somaseg.instances import Instances

NAMES = ("a", "b")


@st.composite
def crowds(draw, size=(24, 30), most=9):
    """Soft or hard instances on top of each other, ragged, with holes, equal scores and areas."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(0, most))
    soft = draw(st.booleans())
    y, x = np.mgrid[: size[0], : size[1]]
    masks = []
    for _ in range(n):
        cy, cx, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(1, 9)
        stretch = rng.uniform(0.5, 2)
        distance = np.hypot((y - cy) * stretch, x - cx) / r
        values = 255 * np.clip(1.4 - distance, 0, 1)
        if rng.random() < 0.4:  # a ring
            values = 255 * np.clip(1.5 - 4 * np.abs(distance - 0.75), 0, 1)
        if rng.random() < 0.5:  # torn into pieces
            values = values * (rng.random(size) < rng.choice([0.6, 0.9]))
        if rng.random() < 0.3:
            values[:, int(rng.integers(size[1]))] = 0
        values[int(cy), int(cx)] = 255
        masks.append(values)
    values = np.array(masks).reshape(-1, *size)
    values = values.astype(np.uint8) if soft else values > 127
    return Instances.from_masks(
        values,
        scores=(rng.integers(0, 9, n) / 8).astype(np.float32),
        classes=np.zeros(n, np.int16),
        names=NAMES,
        soft=soft,
    )
