"""Where networks run: one device, chosen once, at the command line or in the call.

The choice stands in the environment, so that the processes that train folds know it as well.
"""

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from somaseg.errors import SomasegError

VARIABLE = "SOMASEG_DEVICE"
"""Environment variable of the choice; ``--device`` sets it."""
_NAMES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def parse_device(name: str) -> str:
    """Check how a device is written.

    Raises:
        SomasegError: not ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    if not _NAMES.fullmatch(name):
        raise SomasegError(f"device {name!r}: give auto, cpu, cuda, cuda:N (N from 0) or mps")
    return name


def choose_device(name: str | None = None) -> torch.device:
    """Return the device that networks run on.

    Args:
        name: ``auto`` (a CUDA GPU if there is one, else the processor), ``cpu``, ``cuda:N`` or
            ``mps``; by default what ``SOMASEG_DEVICE`` says, else ``auto``.

    Raises:
        SomasegError: not such a name, or a device that this machine lacks.
    """
    name = parse_device(name or os.environ.get(VARIABLE) or "auto")
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda":
        index = device.index or 0
        if index >= count:
            raise SomasegError(
                f"device {name}: this machine has {count or 'no'} CUDA GPU"
                f"{'s, from cuda:0' if count > 1 else ''}; choose auto or cpu"
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SomasegError("device mps: PyTorch finds no Apple GPU here; choose auto or cpu")
    return device


@contextmanager
def predicting(device: torch.device) -> Iterator[None]:
    """Nothing inside needs gradients; on a CUDA GPU in half precision, as in training."""
    half = torch.bfloat16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        half = torch.float16
    with torch.inference_mode(), torch.autocast("cuda", half, enabled=device.type == "cuda"):
        yield


@cache
def keep_memory() -> bool:
    """Tell glibc to keep the memory that a network frees; elsewhere nothing is done.

    By default it gives large blocks back to the system after every layer and asks for them again at
    the next: a third of a prediction's time. What is kept is bounded by the largest network's peak.
    Whoever has set ``MALLOC_…`` variables is not overruled.

    Returns:
        whether it was told.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # <malloc.h>
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((m_mmap_threshold, 2**30), (m_trim_threshold, 2**31 - 1), (m_top_pad, 2**26))
    # Each is told, whatever became of the others.
    told = [bool(mallopt(option, value)) for option, value in settings]
    return all(told)
