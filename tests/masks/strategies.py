"""Random small images of masks, and the plain dense way to say what should come out."""

import numpy as np
from hypothesis import strategies as st

from somaseg.instances import Instances
from somaseg.masks.flat import from_crops

SIDE = st.integers(1, 13)


@st.composite
def stacks(draw, least=0, most=6, size=None):
    """Full masks bool (n, h, w), none empty: noise of some density in some rectangle."""
    height, width = size or (draw(SIDE), draw(SIDE))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = []
    for density in draw(
        st.lists(st.sampled_from([0.1, 0.5, 0.8, 0.95, 1.0]), min_size=least, max_size=most)
    ):
        mask = np.zeros((height, width), bool)
        y0, x0 = rng.integers(0, height), rng.integers(0, width)
        part = mask[y0 : rng.integers(y0, height) + 1, x0 : rng.integers(x0, width) + 1]
        part[:] = rng.random(part.shape) < density
        part.flat[rng.integers(0, part.size)] = True
        masks.append(mask)
    return np.array(masks, bool).reshape(-1, height, width)


@st.composite
def two_stacks(draw):
    """Two sets of masks of one image."""
    size = draw(SIDE), draw(SIDE)
    return draw(stacks(size=size)), draw(stacks(size=size))


@st.composite
def loose(draw, least=0, most=6, soft=False):
    """Instances whose boxes are wider than their masks, and the full masks (n, h, w)."""
    masks = draw(stacks(least, most))
    n, height, width = masks.shape
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = masks.astype(np.uint8)
    if soft:
        values *= rng.integers(1, 256, masks.shape, np.uint8)
    boxes, crops = [], []
    for mask, value in zip(masks, values, strict=True):
        ys, xs = mask.nonzero()
        x0, y0 = rng.integers(0, xs.min() + 1), rng.integers(0, ys.min() + 1)
        x1, y1 = rng.integers(xs.max() + 1, width + 1), rng.integers(ys.max() + 1, height + 1)
        boxes.append([x0, y0, x1, y1])
        crops.append(value[y0:y1, x0:x1])
    scores = rng.integers(0, 4, n) / 4  # some are equal
    flat = from_crops(np.array(boxes, np.int32).reshape(-1, 4), crops)
    return Instances.from_flat((height, width), flat, scores, names=("a",), soft=soft), values


def full(flat, size):
    """Full images uint8 (n, h, w) of boxes, pixels and offsets."""
    images = np.zeros((len(flat.boxes), *size), np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(flat.boxes):
        crop = flat.pixels[flat.offsets[i] : flat.offsets[i + 1]]
        images[i, y0:y1, x0:x1] = crop.reshape(y1 - y0, x1 - x0)
    return images


def is_tight(flat, size):
    """Whether every box is the smallest one around its mask."""
    for image, box in zip(full(flat, size), flat.boxes, strict=True):
        ys, xs = image.nonzero()
        if [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] != box.tolist():
            return False
    return True


def blobs(n, size, seed=0, radius=(4, 12)):
    """n filled ellipses, many of them overlapping, bool (n, h, w)."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    masks = np.empty((n, height, width), bool)
    for mask in masks:
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        a, b = rng.uniform(*radius, 2)
        angle = rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        mask[:] = (u / a) ** 2 + (v / b) ** 2 <= 1
        mask[int(cy), int(cx)] = True
    return masks
