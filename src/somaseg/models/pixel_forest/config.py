"""Config of the pixel forest."""

from typing import Literal

from pydantic import Field

from somaseg.models.config import BUNDLED, ModelConfig


class PixelForestConfig(ModelConfig):
    """Boosted trees (XGBoost) that tell background, inside and border of each pixel."""

    family: Literal["pixel_forest"] = "pixel_forest"
    encoder: str = Field(BUNDLED, description="a timm encoder; its features are used as they are")
    pretrained: str = Field("auto", description="auto, imagenet, none or a weights file")
    levels: int = Field(4, ge=1, description="levels of the encoder that are used, finest first")
    sigmas: tuple[float, ...] = Field(
        (0.7, 1.4, 2.8, 5.6),
        min_length=1,
        description="scales of the filters, in steps of 2 pixels",
    )
    diameter: float = Field(28.0, gt=0, description="cells are scaled to this diameter, in pixels")
    pixels: int = Field(
        110_000, ge=1000, description="pixels to learn from, shared by the cell types and images"
    )
    prior: float = Field(
        0.5, ge=0, le=1, description="how much the true share of each kind of pixel counts: 0 to 1"
    )
    depth: int = Field(6, ge=1, description="of the trees")
    rate: float = Field(0.2, gt=0, le=1, description="share of each round's trees in the sum")
    class_rounds: int = Field(40, ge=1, description="rounds of the trees that tell cells' classes")
    probability: float = Field(0.4, gt=0, lt=1, description="floor of the cell probability")
    seed_probability: float = Field(0.5, gt=0, lt=1, description="what may become a cell's seed")
    min_area: int = Field(15, ge=1, description="floor for cells, in image pixels")
