"""Settings of the training crops; free of what draws them, which takes seconds to import."""

from pydantic import BaseModel, ConfigDict, Field


class AugmentSettings(BaseModel):
    """How crops differ from the images they are cut from."""

    model_config = ConfigDict(extra="forbid")

    scale: float = Field(1.25, ge=1, description="scale jitter: a factor from 1/scale to scale")
    rotate: bool = Field(True, description="free rotation; else right angles only")
    elastic: float = Field(2.0, ge=0, description="elastic displacement, pixels of the crop (sd)")
    brightness: float = Field(0.15, ge=0, description="offset, of the image's 1-99 % range")
    contrast: float = Field(0.2, ge=0, description="factor from 1 - contrast to 1 + contrast")
    gamma: float = Field(0.2, ge=0, description="exponent from 1 / (1 + gamma) to 1 + gamma")
    blur: float = Field(1.0, ge=0, description="Gaussian blur up to this sigma, a fifth of crops")
    noise: float = Field(0.05, ge=0, description="Gaussian noise up to this sigma, half of crops")
    on_cells: float = Field(
        0.75, ge=0, le=1, description="share of crops around a cell; the others lie anywhere"
    )
