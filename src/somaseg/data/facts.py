"""Measure images and their cells, one at a time: what figures of a data set are made of."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.data.images import image_header, to_gray
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
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
        pixels: that lie in one of these cells.
        shared: those of them that a second cell covers.
    """

    density: float
    overlap: float
    contrast: float
    texture: float
    pixels: int = 0
    shared: int = 0


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """One image, measured.

    Attributes:
        id, size, image_class: as in the sample.
        pixel_type: such as ``uint8 gray``; none if the image file is not at hand,
            ``unreadable`` if its header is broken.
        percentiles: gray values at ``PERCENTILES``, float64; empty if they were not looked at.
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


def measure(dataset: Dataset, workers: int | None = None, decode: bool = True) -> list[ImageFacts]:
    """Measure each image, several at a time; in the order of the data set.

    Args:
        dataset: the images.
        workers: threads; all cores by default.
        decode: look at gray values; without, only at headers and annotations.

    Raises:
        SomasegError: an image cannot be read (without ``decode`` it is called unreadable).
    """
    return map_images(lambda sample: measure_image(sample, decode), dataset, workers)


def measure_image(sample: Sample, decode: bool = True) -> ImageFacts:
    """Measure one image and its cells; see :func:`measure`."""
    gray = pixel_type = None
    percentiles, mean, std = np.empty(0), np.nan, np.nan
    if sample.image_path is not None and not decode:
        try:
            header = image_header(sample.image_path, sample.plane.scene if sample.plane else 0)
            one = sample.plane is not None and sample.plane.channel is not None
            pixel_type = f"{header.dtype} {'gray' if header.channels == 1 or one else 'RGB'}"
        except SomasegError:
            pixel_type = "unreadable"
    elif sample.image_path is not None:
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


def diameters(areas: npt.NDArray[np.integer]) -> Floats:
    """Diameter of a disc of the same area, float64 (n,)."""
    return 2 * np.sqrt(areas / np.pi)


def overlap_share(cells: Instances) -> tuple[int, float]:
    """Count the pixels that several instances claim; and their share of the foreground."""
    region = _region((count := cells.claims()) > 0, count, None)
    return region.shared, region.overlap if region.pixels else 0.0


def touching(cells: Instances) -> npt.NDArray[np.bool_]:
    """Which cells share a pixel with another one or have it as an 8-neighbour, bool (n,)."""
    found = np.zeros(len(cells), np.bool_)
    if len(cells) > 1:
        # Every layer keeps its cells whole, so that no neighbour is lost to an overlap. Two
        # cells touch if one, grown by a pixel, meets the other.
        _find_touching(*cells.flat, np.uint8(cells.cut), cells.layers(), found)
    return found


NO_CELLS = RegionFacts(density=0.0, overlap=np.nan, contrast=np.nan, texture=np.nan)


def _regions(
    cells: Instances, gray: npt.NDArray[np.float32] | None
) -> dict[int | None, RegionFacts]:
    count = cells.claims()
    known = sorted(set(cells.classes.tolist()) - {-1})
    regions: dict[int | None, RegionFacts] = {}
    for index in (None, *known):
        whole = index is None or (len(known) == 1 and bool((cells.classes == index).all()))
        if index is not None and whole:
            regions[index] = regions[None]
            continue
        own = count if whole else cells[cells.classes == index].claims()
        regions[index] = _region(own > 0, count, gray)
    return regions


def _region(
    inside: npt.NDArray[np.bool_],
    count: npt.NDArray[np.int32],
    gray: npt.NDArray[np.float32] | None,
) -> RegionFacts:
    n = int(np.count_nonzero(inside))
    if n == 0:
        return NO_CELLS
    contrast = texture = np.nan
    outside = count == 0
    if gray is not None and outside.any():
        around = gray[outside].astype(np.float64)
        spread = float(around.std())
        if spread > 0:
            cells = gray[inside].astype(np.float64)
            contrast = float(cells.mean() - around.mean()) / spread
            texture = float(cells.std()) / spread
    shared = int(np.count_nonzero(inside & (count > 1)))
    return RegionFacts(
        density=n / inside.size,
        overlap=shared / n,
        contrast=contrast,
        texture=texture,
        pixels=n,
        shared=shared,
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
