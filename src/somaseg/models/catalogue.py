"""What the presets are: a table of them, and each as YAML with every field explained."""

import json
from collections.abc import Iterator
from importlib import resources
from inspect import getdoc
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict

from somaseg.models.registry import (
    families,
    family_classes,
    family_config,
    load_preset,
    parse_config,
    preset_names,
    validate,
)
from somaseg.models.training.settings import USED, TrainSettings


class Measured(BaseModel):
    """What `benchmarks/presets.py` measured of a preset, on one thread of a processor.

    Attributes:
        parameters: weights, those of the encoder too; for a forest also splits and leaves.
        pretrained: what the encoder started from; empty where the config has no such field.
        steps: training steps that were measured, at the preset's own crop and batch.
        step_seconds: processor time of a step.
        train_bytes: peak memory of the training process.
        first_loss: of the first step.
        last_loss: of the last.
        predict_seconds: processor time to predict a 704×520 image, hardly trained.
    """

    model_config = ConfigDict(extra="forbid")

    parameters: int
    pretrained: str
    steps: int
    step_seconds: float
    train_bytes: int
    first_loss: float
    last_loss: float
    predict_seconds: float


class PresetInfo(BaseModel):
    """A line of the table of presets; ``measured`` is none where nothing was measured."""

    name: str
    family: str
    steps: int
    about: str
    measured: Measured | None


def measured_file() -> Any:
    """The package's file of measurements, by preset name; a path where it is installed as one."""
    return resources.files("somaseg.models") / "presets" / "measured.json"


def read_measured() -> dict[str, Measured]:
    """Read what was measured of the presets that there are."""
    file = measured_file()
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return {
        name: validate(Measured, found[name], f"measured.json: {name}")
        for name in preset_names()
        if name in found
    }


def list_families() -> dict[str, str]:
    """One line about each family, by name."""
    return {name: (getdoc(family_config(name)) or "").splitlines()[0] for name in families()}


def list_presets() -> list[PresetInfo]:
    """All presets that come with somaseg, by family and name."""
    measured = read_measured()
    found = [
        PresetInfo(
            name=name,
            family=preset.model["family"],
            steps=TrainSettings.model_validate(preset.training).steps,
            about=preset.about,
            measured=measured.get(name),
        )
        for name, preset in ((name, load_preset(name)) for name in preset_names())
    ]
    order = list(families())
    return sorted(found, key=lambda preset: (order.index(preset.family), preset.name))


def describe_preset(name: str) -> str:
    """The whole config of a preset as YAML; behind each field what it means.

    It can be saved, changed, and given to ``somaseg train --model FILE``.

    Raises:
        SomasegError: no such preset.
    """
    preset = load_preset(name)
    config = parse_config(preset.model, name)
    training = validate(TrainSettings, preset.training, name)
    # The networks' packages take seconds to import: only for what needs a class of theirs.
    from somaseg.models.base import Estimator

    fitted = issubclass(family_classes(config.family)[1], Estimator)
    lines = [
        f"# {name}, every field of it. To change it: somaseg models {name} > my.yaml",
        f"about: {_inline(preset.about)}",
        "model:",
        *_lines(config, "  "),
        "training:",
        *_lines(training, "  ", USED if fitted else None),
    ]
    return "\n".join(lines) + "\n"


def _lines(config: BaseModel, indent: str, only: set[str] | None = None) -> Iterator[str]:
    values = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        if only is not None and name not in only:
            continue
        part = getattr(config, name)
        if isinstance(part, BaseModel):
            yield f"{indent}{name}:"
            yield from _lines(part, indent + "  ")
            continue
        line = f"{indent}{name}: {_inline(values[name])}"
        about = field.description or _choices(field.annotation)
        yield f"{line:<34} # {about}" if about else line


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _choices(annotation: Any) -> str:
    """The values of a Literal of several."""
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    return " or ".join(map(str, values)) if len(values) > 1 else ""
