"""What every family of models is: a config, class names, raw predictions, one file.

A model file is a safetensors file. Its metadata hold, as JSON under the key ``somaseg``, all that
is needed to use it: the family's config, the class names, the cells' diameter, the settings that
turn raw predictions into final ones, and the card. Nothing is ever unpickled.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from somaseg.data.augment import Crop, prepare_image
from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.files import atomic_path
from somaseg.instances import Instances

Image = npt.NDArray[Any]
Gray = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float32]
Batch = dict[str, Any]
Table = dict[str, npt.NDArray[Any]]
"""What a fitted family learns from: columns of as many rows, by name."""

FORMAT = 1
"""Version of the model file's metadata."""


class ModelConfig(BaseModel):
    """Fields that every family's config has."""

    model_config = ConfigDict(extra="forbid")

    family: str


class ModelInfo(BaseModel):
    """What a model knows besides its weights.

    Attributes:
        names: class names, in the order of the model's outputs.
        diameter: median cell diameter of the training data in image pixels (of a circle of the
            cell's area).
        one_class: whether all cells of an image are of one class, as in the training data.
        settle: settings by class name that turn raw predictions into final masks.
        card: free text by key: data, licence, scores, how to train it again.
    """

    model_config = ConfigDict(extra="forbid")

    names: tuple[str, ...]
    diameter: float = Field(gt=0)
    one_class: bool = False
    settle: dict[str, Any] | None = None
    card: dict[str, Any] = {}


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

    def parts(self) -> dict[str, bytes]:
        """Return what goes into files of their own beside the model file, by their endings."""
        return {}

    def take_parts(self, parts: dict[str, bytes]) -> None:
        """Fill in what :meth:`parts` gave.

        Raises:
            SomasegError: the family has no such part.
        """
        if parts:
            raise SomasegError(f"family {self.config.family!r} has no part {', '.join(parts)}")

    def save(self, path: str | Path, half: bool = False) -> None:
        """Write the model file, whole or not at all, after the parts that go beside it.

        Args:
            path: ends in ``.safetensors``.
            half: store floating-point weights as float16, half the size.
        """
        tensors = {
            # What was laid out channels-last or shares storage is stored plain.
            name: (t.half() if half and t.dtype == torch.float32 else t).detach().cpu().contiguous()
            for name, t in self.tensors().items()
        }
        parts = self.parts()
        metadata = {
            "format": FORMAT,
            "config": self.config.model_dump(mode="json"),
            "info": self.info.model_dump(mode="json"),
            "parts": {ending: sha256(data).hexdigest() for ending, data in parts.items()},
        }
        for ending, data in parts.items():
            with atomic_path(part_path(path, ending)) as temporary:
                temporary.write_bytes(data)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"somaseg": json.dumps(metadata)})


class Network(Model, nn.Module):
    """A family that is trained by gradient descent.

    Attributes:
        label_stride: network pixels per pixel of the label planes that it learns from.
        label_margin: label pixels that its targets need around a crop.
        multiple: sides of a crop must be multiples of it.
    """

    label_stride: int = 1
    label_margin: int = 0
    multiple: int = 32

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

    def tensors(self) -> dict[str, Tensor]:
        """Return the state dict."""
        return self.state_dict()

    @property
    def parameter_count(self) -> int:
        """How many weights it has."""
        return sum(weights.numel() for weights in self.parameters())

    @classmethod
    def build(cls, config: Any, info: ModelInfo, tensors: dict[str, Tensor]) -> Self:
        """Make the network and fill in its weights."""
        if hasattr(config, "pretrained"):
            # Every tensor comes from the file: nothing to fetch first.
            fresh = cls(config.model_copy(update={"pretrained": "none"}), info)  # type: ignore[call-arg]
            fresh.config = config
        else:
            fresh = cls(config, info)  # type: ignore[call-arg]
        fresh.load_state_dict(tensors)
        return fresh.eval()


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
            gray: float32 (h, w) from :func:`somaseg.data.augment.prepare_image`.

        Returns:
            float32 (c, h, w), on the image's own pixels.
        """

    @abstractmethod
    def decode(self, maps: Maps) -> Instances:
        """Turn the maps (c, h, w) of an image into raw instances."""

    def predict(self, images: Sequence[Image]) -> list[Instances]:
        """Find cells in each image: its maps, then their decoding."""
        return [self.decode(self.maps(prepare_image(image))) for image in images]


class Region(Model):
    """A family that finds each cell by itself, with a box and a mask of its own.

    Over tiles, views and members its predictions are matched and joined as instances.
    """

    @abstractmethod
    def find(self, gray: Gray) -> Instances:
        """Find the cells of one prepared image, or of a part of one.

        Args:
            gray: float32 (h, w) from :func:`somaseg.data.augment.prepare_image`.

        Returns:
            raw instances on the image's own pixels.
        """

    def predict(self, images: Sequence[Image]) -> list[Instances]:
        """Find cells in each image."""
        return [self.find(prepare_image(image)) for image in images]


def read_model_file(path: str | Path) -> tuple[dict[str, Any], ModelInfo, dict[str, Tensor]]:
    """Read config, info and float32 tensors of a model file.

    Raises:
        SomasegError: no such file, truncated, or not a somaseg model.
    """
    path = Path(path)
    if not path.is_file():
        raise SomasegError(f"{path}: no such model file")
    try:
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get("somaseg")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SomasegError(
            f"{path}: not a whole safetensors file ({error}); copy or train it again"
        ) from error
    if metadata is None:
        raise SomasegError(
            f"{path}: holds weights, but is not a somaseg model; "
            "use it as `pretrained:` of a config, or train with it as `--from`"
        )
    parsed = json.loads(metadata)
    if parsed.get("format") != FORMAT:
        raise SomasegError(
            f"{path}: model format {parsed.get('format')}, this somaseg reads {FORMAT}; "
            "install the somaseg that wrote it"
        )
    tensors = {k: t.float() if t.dtype == torch.float16 else t for k, t in tensors.items()}
    return parsed["config"], ModelInfo.model_validate(parsed["info"]), tensors


def part_path(path: str | Path, ending: str) -> Path:
    """Path of a part that goes beside a model file: ``m.safetensors`` has ``m.ENDING``."""
    return Path(path).with_suffix(f".{ending}")


def read_parts(path: str | Path) -> dict[str, bytes]:
    """Read the files beside a model file that belong to it, by their endings.

    Raises:
        SomasegError: one is missing, truncated or of another model.
    """
    with safe_open(path, "pt") as file:
        digests: dict[str, str] = json.loads(file.metadata()["somaseg"]).get("parts", {})
    parts = {}
    for ending, digest in digests.items():
        beside = part_path(path, ending)
        try:
            parts[ending] = beside.read_bytes()
        except OSError as error:
            raise SomasegError(
                f"{beside}: {error.strerror or error}; {path} is of no use without it: "
                "keep the two together"
            ) from error
        if sha256(parts[ending]).hexdigest() != digest:
            raise SomasegError(
                f"{beside}: truncated, or of another model than {path}; copy or train both again"
            )
    return parts
