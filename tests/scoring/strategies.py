"""Small random images for property tests, and shapes used in many tests."""

import numpy as np
from hypothesis import strategies as st

from somaseg.data.types import Dataset, Sample
from somaseg.instances import Instances

SIZE = (9, 11)


@st.composite
def boxes(draw):
    """A rectangle mask: rectangles overlap often and have many equal IoUs."""
    height, width = SIZE
    y0 = draw(st.integers(0, height - 1))
    x0 = draw(st.integers(0, width - 1))
    y1 = draw(st.integers(y0 + 1, height))
    x1 = draw(st.integers(x0 + 1, width))
    return rectangle(y0, x0, y1, x1, SIZE)


@st.composite
def pairs_of_stacks(draw, most=5):
    """Truths and predictions; the predictions are new ones or altered truths."""
    truths = draw(st.lists(boxes(), max_size=most))
    predictions = draw(st.lists(boxes(), max_size=most))
    for truth in truths:
        if len(predictions) < most and draw(st.booleans()):
            shift = draw(st.integers(-1, 1))
            moved = np.roll(truth, shift, axis=draw(st.integers(0, 1)))
            predictions.append(moved)
    return stack(truths), stack(predictions)


def rectangle(y0, x0, y1, x1, size):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def stack(masks, size=SIZE):
    return np.array(masks, bool).reshape(-1, *size)


def instances(masks, scores=None, classes=None, names=("cell",)):
    masks = np.asarray(masks, bool)
    masks = masks if masks.ndim == 3 else stack(masks)
    return Instances.from_masks(masks, scores=scores, classes=classes, names=names)


def dataset(truths, names=("cell",), image_class=None, source="truth"):
    """Images ``a``, ``b``, … with these instances; ``image_class``: one for each."""
    image_class = image_class or [None] * len(truths)
    samples = [
        Sample(chr(ord("a") + k), truth.size, instances=truth, image_class=kind)
        for k, (truth, kind) in enumerate(zip(truths, image_class, strict=True))
    ]
    return Dataset(tuple(samples), tuple(names), source)
