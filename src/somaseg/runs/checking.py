"""What a lower precision does to a model's score: measured once, kept in the model's file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from somaseg.data.types import Sample
from somaseg.files import read_json
from somaseg.instances import Instances
from somaseg.models.base import Image, Model, Network
from somaseg.models.bundle import Bundle
from somaseg.models.config import Checked
from somaseg.models.precision import has_bfloat16
from somaseg.models.registry import validate
from somaseg.predict.segmenter import Segmenter
from somaseg.scoring.competition import score_image
from somaseg.scoring.match import Overlaps

IMAGES = 2
"""Of each fold that are predicted in all precisions."""
SIDE = 1024
"""Of larger images the middle is taken, pixels."""
FILE = "precision.json"
"""Of a fold's folder: what its model scored."""


def check_precision(model: Model, views: str, samples: Sequence[Sample]) -> Checked | None:
    """Score a model in float32 and in bfloat16, on this machine's processor.

    Args:
        model: of any family.
        views: test-time views.
        samples: annotated images that the model has not seen; some of them are taken.

    Returns:
        Its scores, settled by the defaults; none where there is nothing to measure: no network, no
        image, or a processor without bfloat16.
    """
    if not isinstance(model, Network) or not has_bfloat16(torch.device("cpu")) or not samples:
        return None
    places = np.linspace(0, len(samples) - 1, min(IMAGES, len(samples))).round().astype(int)
    some = [middle(samples[i]) for i in places]
    scores = {}
    for precision in ("float32", "bfloat16"):
        bundle = Bundle.of_model(model)
        segmenter = Segmenter.of_bundle(
            bundle, views, device="cpu", engine="torch", precision=precision
        )
        found = [segmenter(image) for image, _ in some]
        scores[precision] = mean_score([cells for _, cells in some], found)
    return Checked(images=len(some), scores=scores)


def mean_score(truth: Sequence[Instances], found: Sequence[Instances]) -> float:
    """Mean score of the competition's metric, all cells as one class."""
    pairs = [Overlaps.between(*pair) for pair in zip(truth, found, strict=True)]
    return round(float(np.mean([score_image(one).score for one in pairs])), 5)


def agreement(one: Sequence[Instances], other: Sequence[Instances]) -> float:
    """F1 at IoU .5 of two predictions of the same images, all cells pooled; 1 without a cell."""
    pairs = [Overlaps.between(*pair) for pair in zip(one, other, strict=True)]
    hits = sum(int(pair.counts((50,)).hits[0]) for pair in pairs)
    cells = sum(map(len, one)) + sum(map(len, other))
    return round(2 * hits / cells, 5) if cells else 1.0


def middle(sample: Sample) -> tuple[Image, Instances]:
    """The middle of an image, or all of one that is not larger, and its annotated cells."""
    image = sample.image()
    (y, height), (x, width) = (((n - min(n, SIDE)) // 2, min(n, SIDE)) for n in image.shape[:2])
    cells = Instances.empty(sample.size) if sample.instances is None else sample.annotated()
    return image[y : y + height, x : x + width], cells.window((height, width), (-x, -y))[0]


def pooled(folders: Sequence[Path]) -> Checked | None:
    """Mean over the images of all folds that have been checked; none if none has."""
    paths = [folder / FILE for folder in folders if (folder / FILE).exists()]
    found = [validate(Checked, read_json(path), str(path)) for path in paths]
    if not found:
        return None
    images = sum(one.images for one in found)
    scores = {
        name: round(sum(one.images * one.scores[name] for one in found) / images, 5)
        for name in found[0].scores
        if all(name in one.scores for one in found)
    }
    return Checked(images=images, scores=scores)
