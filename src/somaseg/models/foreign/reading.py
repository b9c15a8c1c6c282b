"""Read the tensors of any library's file, and nothing else: no file is ever executed.

A pickle names functions to call while it is read. Here only those are let through that make
tensors, arrays and plain containers; objects that some libraries add to their checkpoints are
replaced by an empty stand-in; whatever else a file asks for is refused by name.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.files import check_regular


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: under the names that the file gives them.
        names: of the classes, if the file tells them.
        config: text of the library's config, if the file has it.
    """

    tensors: dict[str, Tensor]
    names: tuple[str, ...] = ()
    config: str | None = None


class Inert:
    """Stands in for an object that is not needed: takes anything, does and keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def append(self, _: Any) -> None:
        """Take what a list would."""

    def extend(self, _: Any) -> None:
        """Take what a list would."""

    def __setitem__(self, _: Any, __: Any) -> None: ...


_STAND_INS = re.compile(
    r"(mmengine|mmcv|omegaconf|pytorch_lightning|lightning|lightning_fabric)\..+"
    r"|argparse\.Namespace|pathlib\.\w*Path|typing\.Any|_codecs\.encode|builtins\.(getattr|slice)"
    r"|numpy\.(_?core\.multiarray\.(_reconstruct|scalar)|ndarray|dtype|dtypes\.\w+)"
)
"""What checkpoints hold besides tensors, and nobody here needs."""

_ARRAYS: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy.core.multiarray", "scalar"): np._core.multiarray.scalar,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""What makes arrays."""

_PROGRAMS = (
    (r"(ultralytics|models\.(yolo|common))\b.*", "a YOLO, saved as a program"),
    (r"(segmentation_models_pytorch|torchvision|torch\.nn|timm|monai)\..+", "a model saved whole"),
    (r"(detectron2|mmdet)\..+", "a model saved whole"),
)
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C


class _Refused(Exception):
    """A file asks for what is not let through."""


def read_checkpoint_file(path: str | Path) -> Checkpoint:
    """Read a file of safetensors, torch (any age) or a plain pickle of arrays.

    Raises:
        SomasegError: missing, truncated, no such file, or one that asks to run something.
    """
    path = Path(path)
    if not path.is_file():
        raise SomasegError(f"{path}: no such weights file")
    check_regular(path)
    try:
        found = _read(path)
    except _Refused as refused:
        raise SomasegError(f"{path}: {_advice(str(refused))}") from refused
    except Exception as error:  # torch, zipfile, pickle and numpy raise many kinds
        if named := re.search(r"[Uu]nsupported (?:global: |class: )?GLOBAL (\S+)", str(error)):
            raise SomasegError(f"{path}: {_advice(named[1])}") from error
        raise SomasegError(
            f"{path}: not a readable weights file ({type(error).__name__}); "
            "is it whole, and does it hold tensors only?"
        ) from error
    if not isinstance(found, dict):
        raise SomasegError(f"{path}: holds a {type(found).__name__}, not tensors by name")
    tensors: Any = found
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    return Checkpoint(
        {
            str(name): torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in tensors.items()
            if isinstance(value, Tensor)
            or (isinstance(value, np.ndarray) and value.dtype != object)
        },
        *_meta(found),
    )


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise _Refused("torch.jit.ScriptModule")
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        for name in asked:
            if not _STAND_INS.fullmatch(name):
                raise _Refused(name)
        stand_ins: list[Any] = [(Inert, name) for name in asked]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    with path.open("rb") as file:
        first = _Arrays(file).load()
        if first != _TORCH_MAGIC:
            return first
    # torch before 1.6: what is in there cannot be listed beforehand.
    with torch.serialization.safe_globals([(Inert, ".".join(name)) for name in _ARRAYS]):
        return torch.load(path, map_location="cpu", weights_only=True)


class _Arrays(pickle.Unpickler):
    """Arrays and plain containers only."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")  # as numpy's arrays of Python 2 need it

    def find_class(self, module: str, name: str) -> Any:
        """Let through what makes arrays; refuse all else by name."""
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        try:
            return _ARRAYS[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def _encode(text: str, encoding: str) -> bytes:
    """How old protocols spell bytes."""
    if encoding != "latin1":
        raise _Refused(f"_codecs.encode of {encoding}")
    return text.encode("latin1")


def _advice(asked: str) -> str:
    if asked == "torch.jit.ScriptModule":
        kind: str | None = "TorchScript, a program"
    else:
        kind = next((kind for pattern, kind in _PROGRAMS if re.fullmatch(pattern, asked)), None)
    if kind is None:
        return (
            f"asks to run {asked} when it is read; refused, and nothing was executed (tensors only)"
        )
    return (
        f"{kind} ({asked}), which is not executed here; where it was made save its weights alone, "
        "torch.save(model.state_dict(), FILE), or predict there and join its COCO results here"
    )


def _meta(found: Mapping[Any, Any]) -> tuple[tuple[str, ...], str | None]:
    """Class names and config of an MMDetection checkpoint, of version 2 or 3."""
    meta = found.get("meta")
    if not isinstance(meta, dict):
        return (), None
    told: Any = meta.get("dataset_meta")
    told = told if isinstance(told, dict) else {}
    names: Any = told.get("classes") or told.get("CLASSES") or meta.get("CLASSES") or ()
    names = (names,) if isinstance(names, str) else names
    config = meta.get("cfg") or meta.get("config")
    return (
        tuple(str(name) for name in names) if isinstance(names, list | tuple) else (),
        config if isinstance(config, str) else None,
    )
