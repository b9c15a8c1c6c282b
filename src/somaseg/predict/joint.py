"""Several predictors as one: their instances are fused before anything is decided."""

import hashlib
from collections.abc import Sequence

import numpy as np

from somaseg.data.images import Levels
from somaseg.decide import Fusion, fuse
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.flat import Size
from somaseg.models.base import Gray, Image
from somaseg.predict.predictor import Finder, Predictor, check_alike_channels
from somaseg.predict.tiles import Grid


class JointPredictor(Finder):
    """Predicts with several members, of any families, and fuses what they find in each tile.

    Args:
        members: predictors and their weights.
        fusion: how they are joined.

    Raises:
        SomasegError: no member, or members that cut images differently.
    """

    def __init__(self, members: Sequence[tuple[Predictor, float]], fusion: Fusion) -> None:
        if not members:
            raise SomasegError("no member to predict with")
        self.members, self.fusion = list(members), fusion
        for predictor, _ in members[1:]:
            check_alike_channels(members[0][0].channels, predictor.channels)
        # Tiles must be the same for all: those of the member that needs the widest overlap.
        self.batch = max(predictor.batch for predictor, _ in members)
        self.widest = max((predictor for predictor, _ in members), key=lambda p: p.overlap)

    @property
    def diameter(self) -> float:
        """Diameter in pixels of the cells that it was trained on."""
        return self.members[0][0].diameter

    def grid(self, size: tuple[int, ...]) -> Grid:
        """Tiles of an image of ``size`` (h, w)."""
        return self.widest.grid(size)

    @property
    def channels(self) -> tuple[str, ...]:
        """As its members know them."""
        return self.members[0][0].channels

    def prepare(self, image: Image, levels: Levels | None = None) -> Gray:
        """As its members do; where they see other gray levels, stacked along a further axis."""
        kinds = {p.models[0].levels(image.dtype) for p, _ in self.members}
        if len(kinds) == 1:
            return self.widest.prepare(image, levels)
        return np.stack([predictor.prepare(image, levels) for predictor, _ in self.members], -1)

    def find_each(self, grays: Sequence[Gray], shape: Size | None = None) -> list[Instances]:
        """Raw instances of prepared images or tiles; see :meth:`Finder.find_each`."""
        plain = 2 if len(self.channels) <= 1 else 3
        found = [
            p.find_each([gray[..., i] if gray.ndim > plain else gray for gray in grays], shape)
            for i, (p, _) in enumerate(self.members)
        ]
        weights = [weight for _, weight in self.members]
        return [fuse(of_tile, weights, self.fusion) for of_tile in zip(*found, strict=True)]

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that differ if predictions may."""
        parts = [(predictor.fingerprint(), weight) for predictor, weight in self.members]
        return hashlib.sha256(repr((parts, self.fusion)).encode()).hexdigest()[:16]
