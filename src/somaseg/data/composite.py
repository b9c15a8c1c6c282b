"""Show an image of several channels: a colour each, added."""

from typing import Any

import numpy as np
import numpy.typing as npt

from somaseg.data.images import Levels, normalise, stretch

COLOURS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
"""Of the channels, in turn: green and magenta first, which colour-blind eyes tell apart."""


def composite(image: npt.NDArray[Any], levels: Levels | None = None) -> npt.NDArray[np.uint8]:
    """Add the channels up, each in a colour of its own between its levels: uint8 (h, w, 3).

    Args:
        image: (h, w, channels).
        levels: of each channel, from :func:`somaseg.data.windows.channel_levels`; without, those of
            ``image``.
    """
    sum_of = np.zeros((*image.shape[:2], 3), np.float32)
    pairs: Any = levels or [None] * image.shape[2]
    for k, pair in enumerate(pairs):
        gray = image[..., k].astype(np.float32)
        shown = np.clip(normalise(gray) if pair is None else stretch(gray, *pair), 0, 1)
        sum_of += shown[..., None] * np.frombuffer(bytes.fromhex(COLOURS[k % 6]), np.uint8)
    return np.clip(np.round(sum_of), 0, 255).astype(np.uint8)
