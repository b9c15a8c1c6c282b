"""In which numbers networks compute: float32, bfloat16 where that keeps the score, or int8.

bfloat16 has the range of float32 and a third of its digits. Processors with AVX512-BF16 or AMX
compute convolutions in it at twice the speed; elsewhere it would be imitated, at many times the
cost.
"""

import os

import torch

from somaseg.errors import SomasegError
from somaseg.models.base import Model, Network

VARIABLE = "SOMASEG_PRECISION"
"""Environment variable of the choice; ``--precision`` sets it."""
PRECISIONS = ("auto", "float32", "bfloat16", "int8")
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_precision(name: str | None = None) -> str:
    """Return the precision as named, else as ``SOMASEG_PRECISION`` says, or ``auto``.

    Raises:
        SomasegError: not one of :data:`PRECISIONS`.
    """
    name = name or os.environ.get(VARIABLE) or PRECISIONS[0]
    if name not in PRECISIONS:
        raise SomasegError(f"precision {name!r}: give one of {', '.join(PRECISIONS)}")
    return name


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = torch.cpu
    return device.type == "cpu" and (
        cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    )


def precision_of(model: Model, name: str, engine: str, device: torch.device) -> str:
    """Decide in what a network computes: ``float32``, ``bfloat16``, ``float16`` or ``int8``.

    ``auto`` is half precision on a CUDA GPU, as in training. On a processor it is bfloat16 if the
    processor has it and the model's file says that its score was kept
    (:attr:`somaseg.models.config.ModelInfo.checked`), else float32. What is no network, as a pixel
    forest, stays in float32.

    Args:
        model: of any family.
        name: one of :data:`PRECISIONS`.
        engine: what runs the network.
        device: where.

    Raises:
        SomasegError: the device or the engine does not compute so.
    """
    if name == "bfloat16":
        if not has_bfloat16(device):
            raise SomasegError(
                f"precision bfloat16: this {'processor' if device.type == 'cpu' else 'GPU'} does "
                "not compute in it (AVX512-BF16 or AMX); give float32 or auto"
            )
        if engine == "onnxruntime":
            raise SomasegError(
                "precision bfloat16: ONNX Runtime computes in float32; give --engine torch or "
                "openvino"
            )
    if name == "int8":
        if engine != "openvino":
            raise SomasegError("precision int8: OpenVINO computes in it; give --engine openvino")
        if isinstance(model, Network) and not model.int8:
            raise SomasegError(
                "precision int8: this model has no networks in int8; make them on images of yours "
                "with `somaseg calibrate`"
            )
    if name == "float32" or not isinstance(model, Network):
        return "float32"
    if device.type == "cuda":
        return "bfloat16" if has_bfloat16(device) else "float16"
    if name != "auto":
        return name
    checked = model.info.checked
    kept = checked is not None and checked.keeps("bfloat16")
    return "bfloat16" if kept and has_bfloat16(device) and engine != "onnxruntime" else "float32"
