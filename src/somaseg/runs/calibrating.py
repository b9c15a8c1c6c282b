"""Make a model ready for lower precision on images of the user, and say what that costs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.models.bundle import Bundle
from somaseg.models.config import Checked
from somaseg.models.precision import has_bfloat16
from somaseg.models.quantise import quantise
from somaseg.predict.segmenter import Segmenter
from somaseg.runs.checking import agreement, mean_score, middle

QUANTISED_ON, SCORED = 12, 8
"""Images that ranges are taken from, and others that are segmented in every precision."""


@dataclass(frozen=True)
class Row:
    """What one precision gives.

    Attributes:
        precision, engine: what computes.
        agreement: F1 at IoU .5 with the first row's cells.
        score: on annotated images; none without annotations.
        seconds: processor time an image, the first one left out.
    """

    precision: str
    engine: str
    agreement: float
    score: float | None
    seconds: float


def calibrate(
    bundle: Bundle, data: Dataset, int8: bool = True, done: Callable[[str], None] | None = None
) -> tuple[Bundle, list[Row]]:
    """Quantise the networks of a model, and segment some images in every precision.

    Args:
        bundle: the model; its networks get their copies in int8 in place.
        data: images of the user. If some are annotated, those alone are segmented and scored.
        int8: whether to quantise; else bfloat16 alone is tried.
        done: told of each thing that is done.

    Returns:
        The model; where images were scored, its parts know their scores. And the table, float32
        first.

    Raises:
        SomasegError: no image, nothing to try here, or networks that cannot be quantised.
    """
    if not len(data):
        raise SomasegError(f"{data.source}: no image to calibrate with")
    ways = [("float32", "torch")]
    if has_bfloat16(torch.device("cpu")):
        ways.append(("bfloat16", "torch"))
    if int8:
        ways += [("float32", "openvino"), ("int8", "openvino")]
    elif len(ways) == 1:
        raise SomasegError("this processor has no bfloat16 (AVX512-BF16 or AMX): nothing to try")
    annotated = [sample for sample in data if sample.instances is not None]
    scored = _spread(annotated or list(data), SCORED)
    ids = {sample.id for sample in scored}
    others = [sample for sample in data if sample.id not in ids]
    if int8:
        images = [middle(sample)[0] for sample in _spread(others or scored, QUANTISED_ON)]
        for member in bundle.members:
            for i, model in enumerate(member.models):
                quantise(model, images)
                if done:
                    done(f"quantised {member.name}, network {i + 1} of {len(member.models)}")
    pictures = [middle(sample) for sample in scored]
    first: list[Instances] = []
    rows = []
    for precision, engine in ways:
        segmenter = Segmenter.of_bundle(bundle, device="cpu", engine=engine, precision=precision)
        found, seconds = [], []
        for image, _ in pictures:
            began = time.process_time()
            found.append(segmenter(image))
            seconds.append(time.process_time() - began)
        first = first or found
        score = mean_score([cells for _, cells in pictures], found) if annotated else None
        taken = float(np.mean(seconds[1:] or seconds))
        rows.append(Row(precision, engine, agreement(first, found), score, taken))
        if done:
            done(f"{precision} by {engine}")
    if annotated:
        scores = {row.precision: row.score for row in reversed(rows) if row.score is not None}
        checked = Checked(images=len(scored), scores=scores)
        for member in bundle.members:
            for model in member.models:
                model.info = model.info.model_copy(update={"checked": checked})
    return replace(bundle), rows


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[i] for i in places]
