"""Which pixels the forest learns from: few of the many, and each kind of them in balance."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from skimage.segmentation import find_boundaries

from somaseg.data.types import Sample

Labels = npt.NDArray[np.int32]

KINDS = ("background", "interior", "border")
BACKGROUND, INTERIOR, BORDER = range(3)
NEAR = 6
"""Grid pixels from a cell up to which the background is hard to tell from it."""


def label_kinds(labels: Labels) -> npt.NDArray[np.uint8]:
    """Tell background (0), interior (1) and border (2) of a label image (h, w).

    A border pixel is one of a cell with anything else among its 8 neighbours.
    """
    border = find_boundaries(labels, connectivity=2, mode="inner")
    return np.where(border, BORDER, np.where(labels > 0, INTERIOR, BACKGROUND)).astype(np.uint8)


def draw_pixels(
    kinds: npt.NDArray[np.uint8], count: int, prior: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Draw pixels in balance: a third of each kind; of the background, half of it near cells.

    Args:
        kinds: uint8 (h, w) of :func:`label_kinds`.
        count: of pixels to draw; fewer where a kind has too few.
        prior: exponent of the weights. With 1 the drawn pixels stand for all of the image, with
            0 they weigh the same.
        rng: draws.

    Returns:
        indices int64 (n,) into the flat image, and weights float32 (n,) of mean 1.
    """
    outside = (kinds == BACKGROUND).astype(np.uint8)
    near = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_3) <= NEAR
    strata = (
        ((outside > 0) & near, count // 6),
        ((outside > 0) & ~near, count // 6),
        (kinds == INTERIOR, count // 3),
        (kinds == BORDER, count // 3),
    )
    drawn, weights = [], []
    for where, share in strata:
        found = np.flatnonzero(where)
        few = min(len(found), max(share, 1))
        drawn.append(rng.choice(found, few, replace=False))
        weights.append(np.full(few, (len(found) / max(few, 1)) ** prior))
    joined = np.concatenate(weights)
    return np.concatenate(drawn), (joined / joined.mean()).astype(np.float32)


def shares(samples: Sequence[Sample], count: int) -> list[int]:
    """Share ``count`` pixels among the cell types, and the share of each among its images."""
    types = [sample.image_class for sample in samples]
    return [count // len(set(types)) // types.count(kind) for kind in types]


def pieces(size: tuple[int, int], side: int) -> Iterator[tuple[slice, slice]]:
    """Cut an image into pieces of at most ``side`` pixels a side, row by row."""
    for y in range(0, size[0], side):
        for x in range(0, size[1], side):
            yield slice(y, min(y + side, size[0])), slice(x, min(x + side, size[1]))
