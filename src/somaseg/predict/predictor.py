"""Raw predictions of one model, or of several members, for images of any size.

Of the packages beside this one it uses ``ensemble``, which knows nothing of it.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np

from somaseg.data.augment import prepare_image
from somaseg.decide import Fusion, fuse
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.flat import Size
from somaseg.models.base import Dense, Gray, Image, Maps, Model, Region
from somaseg.models.device import choose_device, keep_memory
from somaseg.models.engine import choose_engine, use_engine
from somaseg.predict.stitch import stitch
from somaseg.predict.tiles import Grid, network_unit
from somaseg.predict.views import VIEWS

Progress = Callable[[int, int], None]
"""Called as ``progress(done, in all)``, with images or tiles."""

TILE = 1024
"""Default side of a tile, in image pixels."""


class Finder(ABC):
    """Finds cells, raw and soft, in images of any size: one member, or several joined."""

    def __call__(self, image: Image) -> Instances:
        """Raw instances of one image, (h, w) or (h, w, 3)."""
        gray = self.prepare(image)
        grid = self.grid(gray.shape)
        found = {place: self.find(gray[grid.slices(*place)], grid.shape) for place in grid}
        return stitch(grid, found)[0]

    @property
    @abstractmethod
    def diameter(self) -> float:
        """Diameter in pixels of the cells that it was trained on."""

    def prepare(self, image: Image, levels: tuple[float, float] | None = None) -> Gray:
        """Make an image, or a part of one whose percentiles are given, what :meth:`find` takes."""
        return prepare_image(image, levels)

    @abstractmethod
    def grid(self, size: tuple[int, ...]) -> Grid:
        """Tiles of an image of ``size`` (h, w)."""

    @abstractmethod
    def find(self, gray: Gray, shape: Size | None = None) -> Instances:
        """Raw instances of a prepared image or tile, in one pass.

        Args:
            gray: float32 (h, w).
            shape: (height, width) that it is mirrored out to, as all tiles of an image are alike.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return hexadecimal digits that differ if predictions may."""


class Predictor(Finder):
    """Predicts images with one model, or with several members of one family.

    Members and test-time views of a dense family are averaged as maps; those of a region family are
    matched and fused as instances. An image larger than a tile goes through tile by tile.

    Args:
        models: members with the same classes (as the fold models of one run).
        views: test-time views, a key of :data:`somaseg.predict.views.VIEWS`.
        tile: largest side of a tile, in image pixels.
        overlap: of neighbouring tiles; by default :func:`default_overlap`.
        fusion: how instances of members and views are fused (region families).
        device: where the networks run, as for :func:`somaseg.models.device.choose_device`.
        engine: what runs them, as for :func:`somaseg.models.engine.choose_engine`.

    Raises:
        SomasegError: no model, members of several families or classes, unknown views, an overlap
            that does not fit the tile, or an engine that cannot run them.
    """

    def __init__(
        self,
        models: Sequence[Model],
        views: str = "none",
        tile: int = TILE,
        overlap: int | None = None,
        fusion: Fusion | None = None,
        device: str | None = None,
        engine: str | None = None,
    ) -> None:
        if not models:
            raise SomasegError("no model to predict with")
        if views not in VIEWS:
            raise SomasegError(f"views {views!r}: not one of {', '.join(VIEWS)}")
        first = models[0]
        for other in models[1:]:
            if type(other) is not type(first) or other.names != first.names:
                raise SomasegError(
                    "models of different families or classes are no members of one run; "
                    "join their predictions with `somaseg ensemble`"
                )
            if other.levels(np.dtype(np.uint8)) != first.levels(np.dtype(np.uint8)):
                raise SomasegError(
                    "models that see other gray levels are no members of one run; "
                    "join their predictions with `somaseg ensemble`"
                )
        keep_memory()
        place, self.engine = choose_device(device), choose_engine(engine)
        for model in models:
            use_engine(model, self.engine, place)
            model.place(place)
        self.models, self.views, self.tile = list(models), VIEWS[views], tile
        self.overlap = default_overlap(models, tile) if overlap is None else overlap
        self.fusion = fusion
        self.grid((tile, tile))  # a wrong overlap is told before the first image

    @property
    def diameter(self) -> float:
        """Diameter in pixels of the cells that it was trained on."""
        return self.models[0].info.diameter

    def prepare(self, image: Image, levels: tuple[float, float] | None = None) -> Gray:
        """As its models do."""
        return self.models[0].prepare(image, levels)

    def grid(self, size: tuple[int, ...]) -> Grid:
        """Tiles of an image of ``size`` (h, w).

        They are laid on the first member's grid; on those of members of another scale, they lie
        by chance.
        """
        first = self.models[0]
        # Networks say how coarse they are; of the encoders inside other models none is coarser.
        unit = network_unit(first.scale, getattr(first, "multiple", 32), self.tile)
        return Grid((size[0], size[1]), self.tile, self.overlap, unit)

    def find(self, gray: Gray, shape: Size | None = None) -> Instances:
        """Raw instances of a prepared image or tile, in one pass; see :meth:`Finder.find`."""
        size = gray.shape
        height, width = shape or size
        below, beside = height - size[0], width - size[1]
        gray = np.asarray(
            cv2.copyMakeBorder(gray, 0, below, 0, beside, cv2.BORDER_REFLECT), np.float32
        )
        first = self.models[0]
        if isinstance(first, Dense):
            return first.decode(np.ascontiguousarray(self._maps(gray)[:, : size[0], : size[1]]))
        found = []
        for model in self.models:
            assert isinstance(model, Region)
            found += [
                view.undo_instances(model.find(view.image(gray)), (height, width))
                for view in self.views
            ]
        joined = found[0] if len(found) == 1 else fuse(found, fusion=self.fusion)
        return joined if joined.size == size else joined.window(size)[0]

    def _maps(self, gray: Gray) -> Maps:
        """Mean over members and views."""
        total: Maps | None = None
        for model in self.models:
            assert isinstance(model, Dense)
            for view in self.views:
                maps = view.undo_maps(model.maps(view.image(gray)), gray.shape, model.vectors)
                total = maps if total is None else np.add(total, maps, out=total)
        assert total is not None
        total /= np.float32(len(self.models) * len(self.views))
        return total

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that differ if predictions may."""
        digest = hashlib.sha256()
        for model in self.models:
            fields = [model.config.model_dump(mode="json"), list(model.names), model.info.diameter]
            digest.update(json.dumps(fields, sort_keys=True).encode())
            for name, tensor in sorted(model.tensors().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            for _, data in sorted(model.parts().items()):
                digest.update(data)
        fusion = self.fusion or Fusion()
        digest.update(repr((self.views, self.tile, self.overlap, fusion)).encode())
        if self.engine != "torch":  # the last digits differ
            digest.update(self.engine.encode())
        return digest.hexdigest()[:16]


def default_overlap(models: Sequence[Model], tile: int = TILE) -> int:
    """Overlap of tiles for the cells of some models: eight diameters, at most a third of a tile.

    So a cell at the middle of an overlap has four diameters of surroundings on either side.
    """
    return min(round(8 * max(model.info.diameter for model in models)), tile // 3)


def predict_images(
    predictor: Predictor,
    images: Iterable[tuple[str, Callable[[], Image]]],
    count: int,
    progress: Progress | None = None,
) -> dict[str, Instances]:
    """Predict many images, reading each when its turn comes.

    Args:
        predictor: gives raw instances of one image.
        images: id and reader of each.
        count: how many there are, for the progress.
        progress: told after each.
    """
    out: dict[str, Instances] = {}
    for done, (name, read) in enumerate(images, 1):
        out[name] = predictor(read())
        if progress:
            progress(done, count)
    return out
