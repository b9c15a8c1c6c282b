"""Config of the semantic family."""

from typing import Literal, Self

from pydantic import Field, model_validator

from somaseg.models.config import BUNDLED, MANY, ModelConfig


class SemanticConfig(ModelConfig):
    """A network that predicts foreground, borders, depth and class of each pixel."""

    family: Literal["semantic"] = "semantic"
    network: Literal["unet", "smp", "attention_unet"] = Field(
        "unet",
        description="unet: a light decoder on a timm encoder, output at half of its input; "
        "smp: a decoder of segmentation-models-pytorch; attention_unet: from scratch",
    )
    encoder: str = Field(
        BUNDLED, description="unet: a timm encoder; smp: one of its own, or tu- and a timm name"
    )
    pretrained: str = Field("auto", description="auto, imagenet, none or a weights file")
    freeze_norm: bool = Field(True, description="keep a pretrained encoder's batch statistics")
    decoder: tuple[int, ...] = Field(
        (96, 64, 48, 32), description="decoder widths, coarse to fine (unet)"
    )
    architecture: str = Field("Unet", description="Unet, UnetPlusPlus, FPN, ... (smp)")
    widths: tuple[int, ...] = Field(
        (16, 32, 64, 128, 256),
        min_length=2,
        description="channels of each level, fine to coarse (attention_unet)",
    )
    border: bool = Field(True, description="learn where cells end and touch")
    seeds: bool = Field(True, description="learn how deep inside its cell a pixel lies")
    diameter: float = Field(28.0, gt=0, description="cells are scaled to this diameter, in pixels")
    touching_weight: float = Field(
        4.0, ge=0, description="extra weight of the pixels where cells touch"
    )
    dice_weight: float = Field(0.5, ge=0, description="weight of the soft Dice losses")
    class_weight: float = Field(0.2, ge=0, description="weight of the classes' loss")
    probability: float = Field(0.3, gt=0, lt=1, description="floor of the cell probability")
    prominence: float = Field(
        0.2, gt=0, lt=1, description="rise of a seed over the pass to the next (border or seeds)"
    )
    min_area: int = Field(15, ge=1, description="floor for cells, in image pixels")

    @property
    def most_channels(self) -> int:
        """As many as one likes."""
        return MANY

    @model_validator(mode="after")
    def _used(self) -> Self:
        """Refuse what the chosen network would ignore."""
        used = {
            "unet": {"encoder", "pretrained", "freeze_norm", "decoder"},
            "smp": {"encoder", "pretrained", "freeze_norm", "architecture"},
            "attention_unet": {"widths"},
        }
        for name in sorted(set().union(*used.values()) - used[self.network]):
            default = type(self).model_fields[name].default
            # `none` is what this network has anyway.
            if getattr(self, name) not in (default, "none"):
                raise ValueError(f"network {self.network} has no {name}; leave it out")
        return self
