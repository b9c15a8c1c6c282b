"""Config of the flow family."""

from typing import Literal

from pydantic import Field

from somaseg.models.base import ModelConfig
from somaseg.nn.encoders import BUNDLED


class FlowConfig(ModelConfig):
    """A U-Net that predicts flows, cell probability and class of each pixel."""

    family: Literal["flow"] = "flow"
    encoder: str = Field(BUNDLED, description="a timm encoder, or `cpnet` (Cellpose's network)")
    pretrained: str = Field("auto", description="auto, imagenet, none or a weights file")
    decoder: tuple[int, ...] = Field(
        (96, 64, 48, 32), description="decoder widths, coarse to fine (timm encoders)"
    )
    diameter: float = Field(28.0, gt=0, description="cells are scaled to this diameter, in pixels")
    freeze_norm: bool = Field(True, description="keep the encoder's batch statistics")
    flow_weight: float = Field(1.0, ge=0, description="weight of the flows' loss")
    class_weight: float = Field(0.2, ge=0, description="weight of the classes' loss")
    probability: float = Field(0.3, gt=0, lt=1, description="floor of the cell probability")
    max_flow_error: float = Field(1.5, gt=0, description="floor for cells: a larger error drops")
    min_area: int = Field(15, ge=1, description="floor for cells, in image pixels")
