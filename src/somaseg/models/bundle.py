"""A bundle: the members of an ensemble, and how they are joined and settled, in one file.

It is a safetensors file like a model's. Its metadata hold, as JSON under the key
``somaseg-bundle``, each member's config and info, weights and views, the way of joining, and the
settings by class; the tensors of model f of member m are named ``m.f.NAME``. Nothing is ever
unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.files import atomic_path
from somaseg.models.base import Model, ModelInfo
from somaseg.models.registry import make_model

KEY = "somaseg-bundle"
FORMAT = 1
PART = "part:"
"""Begins the names of what a model has in files of its own, such as XGBoost's trees: bytes."""


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
    """What a bundle file holds.

    Attributes:
        members: at least one.
        method: of :class:`somaseg.decide.Fusion`; none for a single member.
        settle: settings by class name, as :func:`somaseg.decide.dump_settings` gives them.
        card: free text by key.
    """

    members: tuple[BundleMember, ...]
    method: str | None
    settle: dict[str, Any]
    card: dict[str, Any]


def save_bundle(path: str | Path, bundle: Bundle) -> None:
    """Write a bundle, whole or not at all; floating-point weights as float16, half the size.

    Raises:
        SomasegError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    members = []
    for m, member in enumerate(bundle.members):
        models = []
        for f, model in enumerate(member.models):
            models.append(
                {
                    "config": model.config.model_dump(mode="json"),
                    "info": model.info.model_dump(mode="json"),
                }
            )
            for name, tensor in model.tensors().items():
                half = tensor.half() if tensor.dtype == torch.float32 else tensor
                tensors[f"{m}.{f}.{name}"] = half.detach().cpu().contiguous()
            for ending, data in model.parts().items():
                tensors[f"{m}.{f}.{PART}{ending}"] = torch.from_numpy(
                    np.frombuffer(data, np.uint8).copy()
                )
        members.append(
            {
                "name": member.name,
                "weight": member.weight,
                "views": member.views,
                "models": models,
            }
        )
    fields = {
        "format": FORMAT,
        "members": members,
        "method": bundle.method,
        "settle": bundle.settle,
        "card": bundle.card,
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {KEY: json.dumps(fields)})


def is_bundle(path: str | Path) -> bool:
    """Whether a file is a safetensors file with a bundle's metadata."""
    try:
        with safe_open(path, "pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle, its models ready to predict.

    Raises:
        SomasegError: missing, truncated, no bundle, or of a later format.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SomasegError(
            f"{path}: not a whole safetensors file ({error}); copy it or run `somaseg fit` again"
        ) from error
    if text is None:
        raise SomasegError(f"{path}: no bundle of models")
    fields = json.loads(text)
    if fields.get("format") != FORMAT:
        raise SomasegError(
            f"{path}: bundle format {fields.get('format')}, this somaseg reads {FORMAT}; "
            "install the somaseg that wrote it"
        )
    members = tuple(
        BundleMember(
            member["name"],
            member["weight"],
            member["views"],
            tuple(
                _model(one, _under(tensors, f"{m}.{f}."), path)
                for f, one in enumerate(member["models"])
            ),
        )
        for m, member in enumerate(fields["members"])
    )
    return Bundle(members, fields["method"], fields["settle"], fields["card"])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {key: value for key, value in tensors.items() if key.startswith(prefix)}
    return {
        key[len(prefix) :]: value.float() if value.dtype == torch.float16 else value
        for key, value in found.items()
    }


def _model(fields: Mapping[str, Any], tensors: dict[str, Tensor], path: Path) -> Model:
    info = ModelInfo.model_validate(fields["info"])
    parts = {
        key.removeprefix(PART): tensors.pop(key).numpy().tobytes()
        for key in list(tensors)
        if key.startswith(PART)
    }
    return make_model(fields["config"], info, tensors, parts, str(path))
