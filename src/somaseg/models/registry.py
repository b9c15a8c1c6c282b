"""Every family by its name, and the presets."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from importlib.metadata import entry_points
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from somaseg.errors import SomasegError
from somaseg.files import parse_yaml, read_yaml
from somaseg.models.config import ModelConfig, ModelInfo

if TYPE_CHECKING:
    from torch import Tensor

    from somaseg.models.base import Model

T = TypeVar("T", bound=BaseModel)

GROUP = "somaseg.families"


@dataclass(frozen=True)
class Family:
    """One family, told without importing it: networks are heavy.

    A package adds a family by an entry point of the group ``somaseg.families``: its name is what
    configs say as ``family:``, its value one of these. docs/new_family.md shows one.

    Attributes:
        config: ``module:Class`` of its :class:`somaseg.models.config.ModelConfig`.
        model: ``module:Class`` of its :class:`somaseg.models.base.Model`.
        presets: a package whose YAML files are presets as well.
    """

    config: str
    model: str
    presets: str | None = None


OURS: Mapping[str, Family] = {
    "flow": Family("somaseg.models.flow.config:FlowConfig", "somaseg.models.flow.model:FlowModel"),
    "cellpose": Family(
        "somaseg.models.cellpose.config:CellposeConfig",
        "somaseg.models.cellpose.model:CellposeModel",
    ),
    "semantic": Family(
        "somaseg.models.semantic.config:SemanticConfig",
        "somaseg.models.semantic.model:SemanticModel",
    ),
    "rcnn": Family("somaseg.models.rcnn.config:RCNNConfig", "somaseg.models.rcnn.model:RCNN"),
    "pixel_forest": Family(
        "somaseg.models.pixel_forest.config:PixelForestConfig",
        "somaseg.models.pixel_forest.model:PixelForest",
    ),
}


@cache
def families() -> Mapping[str, Family]:
    """All families by name: those of this package first; none is imported.

    No package can take the place of a family of ours; one that is broken is left out, with a
    warning.
    """
    found = dict(OURS)
    for entry in entry_points(group=GROUP):
        try:
            family = entry.load()
        except Exception as error:  # whatever another package raises when it is imported
            family = error
        if isinstance(family, Family):
            found.setdefault(entry.name, family)
        else:
            warnings.warn(
                f"family {entry.name!r}: {entry.value} is no Family ({family})", stacklevel=2
            )
    return found


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
    return validate(family_config(str(fields.get("family")), where), fields, where)


def family_config(name: str, where: str = "model") -> type[ModelConfig]:
    """Config class of a family; the networks' packages are not imported for it."""
    config: type[ModelConfig] = _import(find_family(name, where).config)
    return config


def find_family(name: str, where: str = "model") -> Family:
    """Return a family by name.

    Raises:
        SomasegError: there is none of that name; ``where`` says who asks.
    """
    if name not in families():
        raise SomasegError(f"{where}: family {name!r} is not one of {', '.join(families())}")
    return families()[name]


def validate(kind: type[T], fields: Mapping[str, Any], where: str) -> T:
    """Validate settings; the error names the file and each wrong field on one line."""
    if not isinstance(fields, Mapping) or not all(isinstance(name, str) for name in fields):
        raise SomasegError(f"{where}: expected fields and their values, not {str(fields)[:60]!r}")
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(p) for p in e['loc']) or 'value'}: {e['msg']}" for e in error.errors()
        )
        raise SomasegError(f"{where}: {wrong}") from error


def family_classes(family: str) -> "tuple[type[ModelConfig], type[Model]]":
    """Config and model class of a family."""
    return family_config(family), _import(find_family(family).model)


def check_channels(config: ModelConfig, channels: Sequence[str]) -> None:
    """Refuse a family that cannot look at so many channels.

    Raises:
        SomasegError: it cannot.
    """
    if len(channels) > config.most_channels:
        raise SomasegError(
            f"family {config.family!r}, as set, looks at {config.most_channels} channel(s) of an "
            f"image, not at {len(channels)} ({', '.join(channels)}); choose with --channel or "
            "--channels, or a U-Net or R-CNN (family flow, semantic or rcnn)"
        )


def build_model(config: ModelConfig, info: ModelInfo, weights: bool = True) -> "Model":
    """Make a fresh model of the config's family; without ``weights`` it fetches none.

    Raises:
        SomasegError: the family cannot look at so many channels, or weights cannot be had.
    """
    check_channels(config, info.channels)
    model: Any = _import(find_family(config.family).model)
    if not weights and hasattr(model, "blank"):
        blank: Model = model.blank(config, info)
        return blank
    fresh: Model = model(config, info)
    return fresh


def make_model(
    fields: Mapping[str, Any],
    info: ModelInfo,
    tensors: "dict[str, Tensor]",
    parts: dict[str, bytes],
    where: str,
) -> "Model":
    """Make a model, ready to predict, of what a file holds; ``where`` names it in errors.

    Raises:
        SomasegError: an unknown family or field, or weights that do not fit.
    """
    config = parse_config(fields, where)
    model: type[Model] = _import(find_family(config.family).model)
    try:
        built = model.build(config, info, tensors)
        built.take_parts(parts)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise SomasegError(f"{where}: its weights do not fit its config ({reason})") from error
    except SomasegError as error:
        raise SomasegError(f"{where}: {error}") from error
    return built


@cache
def _preset_files() -> Mapping[str, Traversable]:
    packages = ["somaseg.models.presets", *(f.presets for f in families().values() if f.presets)]
    found: dict[str, Traversable] = {}
    for package in packages:
        for file in resources.files(package).iterdir():
            if file.name.endswith(".yaml"):
                found.setdefault(file.name[:-5], file)
    return dict(sorted(found.items()))


def preset_names() -> list[str]:
    """Names of the presets of all families."""
    return list(_preset_files())


def load_preset(name: str | Path, above: tuple[str, ...] = ()) -> Preset:
    """Read a preset by name, or a YAML file of the same layout by path; or a model file's config.

    Raises:
        SomasegError: neither a preset nor a file, or not valid.
    """
    if str(name).endswith(".safetensors"):
        from somaseg.models.bundle import load_model

        return Preset(about=str(name), model=load_model(name).config.model_dump(mode="json"))
    if str(name) in _preset_files():
        text = _preset_files()[str(name)].read_text("utf-8")
        fields = parse_yaml(text, name)
    else:
        try:
            there = Path(name).is_file()
        except OSError:  # a name that no file system takes
            there = False
        if not there:
            raise SomasegError(
                f"{name}: neither a YAML file nor a preset ({', '.join(preset_names())})"
            )
        if str(name) in above:
            raise SomasegError(f"{name}: its `base:` leads back to itself")
        fields = read_yaml(name)
    if not isinstance(fields, dict):
        raise SomasegError(f"{name}: must have `model:` and may have `training:` and `about:`")
    if "base" in fields:
        base = load_preset(str(fields.pop("base")), (*above, str(name)))
        for part in ("model", "training"):
            if not isinstance(fields.get(part) or {}, dict):
                raise SomasegError(f"{name}: {part}: give its fields, as `{part}: {{steps: 100}}`")
            fields[part] = getattr(base, part) | (fields.get(part) or {})
    preset = validate(Preset, fields, str(name))
    parse_config(preset.model, str(name))
    return preset


def _import(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
