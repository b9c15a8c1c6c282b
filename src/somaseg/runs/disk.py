"""Tell before hours of training what would fail at their end: no right to write, no space."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from somaseg.files import CannotWrite, writing
from somaseg.models.base import Network
from somaseg.models.config import ModelInfo
from somaseg.models.registry import build_model, parse_config
from somaseg.runs.run import Run


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
        total = bytes_needed + 8 * sum(here[-max(jobs, 1) :])
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
