"""The model file: one model, the fold models of a run, or an ensemble, and all it takes to use it.

It is a safetensors file. Its metadata hold, as JSON under the key ``somaseg``, each member's
weight, views, and its models' configs and infos; the way of joining; the settings that turn raw
predictions into final masks, the rescorer and the card. The tensors of model f of member m are
named ``m.f.NAME``, and what is no tensor, as XGBoost's trees, is there as bytes. Under ``checksum``
is the SHA-256 of all of this, so that a damaged file never finds other cells. Nothing is ever
unpickled.

Files of before, which had no checksum, are read: of one model, with XGBoost's trees in files
beside it, and of an ensemble.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.files import atomic_path, check_regular
from somaseg.models.base import Model
from somaseg.models.config import ModelInfo
from somaseg.models.registry import make_model, validate
from somaseg.models.signature import CHECKSUM, checksum

KEY = "somaseg"
OLD_KEY = "somaseg-bundle"
"""Key of the ensembles of format 1."""
FORMAT = 2
PART = "part:"
"""Begins the names of what a model has besides tensors, such as XGBoost's trees: bytes."""


@dataclass(frozen=True)
class BundleMember:
    """One member: models of one family, as those of the folds, and how it takes part.

    Attributes:
        name: of the member.
        weight: in the fusion.
        views: test-time views, a key of :data:`somaseg.predict.views.VIEWS`.
        models: their maps, or instances, are averaged.
    """

    name: str
    weight: float
    views: str
    models: tuple[Model, ...]


@dataclass(frozen=True)
class Bundle:
    """What a model file holds.

    Attributes:
        members: at least one.
        method: of joining, a method or fields of :class:`somaseg.decide.Fusion`; none for a single
            member.
        settings: by class name, as :func:`somaseg.decide.dump_settings` gives them; none where
            nothing was tuned.
        rescorer: learned scores and their settings, as JSON; none where there are none.
        card: free text by key: data, licence, scores.
    """

    members: tuple[BundleMember, ...]
    method: str | dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    rescorer: dict[str, Any] | None = None
    card: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_model(cls, model: Model) -> "Bundle":
        """One model as the only member, with the settings and the card that it knows."""
        member = BundleMember(model.config.family, 1.0, "none", (model,))
        return cls((member,), settings=model.info.settle, card=model.info.card)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _ModelFields(_Strict):
    config: dict[str, Any]
    info: ModelInfo


class _MemberFields(_Strict):
    name: str
    weight: float = Field(gt=0, allow_inf_nan=False)
    views: str
    models: list[_ModelFields] = Field(min_length=1)


class _Fields(_Strict):
    """The metadata of a model file."""

    format: int
    members: list[_MemberFields] = Field(min_length=1)
    method: str | dict[str, Any] | None
    settings: dict[str, Any] | None
    rescorer: dict[str, Any] | None = None
    card: dict[str, Any]


class _OldModelFields(_ModelFields):
    """The metadata of a single model's file of format 1, and the SHA-256 of the files beside it."""

    format: int
    parts: dict[Annotated[str, Field(pattern=r"^[a-z]+\.json$")], str] = {}


