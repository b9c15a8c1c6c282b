"""The checksum that model files and checkpoints carry, so that damage never passes for content."""

from collections.abc import Mapping
from hashlib import sha256

import torch
from torch import Tensor

CHECKSUM = "checksum"
"""Its key in the metadata of a safetensors file."""


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text and of tensors, whatever their order, as hexadecimals."""
    digest = sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
