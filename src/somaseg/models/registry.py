"""Every family by its name, and the presets."""

from collections.abc import Mapping
from importlib import import_module, resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.models.base import Model
from somaseg.models.config import ModelConfig, ModelInfo

T = TypeVar("T", bound=BaseModel)

FAMILIES: Mapping[str, tuple[str, str, str]] = {
    # family: module, config class, model class. Imported when used: some are heavy.
    "flow": ("somaseg.models.flow", "config.FlowConfig", "model.FlowModel"),
    "cellpose": ("somaseg.models.cellpose", "config.CellposeConfig", "model.CellposeModel"),
    "semantic": ("somaseg.models.semantic", "config.SemanticConfig", "model.SemanticModel"),
    "rcnn": ("somaseg.models.rcnn", "config.RCNNConfig", "model.RCNN"),
    "pixel_forest": (
        "somaseg.models.pixel_forest",
        "config.PixelForestConfig",
        "model.PixelForest",
    ),
}


class Preset(BaseModel):
    """A YAML file: what model, how trained.

    A file may say ``base: NAME`` (a preset) and give only what differs from it.

    Attributes:
        about: one line for `somaseg models`.
        model: the family's config.
        training: fields of :class:`somaseg.models.training.settings.TrainSettings`.
    """

    model_config = ConfigDict(extra="forbid")

    about: str = ""
    model: dict[str, Any]
    training: dict[str, Any] = {}


def parse_config(fields: Mapping[str, Any], where: str = "model") -> ModelConfig:
    """Make the typed config that ``fields["family"]`` names.

    Raises:
        SomasegError: unknown family, unknown or wrong field; the field is named.
    """
    family = str(fields.get("family"))
    if family not in FAMILIES:
        raise SomasegError(f"{where}: family {family!r} is not one of {', '.join(FAMILIES)}")
    config: type[ModelConfig] = _load(family, 1)
    return validate(config, fields, where)


def validate(kind: type[T], fields: Mapping[str, Any], where: str) -> T:
    """Validate settings; the error names the file and each wrong field on one line."""
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(p) for p in e['loc']) or 'value'}: {e['msg']}" for e in error.errors()
        )
        raise SomasegError(f"{where}: {wrong}") from error


def family_classes(family: str) -> tuple[type[ModelConfig], type[Model]]:
    """Config and model class of a family of :data:`FAMILIES`."""
    return _load(family, 1), _load(family, 2)


def build_model(config: ModelConfig, info: ModelInfo) -> Model:
    """Make a fresh model of the config's family."""
    model: type[Model] = _load(config.family, 2)
    return model(config, info)  # type: ignore[call-arg]


def make_model(
    fields: Mapping[str, Any],
    info: ModelInfo,
    tensors: dict[str, Tensor],
    parts: dict[str, bytes],
    where: str,
) -> Model:
    """Make a model, ready to predict, of what a file holds; ``where`` names it in errors.

    Raises:
        SomasegError: an unknown family or field, or weights that do not fit.
    """
    config = parse_config(fields, where)
    model: type[Model] = _load(config.family, 2)
    try:
        built = model.build(config, info, tensors)
        built.take_parts(parts)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise SomasegError(f"{where}: its weights do not fit its config ({reason})") from error
    except SomasegError as error:
        raise SomasegError(f"{where}: {error}") from error
    return built


def preset_names() -> list[str]:
    """Names of the presets that come with somaseg."""
    folder = resources.files("somaseg.models") / "presets"
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_preset(name: str | Path) -> Preset:
    """Read a preset by name, or a YAML file of the same layout by path.

    Raises:
        SomasegError: neither a preset nor a file, or not valid.
    """
    if str(name) in preset_names():
        text = (resources.files("somaseg.models") / "presets" / f"{name}.yaml").read_text("utf-8")
    else:
        try:
            text = Path(name).read_text("utf-8")
        except OSError as error:
            raise SomasegError(
                f"{name}: neither a YAML file nor a preset ({', '.join(preset_names())})"
            ) from error
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SomasegError(f"{name}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(fields, dict):
        raise SomasegError(f"{name}: must have `model:` and may have `training:` and `about:`")
    if "base" in fields:
        base = load_preset(fields.pop("base"))
        for part in ("model", "training"):
            fields[part] = getattr(base, part) | (fields.get(part) or {})
    preset = validate(Preset, fields, str(name))
    parse_config(preset.model, str(name))
    return preset


def _load(family: str, part: int) -> Any:
    entry = FAMILIES[family]
    module, name = entry[part].rsplit(".", 1)
    return getattr(import_module(f"{entry[0]}.{module}"), name)
