"""Sample and Dataset: what every reader gives and everything else takes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt

from somaseg import looks
from somaseg.data.axes import Plane
from somaseg.data.images import read_image
from somaseg.data.windows import map_image
from somaseg.errors import SomasegError
from somaseg.instances import Instances

ONE_CLASS = "cell"
"""What instances are called where the data name no classes."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and what is known about it.

    Attributes:
        id: name of the image, unique in its data set (the file's name without ending).
        size: ``(height, width)`` in pixels.
        image_path: file of the image; none when only annotations are at hand.
        instances: annotated cells; none when the image is not annotated (empty: it has no cells).
        image_class: class of the whole image, when its cells are all of one kind.
        group: images that share it (same well, same plate) stay in one fold.
        crowd: regions of cells that nobody told apart (COCO's ``iscrowd``): no instances, but COCO
            AP counts nothing found there as wrong.
        plane: which image of its file, where that holds several.
        pixel_size: side of a pixel in µm, as the file says; none if it does not.
    """

    id: str
    size: tuple[int, int]
    image_path: Path | None = None
    instances: Instances | None = None
    image_class: str | None = None
    group: str | None = None
    crowd: Instances | None = None
    plane: Plane | None = None
    pixel_size: float | None = None

    def __post_init__(self) -> None:
        if self.instances is not None and self.instances.size != self.size:
            raise SomasegError(
                f"image {self.id}: size {self.size}, but its instances lie on {self.instances.size}"
            )

    def image(self, mapped: bool = False) -> npt.NDArray[Any]:
        """Read the image: uint8, uint16 or float32; ``(h, w)``, or ``(h, w, c)`` with channels.

        Args:
            mapped: leave it in the file where that can be, for large ones
                (:func:`somaseg.data.windows.map_image`).

        Raises:
            SomasegError: there is no file, it cannot be read, or its size is not :attr:`size`.
        """
        if self.image_path is None:
            raise SomasegError(f"image {self.id}: its file was not found; give the images' folder")
        read = map_image if mapped else read_image
        image = read(self.image_path, self.plane)
        if image.shape[:2] != self.size:
            raise SomasegError(
                f"{self.image_path}: {image.shape[1]}×{image.shape[0]} pixels, but annotated on "
                f"{self.size[1]}×{self.size[0]}; annotate the image as it is"
            )
        return image

    def annotated(self) -> Instances:
        """Return the instances.

        Raises:
            SomasegError: the image is not annotated.
        """
        if self.instances is None:
            raise SomasegError(f"image {self.id}: not annotated, but annotations are needed here")
        return self.instances


def image_ending(sample: Sample) -> str:
    """Return how a copy of an image's file ends; a plane of a stack becomes an OME-TIFF."""
    if sample.plane is not None:
        return ".ome.tif"
    return sample.image_path.suffix if sample.image_path is not None else ""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one origin, in a fixed order.

    Attributes:
        samples: the images; ids are unique.
        names: class names; the instances' classes index into it.
        source: file or folder it was read from.
        pixel_size: micrometres a pixel, if known.
    """

    samples: tuple[Sample, ...]
    names: tuple[str, ...]
    source: str
    pixel_size: float | None = None

    def __post_init__(self) -> None:
        if len(self._positions) != len(self.samples):
            ids = self.ids
            twice = sorted({name for name in ids if ids.count(name) > 1})
            raise SomasegError(f"{self.source}: two images are called {twice[0]!r}; rename one")
        for sample in self.samples:
            if sample.instances is not None and sample.instances.names != self.names:
                raise SomasegError(
                    f"{self.source}: image {sample.id} has classes {sample.instances.names}, "
                    f"the data set {self.names}"
                )
            if sample.image_class is not None and sample.image_class not in self.names:
                raise SomasegError(
                    f"{self.source}: image {sample.id} is of class {sample.image_class!r}, "
                    f"not one of {', '.join(self.names)}"
                )

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {sample.id: position for position, sample in enumerate(self.samples)}

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def __getitem__(self, key: str | int) -> Sample:
        if isinstance(key, int):
            return self.samples[key]
        if key not in self._positions:
            raise SomasegError(f"{self.source}: no image {key!r} among its {len(self)}")
        return self.samples[self._positions[key]]

    def __repr__(self) -> str:
        cells = sum(len(sample.instances or ()) for sample in self.samples)
        names = ", ".join(self.names)
        return f"Dataset({len(self)} images, {cells} instances of {names or 'no class'})"

    def _repr_html_(self) -> str:
        """What a notebook shows: counts by class, and some images with outlines."""
        return str(looks.look("html")(self))

    @property
    def ids(self) -> list[str]:
        """The images' ids, in order."""
        return [sample.id for sample in self.samples]

    @property
    def image_classes(self) -> dict[str, str | None]:
        """Class of each image by id."""
        return {sample.id: sample.image_class for sample in self.samples}

    def subset(self, ids: Iterable[str]) -> "Dataset":
        """Return the data set with these images only, in the given order.

        Raises:
            SomasegError: an id is unknown.
        """
        return replace(self, samples=tuple(self[name] for name in ids))
