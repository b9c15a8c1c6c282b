"""How long a training step takes on this machine: measured, for planning."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from somaseg.data.types import Sample
from somaseg.models.base import Network
from somaseg.models.registry import build_model, load_preset, parse_config
from somaseg.models.training.info import learn_info
from somaseg.models.training.loop import train_network
from somaseg.models.training.settings import TrainSettings

IMAGES = 4
"""Images that the measured steps draw from."""


def seconds_per_step(preset: str, samples: Sequence[Sample], threads: int, steps: int = 3) -> float:
    """Train a few steps of a preset for real; the median of all but the first.

    Args:
        preset: a network's preset, or a YAML file of one.
        samples: annotated images; the fullest few are used.
        threads: of the processor, as the training will have.
        steps: that are measured.

    Raises:
        TypeError: the preset is not trained in steps.
    """
    import torch

    read = load_preset(preset)
    fullest = sorted(samples, key=lambda sample: len(sample.annotated()), reverse=True)[:IMAGES]
    torch.manual_seed(0)
    model = build_model(parse_config(read.model, preset), learn_info(fullest))
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
