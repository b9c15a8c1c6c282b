"""Figures that describe a data set: how many cells, how large, how much they overlap."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from somaseg.data.images import image_header
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.parallel import map_images


@dataclass(frozen=True)
class Figures:
    """What is counted and measured over some images.

    Attributes:
        images: how many.
        annotated: how many of them are annotated.
        cells: annotated instances.
        cells_mean: a mean annotated image's.
        cells_max: the fullest image's.
        area_median: pixels; none without cells.
        diameter_median: of the circle of the median area, pixels; none without cells.
        overlap_share: share of the foreground pixels that several cells claim.
    """

    images: int
    annotated: int
    cells: int
    cells_mean: float
    cells_max: int
    area_median: float | None
    diameter_median: float | None
    overlap_share: float


@dataclass(frozen=True)
class Summary:
    """A data set in figures.

    Attributes:
        total: over all images.
        by_class: over the images of a class, or the cells of a class where images mix them.
        sizes: number of images by ``WIDTH×HEIGHT``.
        pixels: number of images by kind: ``uint8 gray``, ``uint16 RGB``, …, ``missing``.
        groups: number of groups; none if the images have none.
    """

    total: Figures
    by_class: dict[str, Figures]
    sizes: dict[str, int]
    pixels: dict[str, int]
    groups: int | None


def summarise(dataset: Dataset) -> Summary:
    """Measure a data set; images are not decoded."""
    by_class = {}
    for label, name in enumerate(dataset.names):
        if any(sample.image_class is not None for sample in dataset):
            samples = [sample for sample in dataset if sample.image_class == name]
            by_class[name] = _figures(samples, [s.instances for s in samples])
        else:
            parts = [(s, s.instances and _of_class(s.instances, label)) for s in dataset]
            parts = [(sample, part) for sample, part in parts if part]
            by_class[name] = _figures([s for s, _ in parts], [part for _, part in parts])
    sizes = Counter(f"{sample.size[1]}×{sample.size[0]}" for sample in dataset)
    groups = {sample.group for sample in dataset if sample.group is not None}
    return Summary(
        _figures(dataset.samples, [sample.instances for sample in dataset]),
        by_class,
        dict(sizes.most_common()),
        dict(Counter(map_images(_pixel_kind, dataset)).most_common()),
        len(groups) or None,
    )


def count_claims(instances: Instances) -> npt.NDArray[np.int32]:
    """Count how many instances claim each pixel: int32 ``(h, w)``."""
    claims = np.zeros(instances.size, np.int32)
    for i, (x0, y0, x1, y1) in enumerate(instances.boxes.tolist()):
        claims[y0:y1, x0:x1] += instances.crop(i) >= instances.cut
    return claims


def overlap_share(instances: Instances) -> tuple[int, float]:
    """Count the pixels that several instances claim; and their share of the foreground."""
    claims = count_claims(instances)
    foreground = int(np.count_nonzero(claims))
    shared = int(np.count_nonzero(claims > 1))
    return shared, shared / foreground if foreground else 0.0


def diameter(area: float) -> float:
    """Diameter of the circle of an area, in pixels."""
    return float(np.sqrt(4 * area / np.pi))


def _figures(samples: Sequence[Sample], instances: Sequence[Instances | None]) -> Figures:
    annotated = [some for some in instances if some is not None]
    counts = [len(some) for some in annotated]
    areas = np.concatenate([some.areas for some in annotated] or [np.zeros(0, np.int64)])
    foreground = shared = 0
    for claims in map_images(count_claims, annotated):
        foreground += int(np.count_nonzero(claims))
        shared += int(np.count_nonzero(claims > 1))
    median = float(np.median(areas)) if len(areas) else None
    return Figures(
        images=len(samples),
        annotated=len(annotated),
        cells=sum(counts),
        cells_mean=sum(counts) / len(counts) if counts else 0.0,
        cells_max=max(counts, default=0),
        area_median=median,
        diameter_median=None if median is None else diameter(median),
        overlap_share=shared / foreground if foreground else 0.0,
    )


def _of_class(instances: Instances, label: int) -> Instances:
    return instances[instances.classes == label]


def _pixel_kind(sample: Sample) -> str:
    if sample.image_path is None:
        return "missing"
    try:
        header = image_header(sample.image_path)
    except SomasegError:
        return "unreadable"
    return f"{header.dtype} {'gray' if header.channels == 1 else 'RGB'}"
