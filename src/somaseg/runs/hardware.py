"""What this machine has, as planning needs it."""

import os
from dataclasses import dataclass

from somaseg.models.training.loop import default_threads

GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """Processors, memory and accelerators.

    Attributes:
        cores: processor cores that this process may use.
        memory: main memory in bytes; 0 if the system does not tell.
        gpus: number of CUDA devices.
        gpu_memory: bytes of the smallest of them; 0 without any.
    """

    cores: int
    memory: int
    gpus: int = 0
    gpu_memory: int = 0

    @property
    def jobs(self) -> int:
        """Trainings side by side: one a GPU, else one a core as far as memory goes."""
        if self.gpus:
            return self.gpus
        # A light training on a processor takes up to 3 GiB.
        by_memory = self.memory // (4 * GIB) if self.memory else self.cores
        return max(1, min(self.cores, by_memory))

    def __str__(self) -> str:
        memory = f", {self.memory / GIB:.0f} GiB" if self.memory else ""
        gpus = f", {self.gpus} GPU of {self.gpu_memory / GIB:.0f} GiB" if self.gpus else ", no GPU"
        return f"{self.cores} cores{memory}{gpus}"


def find_hardware() -> Hardware:
    """Look at this machine."""
    import torch

    gpus = torch.cuda.device_count()
    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(gpus)]
    return Hardware(default_threads(1), _memory(), gpus, min(sizes, default=0))


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0  # not a POSIX system
