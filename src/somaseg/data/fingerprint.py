"""What a data set is like: sizes, density, overlap, gray values, by class and overall.

Planning reads it to choose the common cell diameter, the crop and the training scale; the EDA
page shows it. `measure` looks at each image once; `summarise` is then a matter of milliseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from numba import njit
from pydantic import BaseModel, ConfigDict, Field

from somaseg.data.images import to_gray
from somaseg.data.statistics import count_claims
from somaseg.data.types import Dataset, Sample
from somaseg.instances import Instances
from somaseg.masks.parallel import map_images

Floats = npt.NDArray[np.float64]

#: The percentiles of the gray values that are kept.
PERCENTILES: tuple[float, ...] = (0.1, 1, 5, 25, 50, 75, 95, 99, 99.9)


@dataclass(frozen=True, eq=False)
class RegionFacts:
    """The cells of one class (or of all) in one image.

    Attributes:
        density: share of the image's pixels that lie in one of these cells.
        overlap: share of these pixels that a second cell (of any class) covers; NaN without cells.
        contrast: (mean in the cells - mean outside all cells) / standard deviation outside; NaN
            where there is no image, no cell or no background.
        texture: standard deviation in the cells / standard deviation outside; NaN likewise. In
            phase contrast this, and not the contrast, is what makes cells visible.
    """

    density: float
    overlap: float
    contrast: float
    texture: float


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """One image, measured.

    Attributes:
        id, size, image_class: as in the sample.
        pixel_type: such as ``uint8 gray``; none if the image file is not at hand.
        percentiles: gray values at ``PERCENTILES``, float64; empty without the file.
        mean, std: of the gray values; NaN without the file.
        annotated: whether the image has annotations (then it may still have no cell).
        areas: int64 (n,), pixels of each cell.
        classes: int16 (n,), index into the data set's names.
        touching: bool (n,), whether the cell shares a pixel with another or lies right beside it
            (8-neighbours).
        regions: of the cells of each class by index, and of all of them under None.
    """

    id: str
    size: tuple[int, int]
    image_class: str | None
    pixel_type: str | None
    percentiles: Floats
    mean: float
    std: float
    annotated: bool
    areas: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int16]
    touching: npt.NDArray[np.bool_]
    regions: dict[int | None, RegionFacts]

    def shows(self, index: int, name: str) -> bool:
        """Whether the image is of this class, or has a cell of it."""
        return self.image_class == name or index in self.regions


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


def measure(dataset: Dataset, workers: int | None = None) -> list[ImageFacts]:
    """Measure each image, several at a time; in the order of the data set."""
    return map_images(measure_image, dataset, workers)


def measure_image(sample: Sample) -> ImageFacts:
    """Measure one image and its cells."""
    gray = pixel_type = None
    percentiles, mean, std = np.empty(0), np.nan, np.nan
    if sample.image_path is not None:
        image = sample.image()
        pixel_type = f"{image.dtype} {'gray' if image.ndim == 2 else 'RGB'}"
        gray = to_gray(image)
        percentiles = np.percentile(gray, PERCENTILES).astype(np.float64)
        mean, std = float(gray.mean(dtype=np.float64)), float(gray.std(dtype=np.float64))
    cells = sample.instances
    annotated = cells is not None
    if cells is None:
        cells = Instances.empty(sample.size)
    return ImageFacts(
        id=sample.id,
        size=sample.size,
        image_class=sample.image_class,
        pixel_type=pixel_type,
        percentiles=percentiles,
        mean=mean,
        std=std,
        annotated=annotated,
        areas=cells.areas,
        classes=cells.classes,
        touching=touching(cells),
        regions=_regions(cells, gray) if annotated else {},
    )


def touching(cells: Instances) -> npt.NDArray[np.bool_]:
    """Which cells share a pixel with another one or have it as an 8-neighbour, bool (n,)."""
    found = np.zeros(len(cells), np.bool_)
    if len(cells) > 1:
        # Every layer keeps its cells whole, so that no neighbour is lost to an overlap. Two
        # cells touch if one, grown by a pixel, meets the other.
        _find_touching(*cells.flat, np.uint8(cells.cut), cells.layers(), found)
    return found


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


def diameters(areas: npt.NDArray[np.integer]) -> Floats:
    """Diameter of a disc of the same area, float64 (n,)."""
    return 2 * np.sqrt(areas / np.pi)


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
    regions = [fact.regions.get(index, _NO_CELLS) for fact in annotated]
    rows = [np.ones(len(f.areas), bool) if index is None else f.classes == index for f in annotated]
    areas = _joined([fact.areas[row] for fact, row in zip(annotated, rows, strict=True)])
    touch = _joined([fact.touching[row] for fact, row in zip(annotated, rows, strict=True)])
    gray = [fact.percentiles for fact in facts if fact.pixel_type is not None]
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
    )


_NO_CELLS = RegionFacts(density=0.0, overlap=np.nan, contrast=np.nan, texture=np.nan)


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _regions(
    cells: Instances, gray: npt.NDArray[np.float32] | None
) -> dict[int | None, RegionFacts]:
    count = count_claims(cells)
    known = sorted(set(cells.classes.tolist()) - {-1})
    regions: dict[int | None, RegionFacts] = {}
    for index in (None, *known):
        whole = index is None or (len(known) == 1 and bool((cells.classes == index).all()))
        if index is not None and whole:
            regions[index] = regions[None]
            continue
        own = count if whole else count_claims(cells[cells.classes == index])
        regions[index] = _region(own > 0, count, gray)
    return regions


def _region(
    inside: npt.NDArray[np.bool_],
    count: npt.NDArray[np.int32],
    gray: npt.NDArray[np.float32] | None,
) -> RegionFacts:
    n = int(np.count_nonzero(inside))
    if n == 0:
        return _NO_CELLS
    contrast = texture = np.nan
    outside = count == 0
    if gray is not None and outside.any():
        around = gray[outside].astype(np.float64)
        spread = float(around.std())
        if spread > 0:
            cells = gray[inside].astype(np.float64)
            contrast = float(cells.mean() - around.mean()) / spread
            texture = float(cells.std()) / spread
    return RegionFacts(
        density=n / inside.size,
        overlap=int(np.count_nonzero(inside & (count > 1))) / n,
        contrast=contrast,
        texture=texture,
    )


@njit(cache=True, nogil=True)
def _find_touching(boxes, pixels, offsets, cut, layers, found):  # type: ignore[no-untyped-def]
    """Mark each cell that has, on or beside one of its pixels, another label in any layer."""
    planes, height, width = layers.shape
    for i in range(len(boxes)):
        at = offsets[i]
        for y in range(boxes[i, 1], boxes[i, 3]):
            for x in range(boxes[i, 0], boxes[i, 2]):
                if pixels[at] >= cut and not found[i]:
                    for v in range(max(0, y - 1), min(height, y + 2)):
                        for u in range(max(0, x - 1), min(width, x + 2)):
                            for k in range(planes):
                                other = layers[k, v, u]
                                if other != 0 and other != i + 1:
                                    found[i] = True
                at += 1
