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
BATCH_VARIABLE = "SOMASEG_BATCH"
"""Environment variable of :func:`choose_batch`; ``--batch`` sets it."""
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


def choose_batch(count: int | None = None, device: torch.device | None = None) -> int:
    """Return how many views or tiles of one shape go through a network at once.

    Args:
        count: by default what ``SOMASEG_BATCH`` says, else 8 on a GPU and 1 on a processor, where
            more bring nothing and take memory.
        device: where the network runs.

    Raises:
        SomasegError: not a whole number from 1.
    """
    text = os.environ.get(BATCH_VARIABLE) or None if count is None else str(count)
    if text is None:
        return 1 if device is None or device.type == "cpu" else 8
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise SomasegError(f"batch {text!r}: give how many views or tiles at once, from 1")
    return int(text)


@contextmanager
def predicting(device: torch.device, half: torch.dtype | None = None) -> Iterator[None]:
    """Nothing inside needs gradients; networks compute in ``half``, if it is given."""
    with torch.inference_mode():
        if half is None:  # whoever called may have chosen
            yield
            return
        with torch.autocast(device.type, half):
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
