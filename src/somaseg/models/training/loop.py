"""The training loop: one network, one set of images, read from top to bottom."""

import csv
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from somaseg.data.augment import CropSampler
from somaseg.data.prepared import PREPARED
from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.files import write_text, writing
from somaseg.models.base import Batch, Network
from somaseg.models.device import choose_device, keep_memory
from somaseg.models.training.checkpoint import save_checkpoint, take_up
from somaseg.models.training.clock import Clock
from somaseg.models.training.logs import Loggers, Progress, Row
from somaseg.models.training.settings import TrainSettings

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.csv"
_CLOCK = ("step", "seconds")


@dataclass(frozen=True)
class Trained:
    """What a training took.

    Attributes:
        seconds: wall-clock time, over all sittings.
        cpu_seconds: processor time of this process, over all sittings.
        steps: optimiser steps.
        losses: averages of the last logged stretch, by name.
    """

    seconds: float
    cpu_seconds: float
    steps: int
    losses: dict[str, float]


def train_network(
    model: Network,
    samples: Sequence[Sample],
    settings: TrainSettings,
    folder: str | Path,
    *,
    loggers: Loggers | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a network in place; at the end it holds the averaged weights.

    A checkpoint in ``folder`` is taken up where it stands: the steps that follow are the same
    as without the interruption, because each crop depends on its number alone.

    Args:
        model: fresh, or with weights to start from.
        samples: annotated images.
        settings: the training.
        folder: gets ``checkpoint.safetensors`` and ``metrics.csv``.
        loggers: where losses go besides the CSV.
        progress: is told each step.

    Raises:
        SomasegError: no images, a crop that does not fit the network, a loss that is not finite,
            or a checkpoint of another training.
    """
    folder = Path(folder)
    if settings.crop % model.multiple:
        raise SomasegError(
            f"training.crop: {settings.crop} is not a multiple of {model.multiple}, "
            "which this network needs"
        )
    keep_memory()
    torch.manual_seed(settings.seed)
    # Accelerate keeps the precision of a process's first training unless told to forget it.
    AcceleratorState._reset_state()
    device = choose_device()
    if device.index:
        # By itself Accelerate takes the first GPU, or under torchrun one a process.
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = device.type == "cpu" and gpu
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=_precision(settings, device))
    sampler = CropSampler(
        samples,
        model.planes,
        size=settings.crop,
        scale=model.scale,
        stride=model.label_stride,
        margin=model.label_margin,
        settings=settings.augment,
        seed=settings.seed,
        cache=folder.parent / PREPARED,  # the run's: its folds share it
        cache_key=model.config.model_dump_json(),
        prepare=model.prepare,
    )
    optimizer = _optimizer(model, settings)
    schedule = LambdaLR(optimizer, lambda step: rate_factor(step, settings))
    # decay 0 would copy the weights at every step: the same as no averaging, at a cost.
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True
    )
    states: dict[str, Any] = {
        "model": model,
        "average": average,
        "optimizer": optimizer,
        "schedule": schedule,
    }
    start, spent = 0, None
    metrics = MetricsFile(folder / METRICS)
    if begun := take_up(folder / CHECKPOINT, settings.model_dump(mode="json")):
        saved, note = begun
        for name, part in states.items():
            part.load_state_dict(saved[name])
        start, spent = note["step"], note
    metrics.cut(start)
    if loggers:
        loggers.begin(metrics.rows())

    model.to(accelerator.device)
    average.to(accelerator.device)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    batches = _batches(model, sampler, settings, start, accelerator)
    clock, saved_at = Clock(spent), time.monotonic()

    def checkpoint(step: int) -> None:
        if accelerator.is_main_process:
            note = {
                "step": step,
                **clock.read(),
                "settings": settings.model_dump(mode="json"),
            }
            save_checkpoint(
                folder / CHECKPOINT, {k: part.state_dict() for k, part in states.items()}, note
            )

    model.train()
    sums: dict[str, Tensor] = {}
    means: dict[str, float] = {}
    since = 0
    for step, batch in enumerate(batches, start):
        # What a network draws at random (proposals, points) depends on the step alone, too.
        torch.manual_seed(settings.seed * 1_000_003 + step)
        with accelerator.autocast():
            losses = _losses(prepared, batch)
            loss = torch.stack(list(losses.values())).sum()
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if settings.average:
            average.update_parameters(model)
        for name, value in {**losses, "total": loss, "gradient": norm}.items():
            sums[name] = sums.get(name, torch.zeros(())) + value.detach().cpu()
        since += 1
        done = step + 1
        if done % settings.log_every == 0 or done == settings.steps:
            means = {name: float(value) / since for name, value in sums.items()}
            if not math.isfinite(means["total"]):
                raise SomasegError(
                    f"training {folder}: the loss is not finite at step {done}; "
                    "lower `training.rate` or set `precision: no`"
                )
            rate = float(schedule.get_last_lr()[-1])
            if accelerator.is_main_process:
                metrics.add(done, clock.read()["seconds"], rate, means)
                if loggers:
                    loggers.log(done, {**means, "rate": rate})
            sums, since = {}, 0
        if progress:
            progress(done, settings.steps, means.get("total"))
        # At a logged step the sums are empty, so nothing is lost by resuming from there.
        stale = time.monotonic() - saved_at > 60 * settings.checkpoint_minutes
        if since == 0 and (stale or done == settings.steps):
            checkpoint(done)
            saved_at = time.monotonic()
    accelerator.wait_for_everyone()
    if settings.average:
        model.load_state_dict(average.module.state_dict())
    model.eval()
    return Trained(**clock.read(), steps=settings.steps, losses=means or metrics.last())


def rate_factor(step: int, settings: TrainSettings) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine to nearly nothing."""
    warmup = settings.warmup * settings.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    rest = (step - warmup) / max(settings.steps - warmup, 1)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(rest, 1)))


