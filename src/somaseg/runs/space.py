"""What a search varies: ranges and choices of config fields, read from YAML."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from somaseg.errors import SomasegError
from somaseg.files import read_yaml
from somaseg.models.registry import validate

if TYPE_CHECKING:
    import optuna

_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


class Dimension(BaseModel):
    """Values of one field: ``{choices: […]}``, or ``{low, high}`` with ``log`` or ``step``.

    Whole numbers as ``low`` and ``high`` give whole numbers.
    """

    model_config = ConfigDict(extra="forbid")

    choices: list[bool | int | float | str | None] | None = Field(None, min_length=1)
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        span = self.low is not None and self.high is not None
        if (self.choices is None) == (self.low is None and self.high is None) or (
            self.choices is None and not span
        ):
            raise ValueError("give either choices, or low and high")
        if self.choices is not None and (self.log or self.step):
            raise ValueError("choices take neither log nor step")
        if self.low is not None and self.high is not None:
            if self.low >= self.high:
                raise ValueError("low must be below high")
            if self.log and (self.low <= 0 or self.step):
                raise ValueError("log takes a low above 0, and no step")
        return self

    def ends(self) -> list[Any]:
        """Values to try the config with: all choices, or both ends."""
        return [self.low, self.high] if self.choices is None else list(self.choices)

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """Let Optuna choose."""
        if self.choices is not None:
            return trial.suggest_categorical(name, self.choices)
        assert self.low is not None
        assert self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = int(self.step or 1)
            return trial.suggest_int(name, self.low, self.high, step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


def read_space(path: str | Path) -> dict[str, Dimension]:
    """Read a space file: field names with their ``choices``, or ``low`` and ``high``.

    Raises:
        SomasegError: missing, not YAML, or not such a file; the field is named.
    """
    fields = read_yaml(path)
    if not isinstance(fields, dict) or not fields:
        raise SomasegError(
            f"{path}: must name fields, for instance "
            "`training.rate: {low: 1e-4, high: 1e-2, log: true}`"
        )
    space = {}
    for name, choice in fields.items():
        if not isinstance(choice, dict):
            raise SomasegError(f"{path}: {name}: give {{low: …, high: …}} or {{choices: […]}}")
        space[str(name)] = validate(Dimension, _numbers(choice), f"{path}: {name}")
    return space


def _numbers(value: Any) -> Any:
    """Make numbers of 1e-4 and the like, which YAML takes for text without a point."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
