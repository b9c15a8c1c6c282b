"""What every family of models is: a config, class names, raw predictions, tensors for its file."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from somaseg.data.augment import Crop, prepare_image
from somaseg.data.images import Levels
from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.models.config import ModelConfig, ModelInfo

Image = npt.NDArray[Any]
Gray = npt.NDArray[np.float32]
"""A prepared image, (h, w); (h, w, channels) for models of several."""
Maps = npt.NDArray[np.float32]
Batch = dict[str, Any]
INT8 = ("int8.xml", "int8.bin")
"""Parts of a model file: a network in int8, as OpenVINO's graph and its weights."""
Table = dict[str, npt.NDArray[Any]]
"""What a fitted family learns from: columns of as many rows, by name."""


class Model(ABC):
    """One member of any family.

    Attributes:
        config: the family's own config.
        info: class names and what else was learned from the data without weights.
    """

    config: ModelConfig
    info: ModelInfo

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        return self.info.names

    @property
    def scale(self) -> float:
        """Network pixels per image pixel."""
        return 1.0

    def levels(self, kind: np.dtype[Any]) -> tuple[float, float] | None:
        """Gray values of images of a type that are 0 and 1 here; none: their own percentiles."""
        return None

    def prepare(self, image: Image, levels: Levels | None = None) -> Gray:
        """Make an image (h, w) or (h, w, 3) gray, float32, between this model's levels.

        For a model of several channels it is (h, w, channels), and stays so.

        Args:
            image: of any intensity range.
            levels: the percentiles of the whole image, if this is a part of it.
        """
        own, inputs = self.levels(image.dtype), self.info.inputs
        if own is not None:
            levels = own if inputs == 1 else (own,) * inputs
        return prepare_image(image, levels, inputs)

    @abstractmethod
    def predict(self, images: Sequence[Image]) -> list[Instances]:
        """Find cells: raw, soft, scored, possibly overlapping instances of each image.

        Args:
            images: (h, w) or (h, w, 3) arrays of any intensity range.

        Returns:
            One :class:`Instances` per image, of the image's size. Nothing is thresholded but at a
            very low floor: settling does that.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what goes into the model file, by name."""

    @classmethod
    @abstractmethod
    def build(cls, config: Any, info: ModelInfo, tensors: dict[str, Tensor]) -> Self:
        """Make the model from what a model file holds."""

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """How many numbers it has learned, or has from others who did."""

    def place(self, device: torch.device) -> None:  # noqa: B027
        """Bring what runs on a device there; by default nothing does."""

    def parts(self) -> dict[str, bytes]:
        """Return what goes into the model file besides tensors, by name."""
        return {}

    def take_parts(self, parts: dict[str, bytes]) -> None:
        """Fill in what :meth:`parts` gave.

        Raises:
            SomasegError: the family has no such part.
        """
        if parts:
            raise SomasegError(f"family {self.config.family!r} has no part {', '.join(parts)}")

    def save(self, path: str | Path, half: bool = False) -> None:
        """Write the model's file, whole or not at all.

        Args:
            path: ends in ``.safetensors``.
            half: store floating-point weights as float16, half the size.

        Raises:
            SomasegError: the file cannot be written.
        """
        # That module makes models again, so it knows this one.
        from somaseg.models.bundle import save_model

        save_model(path, self, half)


