"""Config of the flow family."""

from typing import Literal, Self

from pydantic import Field, model_validator

from somaseg.models.config import BUNDLED, MANY, WIDTHS, ModelConfig

CPNET = "cpnet"
"""The encoder's name that stands for Cellpose's whole network."""


class FlowDecoding(ModelConfig):
    """How flows become cells: what all networks that predict flows share.

    The floors are soft: cells of low probability or large flow error are decoded with a low score,
    and settling decides. Cellpose's own thresholds are ``probability: 0.5`` (a logit of 0) and
    ``max_flow_error: 0.4``.
    """

    image_diameter: float | None = Field(
        None, gt=0, description="cells' diameter in images, in pixels; without, as learned"
    )
    probability: float = Field(0.3, gt=0, lt=1, description="floor of the cell probability")
    max_flow_error: float = Field(1.5, gt=0, description="floor for cells: a larger error drops")
    min_area: int = Field(15, ge=1, description="floor for cells, in image pixels")
    resample: bool = Field(
        True, description="follow flows on the image's pixels; else on the network's"
    )
    niter: int | None = Field(
        None, ge=1, description="steps of every pixel along the flows; without, until it arrives"
    )
    unit_steps: bool = Field(
        False, description="walk along flows a pixel a step: large cells fall apart less"
    )
    flip_tiles: bool = Field(
        False, description="tiles overlap by half and are flipped in turn (cpnet, cellpose)"
    )
    zero_padding: bool = Field(
        False, description="pad images with zeros, as Cellpose; else by mirroring (cpnet, cellpose)"
    )
    flow_weight: float = Field(1.0, ge=0, description="weight of the flows' loss")
    class_weight: float = Field(0.2, ge=0, description="weight of the classes' loss")


class FlowConfig(FlowDecoding):
    """A network that predicts flows, cell probability and class of each pixel."""

    family: Literal["flow"] = "flow"
    encoder: str = Field(BUNDLED, description="a timm encoder, or `cpnet` (Cellpose's network)")
    pretrained: str = Field(
        "auto",
        description="auto, imagenet, none or a weights file; cpnet: none, or a Cellpose 1-3 "
        "model by path or name (cyto3, livecell_cp3, ...)",
    )
    decoder: tuple[int, ...] = Field(
        (96, 64, 48, 32), description="decoder widths, coarse to fine (timm encoders)"
    )
    widths: tuple[int, ...] = Field(
        WIDTHS, min_length=2, description="widths of the levels, fine to coarse (cpnet)"
    )
    tile: int = Field(224, ge=64, description="side of the tiles, in network pixels (cpnet)")
    diameter: float = Field(28.0, gt=0, description="cells are scaled to this diameter, in pixels")
    freeze_norm: bool = Field(True, description="keep a timm encoder's batch statistics")

    @property
    def most_channels(self) -> int:
        """Of Cellpose's network two: the cells', and the nuclei's."""
        return 2 if self.encoder == CPNET else MANY

    @model_validator(mode="after")
    def _fits_cpnet(self) -> Self:
        if self.encoder != CPNET:
            if self.flip_tiles or self.zero_padding:
                raise ValueError("flip_tiles and zero_padding are options of encoder cpnet")
            return self
        if self.pretrained == "imagenet":
            raise ValueError("cpnet has no ImageNet weights; pretrained: none, or a Cellpose model")
        if self.tile % 2 ** (len(self.widths) - 1):
            raise ValueError(f"tile {self.tile} is not a multiple of 2 for each level but one")
        return self
