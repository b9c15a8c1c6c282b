"""From an image to final masks: prediction and settling in one object."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from somaseg.data.axes import Choice
from somaseg.data.images import Levels, read_image
from somaseg.data.planes import read_only
from somaseg.data.types import Dataset
from somaseg.decide import Fusion, Settle, default_settings, dump_settings, parse_settings
from somaseg.decide.rescore import Rescorer
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.models.base import Image
from somaseg.models.bundle import Bundle
from somaseg.models.registry import validate
from somaseg.predict.bands import Bands, segment
from somaseg.predict.joint import JointPredictor
from somaseg.predict.predictor import TILE, Finder, Predictor, Progress
from somaseg.predict.scale import (
    Diameter,
    check_diameter,
    estimate_diameter,
    rescale,
    restore,
    scale_for,
)


class Segmenter:
    """Finds the cells of an image: hard, disjoint masks with class and score.

    Args:
        predictor: gives raw instances.
        names: class names.
        settings: by class name.
        one_class: whether all cells of an image are of one class.

    Attributes:
        rescorer: learned scores, with settings of their own, if the run has them.
        diameter: of the cells in pixels, or ``auto``; none for that which the model knows.
    """

    rescorer: Rescorer | None = None
    diameter: Diameter = None

    def __init__(
        self, predictor: Finder, names: Sequence[str], settings: Settle, one_class: bool
    ) -> None:
        self.predictor, self.names = predictor, tuple(names)
        self.settings, self.one_class = settings, one_class

    @classmethod
    def of_bundle(
        cls,
        bundle: Bundle,
        views: str | None = None,
        tile: int = TILE,
        overlap: int | None = None,
        device: str | None = None,
        engine: str | None = None,
        precision: str | None = None,
        batch: int | None = None,
    ) -> Self:
        """Make one of a bundle.

        Args:
            bundle: members, and how they are joined and settled.
            views: test-time views for all members; by default those that each was tuned with.
            tile: larger images go through in tiles of this side, in image pixels.
            overlap: of neighbouring tiles; by default as wide as eight cells.
            device, engine, precision, batch: as for :class:`somaseg.predict.predictor.Predictor`.
        """
        info = bundle.members[0].models[0].info
        how = (device, engine, precision, batch)
        predictors = [
            Predictor(m.models, views or m.views, tile, overlap, None, *how) for m in bundle.members
        ]
        predictor: Finder = predictors[0]
        if bundle.method is not None:
            weighted = [(p, m.weight) for p, m in zip(predictors, bundle.members, strict=True)]
            fields = {"method": bundle.method} if isinstance(bundle.method, str) else bundle.method
            fusion = validate(Fusion, fields, "how members are joined")
            predictor = JointPredictor(weighted, fusion)
        settings = (
            default_settings(info.names)
            if bundle.settings is None
            else parse_settings(bundle.settings, info.names)
        )
        made = cls(predictor, info.names, settings, info.one_class)
        if bundle.rescorer is not None:
            made.rescorer = Rescorer.of_bytes(json.dumps(bundle.rescorer).encode(), "rescorer")
        return made

    @property
    def channels(self) -> tuple[str, ...]:
        """Of an image, that it looks at, by name or number from 0; none: images of one channel."""
        return self.predictor.channels

    @property
    def choice(self) -> Choice:
        """What of a stack it looks at."""
        return Choice(channels=self.channels, of_model=True)

    def choice_for(self, asked: Choice) -> Choice:
        """What of stacks to take, of what a user asks for; without a word, the model's channels.

        Raises:
            SomasegError: channels that are not as many as the model looks at.
        """
        if not asked.inputs:
            return replace(asked, channels=self.channels, of_model=True)
        if len(asked.inputs) != max(len(self.channels), 1):
            known = f" ({', '.join(self.channels)})" if self.channels else ""
            raise SomasegError(
                f"the model looks at {max(len(self.channels), 1)} channel(s){known}, not at "
                f"{len(asked.inputs)}: give as many names, in that order"
            )
        return asked

    @overload
    def __call__(self, image: Image | str | Path, diameter: Diameter = None) -> Instances: ...

    @overload
    def __call__(self, image: Dataset, diameter: Diameter = None) -> dict[str, Instances]: ...

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], diameter: Diameter = None
    ) -> list[Instances]: ...

    def __call__(
        self,
        image: Image | str | Path | Dataset | list[Any] | tuple[Any, ...],
        diameter: Diameter = None,
    ) -> Instances | dict[str, Instances] | list[Instances]:
        """Segment an image, or several; results are held in memory.

        Args:
            image: array (h, w) or (h, w, 3) of any intensity range, or, for a model of c
                :attr:`channels`, (c, h, w) or (h, w, c); the path of one, a list of these, or a
                data set.
            diameter: of the cells in pixels, or ``auto``, if it is not that which the model knows;
                by default :attr:`diameter`.

        Returns:
            Hard, disjoint instances; of a list, a list, and of a data set, by image id.

        Raises:
            SomasegError: the array is no such image, or a file cannot be read.
        """
        if isinstance(image, Dataset):
            return {sample.id: self(sample.image(), diameter) for sample in image}
        if isinstance(image, str | Path):
            image = read_only(image, self.choice) if self.channels else read_image(image)
        if not isinstance(image, np.ndarray):
            return [self(one, diameter) for one in image]
        if (inputs := len(self.channels)) > 1:
            if image.ndim != 3 or inputs not in (image.shape[0], image.shape[2]):
                raise SomasegError(
                    f"image of shape {image.shape}: must be ({inputs}, h, w) or (h, w, {inputs}), "
                    f"the model's channels {', '.join(self.channels)}"
                )
            if image.shape[2] != inputs:
                image = np.moveaxis(image, 0, -1)
        elif image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
            raise SomasegError(f"image of shape {image.shape}: must be (h, w) or (h, w, 3)")
        return self.bands(image, diameter=diameter).whole()

    def bands(
        self,
        image: Image,
        folder: str | Path | None = None,
        levels: Levels | None = None,
        stamp: Any = None,
        progress: Progress | None = None,
        diameter: Diameter = None,
    ) -> Bands:
        """Segment one image, in bounded memory if there is a folder; see :func:`segment`.

        An image whose cells have another diameter than the model knows is scaled as a whole, in
        memory, and so are its final instances.
        """
        wanted = check_diameter(self.diameter if diameter is None else diameter)
        if wanted == "auto":
            wanted = estimate_diameter(
                lambda part: self._segment(part).whole(), image, self.predictor.diameter
            )
        if wanted is None:
            return self._segment(image, folder, levels, stamp, progress)
        scale = scale_for(float(wanted), self.predictor.diameter)
        size = (int(image.shape[0]), int(image.shape[1]))
        scaled = rescale(image, scale)
        found = self._segment(scaled, folder, None, [stamp, scale], progress).whole()
        return Bands(size, [restore(found, size)], float(wanted))

    def _segment(
        self,
        image: Image,
        folder: str | Path | None = None,
        levels: Levels | None = None,
        stamp: Any = None,
        progress: Progress | None = None,
    ) -> Bands:
        rescorer = self.rescorer
        if rescorer is not None and rescorer.settings is None:
            rescorer = None
        settings = (rescorer and rescorer.settings) or self.settings
        return segment(
            self.predictor,
            settings,
            self.one_class,
            image,
            folder,
            levels,
            stamp,
            progress,
            rescorer,
        )

    def fingerprint(self) -> str:
        """Return hexadecimal digits that differ if the final instances may."""
        learned = self.rescorer and (
            hashlib.sha256(self.rescorer.booster.save_raw("json")).hexdigest(),
            sorted(self.rescorer.medians.items()),
            self.rescorer.settings and dump_settings(self.rescorer.settings),
        )
        parts = (
            self.predictor.fingerprint(),
            self.names,
            dump_settings(self.settings),
            self.one_class,
            learned,
            self.diameter,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
