"""The training loop: one network, one set of images, read from top to bottom."""

import math
import os
from collections.abc import Iterator, Sequence
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
from somaseg.models.base import Batch, Network
from somaseg.models.device import choose_device, keep_memory
from somaseg.models.training.checkpoint import State
from somaseg.models.training.journal import Journal, Trained
from somaseg.models.training.logs import Loggers, StepProgress
from somaseg.models.training.settings import TrainSettings


def train_network(
    model: Network,
    samples: Sequence[Sample],
    settings: TrainSettings,
    folder: str | Path,
    *,
    loggers: Loggers | None = None,
    progress: StepProgress | None = None,
) -> Trained:
    """Train a network in place; at the end it holds the averaged weights.

    A checkpoint in ``folder`` is taken up where it stands: the steps that follow are the same
    as without the interruption, because each crop depends on its number alone. Processes that
    ``torchrun`` started train together: each takes its share of a step's crops, losses and
    gradients are means over all, and the first alone writes and tells.

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
    on_cpu = device.type == "cpu" and (gpu or int(os.environ.get("WORLD_SIZE", "1")) > 1)
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
        channels=model.info.inputs,
    )
    optimizer = _optimizer(model, settings)
    schedule = LambdaLR(optimizer, lambda step: rate_factor(step, settings))
    # decay 0 would copy the weights at every step: the same as no averaging, at a cost.
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True
    )
    parts: dict[str, Any] = {
        "model": model,
        "average": average,
        "optimizer": optimizer,
        "schedule": schedule,
    }

    def state() -> dict[str, State]:
        return {name: part.state_dict() for name, part in parts.items()}

    journal = Journal(folder, settings, loggers, progress, accelerator.is_main_process)
    for name, saved in (journal.state or {}).items():
        parts[name].load_state_dict(saved)

    model.to(accelerator.device)
    average.to(accelerator.device)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    model.train()
    sums: dict[str, Tensor] = {}
    since = 0
    batches = _batches(model, sampler, settings, journal.start, accelerator)
    for step, batch in enumerate(batches, journal.start):
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
        if journal.logs_at(done):
            shared = accelerator.reduce(to_device(sums, accelerator.device), "mean")
            means = {name: float(value) / since for name, value in shared.items()}
            if not math.isfinite(means["total"]):
                raise SomasegError(
                    f"training {folder}: the loss is not finite at step {done}; "
                    "lower `training.rate` or set `precision: no`"
                )
            journal.log(done, means, float(schedule.get_last_lr()[-1]))
            sums, since = {}, 0
        # At a logged step the sums are empty, so nothing is lost by resuming from there.
        journal.end_step(done, state, journal.losses.get("total"), whole=since == 0)
    accelerator.wait_for_everyone()
    if settings.average:
        model.load_state_dict(average.module.state_dict())
    model.eval()
    return journal.end()


def rate_factor(step: int, settings: TrainSettings) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine to nearly nothing."""
    warmup = settings.warmup * settings.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    rest = (step - warmup) / max(settings.steps - warmup, 1)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(rest, 1)))


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
