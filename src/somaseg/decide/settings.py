"""Settings that turn raw instances into final ones, by class name."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from somaseg.errors import SomasegError
from somaseg.masks.resolve import OrderName

UNKNOWN = "unknown"
"""Key of the settings for cells whose class is not known."""


Shift = Annotated[float, Field(ge=-16, le=16)]


class SettleSettings(BaseModel):
    """How the raw instances of one class become final."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    score: float = Field(0.25, ge=0, le=1, description="instances below this score are dropped")
    mask_threshold: float = Field(0.5, ge=0, lt=1, description="pixels above this probability stay")
    nms_iou: float = Field(0.3, ge=0, le=1, description="of two masks above this IoU one stays")
    min_area: int = Field(20, ge=1, description="smaller masks are dropped, in pixels")
    max_area: int | None = Field(None, ge=1, description="larger masks are dropped, in pixels")
    order: OrderName = Field("smallest_first", description="who has a pixel that several claim")
    offset: tuple[Shift, Shift] = Field(
        (0.0, 0.0), description="masks are moved by this, dy dx in pixels, as annotations are"
    )

    @model_validator(mode="after")
    def _areas(self) -> "SettleSettings":
        if self.max_area is not None and self.max_area < self.min_area:
            raise ValueError(f"max_area {self.max_area} is below min_area {self.min_area}")
        return self


Settle = dict[str, SettleSettings]
"""Settings by class name."""


def default_settings(names: Iterable[str]) -> Settle:
    """Return the defaults for each class; a data set without classes has ``unknown``."""
    return {name: SettleSettings() for name in names} or {UNKNOWN: SettleSettings()}


def parse_settings(fields: Mapping[str, Any], names: Iterable[str]) -> Settle:
    """Read settings by class name, as from a file.

    Raises:
        SomasegError: a class that the model lacks, or has no settings, or a wrong value.
    """
    expected = default_settings(names)
    if not isinstance(fields, Mapping):
        raise SomasegError("settle settings: not settings by class name")
    if set(fields) != set(expected):
        raise SomasegError(
            f"settings for {', '.join(fields) or 'no class'}, "
            f"but the classes are {', '.join(expected)}"
        )
    try:
        return {name: SettleSettings.model_validate(value) for name, value in fields.items()}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SomasegError(f"settle settings: {where}: {first['msg']}") from error


def dump_settings(settings: Settle) -> dict[str, Any]:
    """Plain values, ready for JSON; :func:`parse_settings` reads them.

    An offset is left out where there is none: older versions read these settings then.
    """
    out = {name: one.model_dump(mode="json") for name, one in settings.items()}
    for name, one in settings.items():
        if not any(one.offset):
            del out[name]["offset"]
    return out
