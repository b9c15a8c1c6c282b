"""Test-time views of an image: the eight symmetries of the square, and turning maps back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from somaseg.models.base import Gray, Maps


@dataclass(frozen=True)
class View:
    """A number of right-angle turns, after mirroring left to right or not."""

    turns: int
    mirrored: bool

    def image(self, gray: Gray) -> Gray:
        """Apply the view to an image (h, w)."""
        if self.mirrored:
            gray = gray[:, ::-1]
        return np.ascontiguousarray(np.rot90(gray, self.turns))

    def undo(self, maps: Maps, vectors: Sequence[tuple[int, int]]) -> Maps:
        """Bring maps (c, h', w') of the view back onto the image, vectors' directions too.

        Args:
            maps: predicted on :meth:`image`'s output.
            vectors: pairs of channels (dy, dx).
        """
        maps = np.rot90(maps, -self.turns, axes=(1, 2)).copy()
        for y, x in vectors:
            # One turn of the image carries (dy, dx) to (−dx, dy): undo as many.
            for _ in range(self.turns % 4):
                maps[y], maps[x] = maps[x].copy(), -maps[y]
            if self.mirrored:
                maps[x] = -maps[x]
        if self.mirrored:
            maps = maps[:, :, ::-1]
        return np.ascontiguousarray(maps)


VIEWS: dict[str, tuple[View, ...]] = {
    "none": (View(0, False),),
    "flips": (View(0, False), View(0, True), View(2, True), View(2, False)),
    "all": tuple(View(turns, mirrored) for mirrored in (False, True) for turns in range(4)),
}
"""Named sets of views: as it is, the two flips and their product, all eight."""