class Network(Model, nn.Module):
    """A family that is trained by gradient descent.

    Attributes:
        label_stride: network pixels per pixel of the label planes that it learns from.
        label_margin: label pixels that its targets need around a crop.
        multiple: sides of a crop must be multiples of it.
        engine: what runs in place of :meth:`core` in prediction; see
            :func:`somaseg.models.engine.use_engine`.
        int8: :data:`INT8` of :meth:`core`, by name, if it was quantised
            (:func:`somaseg.models.quantise.quantise`).
    """

    label_stride: int = 1
    label_margin: int = 0
    multiple: int = 32
    engine: Callable[[Tensor], Any] | None = None
    int8: dict[str, bytes] | None = None

    def core(self) -> tuple[nn.Module, tuple[int, int, int, int]] | None:
        """The part that another engine may run, and a shape of its images; by default none.

        It makes of images (b, c, h, w) one tensor, or a list of them, with no other input.
        """
        return None

    def outputs(self) -> list[str]:
        """Say what :meth:`core` gives: of its maps each channel, of a list each tensor."""
        return []

    def run(self, image: Tensor) -> Any:
        """Run :meth:`core` for prediction, or the engine in its place."""
        if self.engine is not None:
            return self.engine(image)
        core = self.core()
        assert core is not None
        return core[0](image)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or back; weights that change are no longer those of the engine."""
        if mode:
            self.engine = self.int8 = None
        return super().train(mode)

    def planes(self, instances: Instances) -> npt.NDArray[np.int32]:
        """Label planes (k, h, w) to learn from; by default overlapping cells kept whole."""
        return instances.layers()

    @abstractmethod
    def example(self, crop: Crop) -> dict[str, Any]:
        """Turn a crop into arrays to learn from (runs in a worker process)."""

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Join examples to a batch; by default stacks each array."""
        return {
            key: torch.from_numpy(np.stack([example[key] for example in examples]))
            for key in examples[0]
        }

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch by name; training minimises their sum."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses, so that wrappers like DistributedDataParallel see the whole step."""
        return self.losses(batch)

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Another model's weights, and under this one's names what its further parts start from."""
        return tensors

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def place(self, device: torch.device) -> None:
        """Bring the weights to a device."""
        self.to(device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state dict."""
        return self.state_dict()

    def parts(self) -> dict[str, bytes]:
        """Return the network in int8, if there is one."""
        return dict(self.int8 or {})

    def take_parts(self, parts: dict[str, bytes]) -> None:
        """Take the network in int8."""
        if set(parts) == set(INT8):
            self.int8 = parts
        else:
            super().take_parts(parts)

    @property
    def parameter_count(self) -> int:
        """How many weights it has."""
        return sum(weights.numel() for weights in self.parameters())

    @classmethod
    def build(cls, config: Any, info: ModelInfo, tensors: dict[str, Tensor]) -> Self:
        """Make the network and fill in its weights."""
        fresh = cls.blank(config, info)
        fill(fresh, tensors)
        return fresh.eval()

    @classmethod
    def blank(cls, config: Any, info: ModelInfo) -> Self:
        """Make the network with noise for weights: a file fills them, nothing is fetched."""
        if not hasattr(config, "pretrained"):
            return cls(config, info)  # type: ignore[call-arg]
        fresh = cls(config.model_copy(update={"pretrained": "none"}), info)  # type: ignore[call-arg]
        fresh.config = config
        return fresh


def fill(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy all of a network's tensors into it.

    Raises:
        RuntimeError: one is missing, too many, of another shape, or of integers for numbers.
    """
    for name, ours in network.state_dict().items():
        theirs = tensors.get(name)
        if theirs is not None and theirs.is_floating_point() != ours.is_floating_point():
            raise RuntimeError(f"{name} is of {theirs.dtype}, not {ours.dtype}")
    network.load_state_dict(tensors)


class Estimator(Model):
    """A family that is fitted in rounds, to a table that is drawn from the images once."""

    @abstractmethod
    def draw(self, samples: Sequence[Sample], seed: int) -> Iterator[Table]:
        """Draw what to learn from: rows of an image, or of a part of one, at a time."""

    @abstractmethod
    def rounds(self, table: Table, count: int) -> Iterator[dict[str, float]]:
        """Fit to the table until ``count`` rounds are done; those in :meth:`parts` count.

        Yields:
            the losses by name, after each round.
        """


class Dense(Model):
    """A family whose prediction is maps on the image's pixels, then a decoding of them.

    Maps can be averaged, over tiles, views and members; instances cannot without matching.

    Attributes:
        vectors: pairs of channels (dy, dx) of the maps that turn with the image.
    """

    vectors: ClassVar[tuple[tuple[int, int], ...]] = ()

    @abstractmethod
    def maps(self, gray: Gray) -> Maps:
        """Compute the maps of one prepared image.

        Args:
            gray: float32 (h, w) from :meth:`Model.prepare`.

        Returns:
            float32 (c, h, w), on the image's own pixels.
        """

    def maps_each(self, grays: Sequence[Gray]) -> list[Maps]:
        """Compute the maps of images of one shape, together if the family can; here one by one."""
        return [self.maps(gray) for gray in grays]

    @abstractmethod
    def decode(self, maps: Maps) -> Instances:
        """Turn the maps (c, h, w) of an image into raw instances."""

    def predict(self, images: Sequence[Image]) -> list[Instances]:
        """Find cells in each image: its maps, then their decoding."""
        return [self.decode(self.maps(self.prepare(image))) for image in images]


class Region(Model):
    """A family that finds each cell by itself, with a box and a mask of its own.

    Over tiles, views and members its predictions are matched and joined as instances.
    """

    @abstractmethod
    def find(self, gray: Gray) -> Instances:
        """Find the cells of one prepared image, or of a part of one.

        Args:
            gray: float32 (h, w) from :meth:`Model.prepare`.

        Returns:
            raw instances on the image's own pixels.
        """

    def find_each(self, grays: Sequence[Gray]) -> list[Instances]:
        """Find the cells of images of one shape, together if the family can; here one by one."""
        return [self.find(gray) for gray in grays]

    def predict(self, images: Sequence[Image]) -> list[Instances]:
        """Find cells in each image."""
        return [self.find(self.prepare(image)) for image in images]
