"""Checkpoints of a running training: safetensors and JSON in one file, nothing pickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.files import DAMAGE, atomic_path, check_regular, damaged
from somaseg.models.signature import CHECKSUM, checksum

State = dict[str, Any]


def save_checkpoint(path: str | Path, states: dict[str, State], progress: dict[str, Any]) -> None:
    """Write state dicts and progress, whole or not at all.

    Args:
        path: ends in ``.safetensors``.
        states: nested dicts and lists of tensors, numbers, strings and None.
        progress: JSON values.
    """
    tensors: dict[str, Tensor] = {}
    text, note = json.dumps(_pack(states, "", tensors)), json.dumps(progress)
    with atomic_path(path) as temporary:
        save_file(
            tensors,
            temporary,
            {"outline": text, "progress": note, CHECKSUM: checksum(text + note, tensors)},
        )


def load_checkpoint(path: str | Path) -> tuple[dict[str, State], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        SomasegError: truncated, damaged or not a checkpoint.
    """
    path = check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        outline, progress = metadata["outline"], metadata["progress"]
        # Those of before have none.
        if metadata.get(CHECKSUM, "") not in ("", checksum(outline + progress, tensors)):
            raise ValueError("its checksum is not that of its contents")
        states, note = _unpack(json.loads(outline), tensors), json.loads(progress)
        if not isinstance(states, dict) or not isinstance(note, dict):
            raise ValueError("no states, or no progress")
    except (SafetensorError, *DAMAGE) as error:
        raise damaged(path, error, "delete it to start this fold again") from error
    return states, note


def take_up(path: Path, settings: dict[str, Any]) -> tuple[dict[str, State], dict[str, Any]] | None:
    """Read the checkpoint of a training that was interrupted; none if there is none.

    Args:
        path: of the checkpoint.
        settings: of the training, as its progress holds them under ``settings``.

    Raises:
        SomasegError: truncated, or of a training with other settings.
    """
    if not path.exists():
        return None
    states, progress = load_checkpoint(path)
    if progress.get("settings") != settings:
        raise SomasegError(
            f"{path}: was made with other training settings; "
            "give another --out, or delete the fold's folder to start again"
        )
    return states, progress


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Move the tensors out of nested containers; in their places stand their names."""
    if isinstance(value, Tensor):
        # A clone, because safetensors refuses tensors that share memory.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        # Optimiser states are keyed by number, which JSON would turn into text.
        items = [[key, _pack(item, f"{name}/{key}", tensors)] for key, item in value.items()]
        return {"items": items}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _unpack(outline: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(outline, dict):
        if "tensor" in outline:
            return tensors[outline["tensor"]]
        return {key: _unpack(item, tensors) for key, item in outline["items"]}
    if isinstance(outline, list):
        return [_unpack(item, tensors) for item in outline]
    return outline
