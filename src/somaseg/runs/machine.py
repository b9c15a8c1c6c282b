"""What this machine has, how fast it trains, and whether its disk has room: before hours of it."""

import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from somaseg.data.types import Sample
from somaseg.files import CannotWrite, writing
from somaseg.models.base import Network
from somaseg.models.config import ModelInfo
from somaseg.models.registry import build_model, load_preset, parse_config
from somaseg.models.training.info import learn_info
from somaseg.models.training.loop import default_threads, train_network
from somaseg.models.training.settings import TrainSettings
from somaseg.runs.run import Run

GIB = 2**30
_MEASURED = 4
"""Images that the measured steps draw from."""


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


def seconds_per_step(
    preset: str,
    samples: Sequence[Sample],
    threads: int,
    steps: int = 3,
    channels: Sequence[str] = (),
) -> float:
    """Train a few steps of a preset for real; the median of all but the first.

    Args:
        preset: a network's preset, or a YAML file of one.
        samples: annotated images; the fullest few are used.
        threads: of the processor, as the training will have.
        steps: that are measured.
        channels: of the images, that are learned from.

    Raises:
        TypeError: the preset is not trained in steps.
    """
    import torch

    read = load_preset(preset)
    fullest = sorted(samples, key=lambda sample: len(sample.annotated()), reverse=True)[:_MEASURED]
    torch.manual_seed(0)
    model = build_model(parse_config(read.model, preset), learn_info(fullest, channels))
    if not isinstance(model, Network):
        raise TypeError(f"{preset}: family {model.config.family!r} has no training steps")
    settings = TrainSettings.model_validate({**read.training, "steps": steps + 1})
    times: list[float] = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            train_network(
                model,
                fullest,
                settings,
                Path(folder),
                progress=lambda *_: times.append(time.monotonic()),
            )
    finally:
        torch.set_num_threads(before)
    return statistics.median(b - a for a, b in itertools.pairwise(times))


def check_disk(tasks: Sequence[tuple[Run, int | None]], jobs: int) -> None:
    """Refuse trainings that their disk has no room for, or whose folder cannot be written to.

    Args:
        tasks: runs, and what is to be trained of each: a fold, or all images (none).
        jobs: tasks at a time.

    Raises:
        CannotWrite: the folder of a run cannot be written to, or the disk is too small for the
            checkpoints and model files.
    """
    sizes = {}
    for run in {run.folder: run for run, _ in tasks}.values():
        with writing(run.folder), tempfile.TemporaryFile(dir=run.folder):
            pass
        sizes[run.folder] = model_bytes(run)
    needed: dict[int, int] = {}
    places: dict[int, Path] = {}
    for run, _ in tasks:
        disk = run.folder.stat().st_dev
        places[disk] = run.folder
        needed[disk] = needed.get(disk, 0) + sizes[run.folder]
    for disk, bytes_needed in needed.items():
        # A checkpoint holds the weights, their average and two moments of each; the old one stays
        # until the new one stands.
        here = sorted((sizes[r.folder] for r, _ in tasks if r.folder.stat().st_dev == disk))
        # Once scored, the run's model file holds the models of all parts again.
        total = 2 * bytes_needed + 8 * sum(here[-max(jobs, 1) :])
        free = shutil.disk_usage(places[disk]).free
        if free < total:
            raise CannotWrite(
                f"{places[disk]}: training needs about {_megabytes(total)} for checkpoints and "
                f"models, {_megabytes(free)} are free; free some space or choose another --out"
            )


def model_bytes(run: Run) -> int:
    """Size of a run's model file, about; 0 if the family is none of networks."""
    config = parse_config(run.config.model)
    if hasattr(config, "pretrained"):
        config = config.model_copy(update={"pretrained": "none"})  # nothing to fetch for a size
    model = build_model(config, ModelInfo(names=("cell",), diameter=30.0))
    if not isinstance(model, Network):
        return 0
    return sum(tensor.numel() * tensor.element_size() for tensor in model.tensors().values())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
