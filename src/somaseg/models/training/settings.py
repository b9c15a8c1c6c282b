"""Settings of a training."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from somaseg.data.augment_settings import AugmentSettings

USED = {"steps", "seed", "log_every", "checkpoint_minutes"}
"""Training settings that a fitted family has; the others are of gradient descent."""


class TrainSettings(BaseModel):
    """How a network is trained; the same for every family."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(1000, ge=1, description="optimiser steps")
    batch: int = Field(4, ge=1, description="crops a step, on each device")
    crop: int = Field(256, ge=32, description="side of a crop, in network pixels")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    rate: float = Field(1e-3, gt=0, description="highest learning rate")
    encoder_rate: float = Field(0.3, ge=0, description="factor on the rate of pretrained encoders")
    weight_decay: float = Field(1e-2, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with a rising rate")
    clip: float = Field(5.0, gt=0, description="largest norm of the gradient")
    average: float = Field(0.995, ge=0, lt=1, description="EMA of the weights; 0 is off")
    precision: Literal["auto", "no", "fp16", "bf16"] = Field(
        "auto", description="auto: bf16 or fp16 on a GPU, float32 on a CPU (faster there)"
    )
    workers: int = Field(0, ge=0, description="processes that prepare crops; 0: in this one")
    checkpoint_minutes: float = Field(2.0, gt=0, description="time between checkpoints")
    log_every: int = Field(20, ge=1, description="steps between lines of metrics.csv")
    seed: int = 0
    augment: AugmentSettings = AugmentSettings()

    @field_validator("precision", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return "no" if value is False else value  # what YAML makes of an unquoted `no`
