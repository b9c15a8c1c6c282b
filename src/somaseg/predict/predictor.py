"""Raw predictions of one model, or of several members, for images of any size.

Of the packages beside this one it uses ``ensemble``, which knows nothing of it.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import cv2
import numpy as np

from somaseg.data.augment import prepare_image
from somaseg.data.images import Levels
from somaseg.data.windows import channel_levels, find_levels
from somaseg.decide import Fusion, fuse
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.flat import Size
from somaseg.models.base import Dense, Gray, Image, Maps, Model, Region
from somaseg.models.device import choose_batch, choose_device, keep_memory, predicting
from somaseg.models.engine import choose_engine, use_engine
from somaseg.models.precision import HALVES, choose_precision, precision_of
from somaseg.predict.stitch import stitch
from somaseg.predict.tiles import Grid, network_unit
from somaseg.predict.views import VIEWS, View

Progress = Callable[[int, int], None]
"""Called as ``progress(done, in all)``, with images or tiles."""

T = TypeVar("T")

TILE = 1024
"""Default side of a tile, in image pixels."""


class Finder(ABC):
    """Finds cells, raw and soft, in images of any size: one member, or several joined.

    Attributes:
        batch: tiles, or views of them, that go through a network at once.
    """

    batch: int = 1

    def __call__(self, image: Image) -> Instances:
        """Raw instances of one image, (h, w) or (h, w, 3), or of the channels that it knows."""
        gray = self.prepare(image)
        grid = self.grid(gray.shape)
        found: dict[tuple[int, int], Instances] = {}
        for places in batched(grid, self.batch):
            parts = self.find_each([gray[grid.slices(*place)] for place in places], grid.shape)
            found |= zip(places, parts, strict=True)
        return stitch(grid, found)[0]

    @property
    @abstractmethod
    def diameter(self) -> float:
        """Diameter in pixels of the cells that it was trained on."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Of an image, that it looks at, by name or number; none: images of one channel."""
        return ()

    def prepare(self, image: Image, levels: Levels | None = None) -> Gray:
        """Make an image, or a part of one whose percentiles are given, what :meth:`find` takes."""
        return prepare_image(image, levels)

    def levels(self, image: Image, name: str = "the image") -> Levels:
        """Percentiles of a whole image, that :meth:`prepare` takes; it may be mapped."""
        find = find_levels if len(self.channels) <= 1 else channel_levels
        return find(image, name=name)

    @abstractmethod
    def grid(self, size: tuple[int, ...]) -> Grid:
        """Tiles of an image of ``size`` (h, w)."""

    def find(self, gray: Gray, shape: Size | None = None) -> Instances:
        """Raw instances of one prepared image or tile; see :meth:`find_each`."""
        return self.find_each([gray], shape)[0]

    @abstractmethod
    def find_each(self, grays: Sequence[Gray], shape: Size | None = None) -> list[Instances]:
        """Raw instances of prepared images or tiles of one shape, each as if it were alone.

        Args:
            grays: float32 (h, w), or (h, w, channels).
            shape: (height, width) that they are mirrored out to, as all tiles of an image are
                alike; by default that of the first.
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
        precision: in which they compute, as for
            :func:`somaseg.models.precision.choose_precision`.
        batch: views and tiles at once, as for :func:`somaseg.models.device.choose_batch`.

    Attributes:
        precisions: in which each model computes.

    Raises:
        SomasegError: no model, members of several families or classes, unknown views, an overlap
            that does not fit the tile, or an engine or a precision that cannot run them.
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
        precision: str | None = None,
        batch: int | None = None,
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
            check_alike_channels(first.info.channels, other.info.channels)
            if other.levels(np.dtype(np.uint8)) != first.levels(np.dtype(np.uint8)):
                raise SomasegError(
                    "models that see other gray levels are no members of one run; "
                    "join their predictions with `somaseg ensemble`"
                )
        keep_memory()
        self.device, self.engine = choose_device(device), choose_engine(engine)
        self.batch = choose_batch(batch, self.device)
        wanted = choose_precision(precision)
        self.precisions = [precision_of(m, wanted, self.engine, self.device) for m in models]
        for model, chosen in zip(models, self.precisions, strict=True):
            use_engine(model, self.engine, self.device, chosen)
            model.place(self.device)
        self.models, self.views, self.tile = list(models), VIEWS[views], tile
        self.overlap = default_overlap(models, tile) if overlap is None else overlap
        self.fusion = fusion
        self.grid((tile, tile))  # a wrong overlap is told before the first image

    @property
    def diameter(self) -> float:
        """Diameter in pixels of the cells that it was trained on."""
        return self.models[0].info.diameter

    @property
    def channels(self) -> tuple[str, ...]:
        """As its models know them."""
        return self.models[0].info.channels

    def prepare(self, image: Image, levels: Levels | None = None) -> Gray:
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

    def find_each(self, grays: Sequence[Gray], shape: Size | None = None) -> list[Instances]:
        """Raw instances of prepared images or tiles; see :meth:`Finder.find_each`."""
        height, width = frame = shape or grays[0].shape[:2]
        padded = [
            np.asarray(
                cv2.copyMakeBorder(
                    gray, 0, height - gray.shape[0], 0, width - gray.shape[1], cv2.BORDER_REFLECT
                ),
                np.float32,
            )
            for gray in grays
        ]
        first = self.models[0]
        if isinstance(first, Dense):
            return [
                first.decode(np.ascontiguousarray(maps[:, : gray.shape[0], : gray.shape[1]]))
                for maps, gray in zip(self._maps(padded), grays, strict=True)
            ]
        found: list[list[Instances]] = [[] for _ in grays]
        for model, precision in zip(self.models, self.precisions, strict=True):
            assert isinstance(model, Region)
            for i, view, cells in self._looks(padded, model.find_each, precision):
                found[i].append(view.undo_instances(cells, frame))
        joined = [one[0] if len(one) == 1 else fuse(one, fusion=self.fusion) for one in found]
        return [
            one if one.size == gray.shape[:2] else one.window(gray.shape[:2])[0]
            for one, gray in zip(joined, grays, strict=True)
        ]

    def _maps(self, grays: Sequence[Gray]) -> list[Maps]:
        """Mean over members and views, of each image."""
        totals: dict[int, Maps] = {}
        for model, precision in zip(self.models, self.precisions, strict=True):
            assert isinstance(model, Dense)
            for i, view, seen in self._looks(grays, model.maps_each, precision):
                maps = view.undo_maps(seen, grays[i].shape[:2], model.vectors)
                totals[i] = np.add(totals[i], maps, out=totals[i]) if i in totals else maps
        count = np.float32(len(self.models) * len(self.views))
        return [np.divide(totals[i], count, out=totals[i]) for i in range(len(grays))]

    def _looks(
        self, grays: Sequence[Gray], run: Callable[[Sequence[Gray]], list[T]], precision: str
    ) -> Iterator[tuple[int, View, T]]:
        """Number of the image, view, and what a model makes of it: those of one shape at once."""
        groups: dict[Size, list[tuple[int, View]]] = {}
        for view in self.views:
            of_shape = groups.setdefault(view.shape(grays[0].shape[:2]), [])
            of_shape += [(i, view) for i in range(len(grays))]
        for group in groups.values():
            for some in batched(group, self.batch):
                with predicting(self.device, HALVES.get(precision)):
                    made = run([view.image(grays[i]) for i, view in some])
                yield from ((i, view, one) for (i, view), one in zip(some, made, strict=True))

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that differ if predictions may."""
        digest = hashlib.sha256()
        for model in self.models:
            fields = [model.config.model_dump(mode="json"), list(model.names), model.info.diameter]
            fields += [list(model.info.channels)] if model.info.channels else []
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
        if set(self.precisions) != {"float32"}:
            digest.update(repr(self.precisions).encode())
        return digest.hexdigest()[:16]


def check_alike_channels(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """Refuse models that look at other channels as parts of one.

    Raises:
        SomasegError: they do.
    """
    if one != other:
        listed = " and ".join(", ".join(names) or "one" for names in (one, other))
        raise SomasegError(
            f"models of other channels ({listed}) cannot be joined; train them with the same "
            "--channels"
        )


def batched(items: Iterable[T], count: int) -> Iterator[list[T]]:
    """Lists of ``count`` items, the last one of what is left (Python 3.12's ``batched``)."""
    rest = iter(items)
    while some := list(islice(rest, count)):
        yield some


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