class MetricsFile:
    """``metrics.csv``: one line per logged stretch, appended and flushed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, step: int, seconds: float, rate: float | None, means: dict[str, float]) -> None:
        """Append a line; the first also writes the header. What has no learning rate gives none.

        Raises:
            SomasegError: it cannot be written.
        """
        fields = {"step": step, "seconds": f"{seconds:.1f}"}
        fields |= {"rate": f"{rate:.3g}"} if rate is not None else {}
        fields |= {name: f"{value:.5f}" for name, value in means.items()}
        with writing(self.path), self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(fields))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(fields)

    def cut(self, step: int) -> None:
        """Drop the lines after ``step``: a killed training had logged past its checkpoint."""
        if self.path.exists():
            header, *lines = self.path.read_text().splitlines() or [""]
            whole = [x for x in lines if x.count(",") == header.count(",")]
            kept = [x for x in whole if int(x.split(",")[0]) <= step]
            write_text(self.path, "\n".join([header, *kept]) + "\n" if kept else "")

    def rows(self) -> list[Row]:
        """Return each line's step and its figures (losses, gradient, rate) by name."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [
                (int(row["step"]), {k: float(v) for k, v in row.items() if k not in _CLOCK})
                for row in csv.DictReader(file)
            ]

    def last(self) -> dict[str, float]:
        """Return the losses of the last line."""
        rows = self.rows()
        return {k: v for k, v in rows[-1][1].items() if k != "rate"} if rows else {}


def _losses(prepared: Any, batch: Batch) -> dict[str, Tensor]:
    # DistributedDataParallel synchronises gradients only through its own forward.
    losses: dict[str, Tensor] = prepared(batch)
    return losses


class _Crops(Dataset[dict[str, Any]]):
    """Training examples by number."""

    def __init__(self, model: Network, sampler: CropSampler, count: int) -> None:
        self.model, self.sampler, self.count = model, sampler, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.model.example(self.sampler.draw(index))


def _batches(
    model: Network,
    sampler: CropSampler,
    settings: TrainSettings,
    start: int,
    accelerator: Accelerator,
) -> Iterator[Batch]:
    """Yield the batches of the steps from ``start`` on, on the device."""
    batch, rank, world = settings.batch, accelerator.process_index, accelerator.num_processes
    # Step s takes crops s·world·batch …, dealt to the processes in turn.
    numbers = [
        list(range((step * world + rank) * batch, (step * world + rank + 1) * batch))
        for step in range(start, settings.steps)
    ]
    loader = DataLoader(
        _Crops(model, sampler, settings.steps * world * batch),
        batch_sampler=numbers,
        num_workers=settings.workers,
        collate_fn=model.collate,
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=settings.workers > 0,
    )
    for examples in loader:
        yield to_device(examples, accelerator.device)


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors in nested dicts and lists to a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [to_device(item, device) for item in value]
    return value


def _optimizer(model: Network, settings: TrainSettings) -> torch.optim.Optimizer:
    """Give the pretrained encoder a lower rate, and biases and norms no decay."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    pretrained = getattr(model.config, "pretrained", "none") != "none"
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            slow = pretrained and ".encoder." in f".{name}"
            groups.setdefault((slow, weights.ndim > 1), []).append(weights)
    parameters = [
        {
            "params": members,
            "lr": settings.rate * (settings.encoder_rate if slow else 1),
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (slow, decays), members in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.rate, momentum=settings.momentum)
    return torch.optim.AdamW(parameters, lr=settings.rate)


def _precision(settings: TrainSettings, device: torch.device) -> str:
    if settings.precision != "auto":
        return settings.precision
    if device.type != "cuda":
        # bfloat16 is slower than float32 on processors without matrix units for it.
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def default_threads(jobs: int) -> int:
    """Threads for each of ``jobs`` trainings side by side on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max((cores or 1) // max(jobs, 1), 1)
