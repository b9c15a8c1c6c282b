"""Bring the cells of an image to the size that a model knows, and what it finds back.

A network finds cells of the size that it was trained on: of cells three times as wide it finds
parts. So an image whose cells have another diameter is enlarged or reduced before anything else,
and only the final masks are brought back to its own pixels.

``auto`` looks at the middle of the image at some scales. Where cells have the size that the model
knows, it finds many, is sure of them, and they come out at that size; that scale gives a first
diameter, and a second look at it the final one.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.flat import Size
from somaseg.models.base import Image
from somaseg.predict.views import resample

SCALES = (0.25, 0.5, 1.0, 2.0)
"""At which ``auto`` looks first."""
LEAST, MOST = 1 / 8, 8.0
"""Images are not reduced or enlarged by more."""
WINDOW = 768
"""Side, in pixels of the scaled image, of the part that ``auto`` looks at."""
SPREAD = 0.5
"""Of the logarithm of diameters around that which the model knows."""

Diameter = float | str | None
"""Of the cells of an image, in pixels; ``auto``; or none, for images of the model's own scale."""


def check_diameter(diameter: Diameter) -> Diameter:
    """Return a diameter that is one; a number may be given as text.

    Raises:
        SomasegError: neither a number above 0 nor ``auto``.
    """
    if diameter is None or diameter == "auto":
        return diameter
    try:
        number = float(diameter)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise SomasegError(f"diameter {diameter}: give the cells' diameter in pixels, or auto")
    return number


def scale_for(diameter: float, known: float) -> float:
    """Pixels of the scaled image per pixel, for cells of ``diameter`` and a model of ``known``."""
    return min(max(known / diameter, LEAST), MOST)


def rescale(image: Image, scale: float) -> Image:
    """Enlarge or reduce an image, (h, w) or (h, w, channels), of any number type; or a mapped."""
    image = image[:]
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    known = image.dtype in (np.uint8, np.uint16, np.float32)
    plain = np.ascontiguousarray(image if known else image.astype(np.float32))
    return np.asarray(cv2.resize(plain, (width, height), interpolation=way))


def restore(found: Instances, size: Size) -> Instances:
    """Bring final instances of a scaled image back onto the image's pixels, still disjoint."""
    back = resample(found, size)
    return back.disjoint(np.arange(len(back)))[0]


def estimate_diameter(
    segment: Callable[[Image], Instances], image: Image, known: float
) -> float | None:
    """Estimate the diameter of the cells of an image.

    Args:
        segment: finds the cells of an image at the model's own scale.
        image: (h, w) or (h, w, 3).
        known: diameter in pixels of the cells that the model was trained on.

    Returns:
        The median diameter of the cells that the model is sure of, in pixels of the image; none if
        it finds none at any scale.
    """
    looks = []
    for scale in SCALES:
        look = _look(segment, image, scale)
        if look is not None:
            diameter, evidence = look
            fit = math.exp(-((math.log(diameter * scale / known) / SPREAD) ** 2))
            looks.append((fit * evidence, diameter))
    if not looks:
        return None
    first = max(looks)[1]
    again = _look(segment, image, scale_for(first, known))
    return first if again is None else again[0]


def _look(
    segment: Callable[[Image], Instances], image: Image, scale: float
) -> tuple[float, float] | None:
    """Median diameter in the image's pixels, and how much of the image speaks for it."""
    part = rescale(_middle(image, WINDOW / scale), scale)
    found = segment(part)
    if not len(found):
        return None
    areas, scores = found.areas, found.scores.astype(np.float64)
    sure = scores >= np.median(scores)
    diameter = float(np.median(2 * np.sqrt(areas[sure] / np.pi))) / scale
    return diameter, float((areas * scores).sum() / (part.shape[0] * part.shape[1]))


def _middle(image: Image, side: float) -> Image:
    places = []
    for length in image.shape[:2]:
        taken = min(length, max(1, round(side)))
        begin = (length - taken) // 2
        places.append(slice(begin, begin + taken))
    return np.asarray(image[tuple(places)])
