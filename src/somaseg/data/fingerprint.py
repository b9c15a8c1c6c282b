"""What a data set is like: sizes, density, overlap, gray values, by class and overall.

Planning reads it to choose the common cell diameter, the crop and the training scale; the EDA
page and `data info` show it. `measure` looks at each image once; `summarise` is then a matter of
milliseconds.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from somaseg.data.facts import NO_CELLS, PERCENTILES, ImageFacts, diameters, measure
from somaseg.data.types import Dataset


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantiles(_Facts):
    """A distribution in a few numbers."""

    n: int
    mean: float
    std: float
    min: float
    p05: float
    p25: float
    median: float
    p75: float
    p95: float
    max: float


class Group(_Facts):
    """The images and cells of one class, or of the whole data set.

    What cannot be known (no cells, no image files) is null. Each image counts once in
    ``cells_per_image``, ``density``, ``overlap``, ``contrast`` and ``texture`` (see
    `RegionFacts`), each cell once in ``area`` (pixels) and ``diameter`` (that of a disc of the
    same area, pixels). ``touching``: share of the cells that touch another one. ``intensity``:
    gray value at each percentile, mean over the images, in the units of the files.
    ``overlap_share``: of all foreground pixels together, those that several cells claim.
    """

    images: int
    cells: int
    cells_per_image: Quantiles | None
    area: Quantiles | None
    diameter: Quantiles | None
    density: Quantiles | None
    overlap: Quantiles | None
    touching: float | None
    contrast: Quantiles | None
    texture: Quantiles | None
    intensity: dict[str, float] | None
    annotated: int = 0
    overlap_share: float = 0.0


class SizeCount(_Facts):
    """How many images have one size, in pixels."""

    height: int
    width: int
    images: int


class Fingerprint(_Facts):
    """A data set in figures; ``model_dump_json()`` and ``model_validate_json()`` keep all of it."""

    source: str
    names: tuple[str, ...]
    images: int
    annotated: int
    pixel_size: float | None = Field(description="micrometres a pixel")
    sizes: tuple[SizeCount, ...]
    pixel_types: dict[str, int]
    overall: Group
    by_class: Annotated[dict[str, Group], Field(description="classes that occur, by name")]


def fingerprint(dataset: Dataset, workers: int | None = None) -> Fingerprint:
    """Measure every image and sum up.

    Args:
        dataset: images without annotation count for the gray values, annotations whose image file
            is missing for the cells.
        workers: threads; all cores by default.

    Raises:
        SomasegError: an image cannot be read.
    """
    return summarise(dataset, measure(dataset, workers))


def summarise(dataset: Dataset, facts: Sequence[ImageFacts]) -> Fingerprint:
    """Sum up what `measure` found in the data set."""
    sizes: dict[tuple[int, int], int] = {}
    pixel_types: dict[str, int] = {}
    for fact in facts:
        sizes[fact.size] = sizes.get(fact.size, 0) + 1
        if fact.pixel_type is not None:
            pixel_types[fact.pixel_type] = pixel_types.get(fact.pixel_type, 0) + 1
    by_class = {
        name: _group([fact for fact in facts if fact.shows(index, name)], index)
        for index, name in enumerate(dataset.names)
    }
    return Fingerprint(
        source=dataset.source,
        names=dataset.names,
        images=len(facts),
        annotated=sum(fact.annotated for fact in facts),
        pixel_size=dataset.pixel_size,
        sizes=tuple(
            SizeCount(height=height, width=width, images=count)
            for (height, width), count in sorted(sizes.items(), key=lambda item: -item[1])
        ),
        pixel_types=pixel_types,
        overall=_group(facts, None),
        by_class={name: group for name, group in by_class.items() if group.images},
    )


def quantiles(values: npt.ArrayLike) -> Quantiles | None:
    """Describe values (n,), NaN left out; none if nothing is left."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if len(known) == 0:
        return None
    low, p05, p25, median, p75, p95, high = np.percentile(known, (0, 5, 25, 50, 75, 95, 100))
    return Quantiles(
        n=len(known),
        mean=float(known.mean()),
        std=float(known.std()),
        min=float(low),
        p05=float(p05),
        p25=float(p25),
        median=float(median),
        p75=float(p75),
        p95=float(p95),
        max=float(high),
    )


def _group(facts: Sequence[ImageFacts], index: int | None) -> Group:
    """Sum up the cells of one class (by index), or of all (None), in these images."""
    annotated = [fact for fact in facts if fact.annotated]
    regions = [fact.regions.get(index, NO_CELLS) for fact in annotated]
    rows = [np.ones(len(f.areas), bool) if index is None else f.classes == index for f in annotated]
    areas = _joined([fact.areas[row] for fact, row in zip(annotated, rows, strict=True)])
    touch = _joined([fact.touching[row] for fact, row in zip(annotated, rows, strict=True)])
    gray = [fact.percentiles for fact in facts if len(fact.percentiles)]
    foreground = sum(region.pixels for region in regions)
    return Group(
        images=len(facts),
        cells=len(areas),
        cells_per_image=quantiles([int(row.sum()) for row in rows]),
        area=quantiles(areas),
        diameter=quantiles(diameters(areas)),
        density=quantiles([region.density for region in regions]),
        overlap=quantiles([region.overlap for region in regions]),
        touching=float(touch.mean()) if len(touch) else None,
        contrast=quantiles([region.contrast for region in regions]),
        texture=quantiles([region.texture for region in regions]),
        intensity=(
            {f"p{p:g}": float(v) for p, v in zip(PERCENTILES, np.mean(gray, axis=0), strict=True)}
            if gray
            else None
        ),
        annotated=len(annotated),
        overlap_share=sum(r.shared for r in regions) / foreground if foreground else 0.0,
    )


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, np.int64), *parts])