def write_bundle(path: str | Path, bundle: Bundle, half: bool = False) -> None:
    """Write a model file, whole or not at all.

    Args:
        path: ends in ``.safetensors``.
        bundle: what goes into it.
        half: store floating-point weights as float16, half the size.

    Raises:
        SomasegError: weights that are not finite, or the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for m, member in enumerate(bundle.members):
        for f, model in enumerate(member.models):
            for name, tensor in model.tensors().items():
                # What was laid out channels-last or shares storage is stored plain.
                plain = tensor.detach().cpu().contiguous()
                tensors[f"{m}.{f}.{name}"] = _halved(plain) if half else plain
            for name, data in model.parts().items():
                rows = np.frombuffer(data, np.uint8).copy()
                tensors[f"{m}.{f}.{PART}{name}"] = torch.from_numpy(rows)
    _check_finite(tensors, path, "train it again with a lower `training.rate`")
    text = json.dumps(bundle_fields(bundle))
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {KEY: text, CHECKSUM: checksum(text, tensors)})


def bundle_fields(bundle: Bundle) -> dict[str, Any]:
    """Return all that a model file says besides tensors, as JSON has it."""
    return {
        "format": FORMAT,
        "members": [
            {
                "name": member.name,
                "weight": member.weight,
                "views": member.views,
                "models": [
                    {
                        "config": model.config.model_dump(mode="json"),
                        "info": model.info.model_dump(mode="json"),
                    }
                    for model in member.models
                ],
            }
            for member in bundle.members
        ],
        "method": bundle.method,
        "settings": bundle.settings,
        "rescorer": bundle.rescorer,
        "card": bundle.card,
    }


def read_bundle(path: str | Path) -> Bundle:
    """Read a model file, its models ready to predict.

    Raises:
        SomasegError: missing, truncated, damaged, no model of somaseg, of a later format, or with
            weights that do not fit or are not finite.
    """
    path = check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise SomasegError(
            f"{path}: not a whole safetensors file ({error}); copy or make it again"
        ) from error
    old = OLD_KEY in metadata
    text = metadata.get(OLD_KEY if old else KEY)
    if text is None:
        raise SomasegError(
            f"{path}: holds weights, but is not a somaseg model; "
            "use it as `pretrained:` of a config, or train with it as `--from`"
        )
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SomasegError(f"{path}: damaged ({error}); copy or make it again") from error
    number = fields.get("format") if isinstance(fields, dict) else None
    if number not in (FORMAT, 1):
        raise SomasegError(
            f"{path}: model format {number}, this somaseg reads {FORMAT} and 1; "
            "install the somaseg that wrote it"
        )
    if number == FORMAT and metadata.get(CHECKSUM) != checksum(text, tensors):
        raise SomasegError(
            f"{path}: damaged: its checksum is not that of its contents; copy or make it again"
        )
    _check_finite(tensors, path, "copy or make it again")
    if old:
        fields["settings"] = fields.pop("settle", None)
    elif number == 1:
        fields, tensors = _old_model(fields, tensors, path)
    return _bundle(validate(_Fields, fields, str(path)), tensors, str(path))


def save_model(path: str | Path, model: Model, half: bool = False) -> None:
    """Write the file of one model; see :func:`write_bundle`."""
    write_bundle(path, Bundle.of_model(model), half)


def load_model(path: str | Path) -> Model:
    """Read a file of one model of any family, ready to predict.

    Raises:
        SomasegError: it holds several, or as :func:`read_bundle`.
    """
    members = read_bundle(path).members
    models = [model for member in members for model in member.models]
    if len(models) > 1:
        raise SomasegError(
            f"{path}: holds {len(models)} models, of {', '.join(m.name for m in members)}; "
            "one is needed here"
        )
    return models[0]


def _halved(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    # What float16 cannot hold stays as it is.
    return half if torch.isfinite(half).all() else tensor


def _check_finite(tensors: Mapping[str, Tensor], path: str | Path, advice: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise SomasegError(f"{path}: weights {name} are not finite numbers; {advice}")


def _bundle(fields: _Fields, tensors: dict[str, Tensor], where: str) -> Bundle:
    members = []
    for m, member in enumerate(fields.members):
        models = []
        for f, one in enumerate(member.models):
            mine = _under(tensors, f"{m}.{f}.")
            parts = {
                key.removeprefix(PART): mine.pop(key).numpy().tobytes()
                for key in list(mine)
                if key.startswith(PART)
            }
            models.append(make_model(one.config, one.info, mine, parts, where))
        members.append(BundleMember(member.name, member.weight, member.views, tuple(models)))
    if fields.method is None and len(members) > 1:
        raise SomasegError(f"{where}: does not say how its members are joined; make it again")
    return Bundle(tuple(members), fields.method, fields.settings, fields.rescorer, fields.card)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {key: value for key, value in tensors.items() if key.startswith(prefix)}
    return {
        key[len(prefix) :]: value.float() if value.dtype == torch.float16 else value
        for key, value in found.items()
    }


def _old_model(
    fields: dict[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Bring a single model of format 1, with parts in files beside it, into today's form."""
    old = validate(_OldModelFields, fields, str(path))
    inside = {f"0.0.{name}": tensor for name, tensor in tensors.items()}
    for ending, digest in old.parts.items():
        beside = path.with_suffix(f".{ending}")
        try:
            data = beside.read_bytes()
        except (OSError, ValueError) as error:
            raise SomasegError(
                f"{beside}: {getattr(error, 'strerror', None) or error}; {path} is of no use "
                "without it: keep the two together"
            ) from error
        if sha256(data).hexdigest() != digest:
            raise SomasegError(
                f"{beside}: truncated, or of another model than {path}; copy or train both again"
            )
        inside[f"0.0.{PART}{ending}"] = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    model = {"config": old.config, "info": old.info}
    member = {"name": str(old.config.get("family")), "weight": 1.0, "views": "none"}
    today = {
        "format": FORMAT,
        "members": [{**member, "models": [model]}],
        "method": None,
        "settings": old.info.settle,
        "card": old.info.card,
    }
    return today, inside
