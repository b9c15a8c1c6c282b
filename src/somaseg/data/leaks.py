"""Find images that show the same field, shifted: as frames of a time series do under other names.

Phase correlation (Kuglin & Hines 1975): the spectra of two images, stripped of their amplitudes,
are multiplied; if one image is the other one moved, the inverse transform has a sharp peak at the
shift. Only fine structure counts (:data:`BAND`), which no two fields share: coarse light and the
mean density of cells are alike in all images of a plate. The height of the peak is measured in
standard deviations of its surroundings, and is held against the heights of all other pairs.

Cells that move or divide between two frames take from the peak, and the debris and the neurites
around them hold it up; an image turned, mirrored or at another scale is not found.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from somaseg.data.images import to_gray
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.masks.parallel import map_images

BAND = (0.12, 0.5)
"""Frequencies that count, in cycles a pixel of the image as it was taken."""
LONGEST = 400
"""Images are reduced by whole factors until their longer side has at most so many pixels."""
CLEAR = 16.0
"""Standard deviations below which no peak counts. Noise alone, on 10⁵ places, reaches 5, unrelated
images of one microscope up to 10."""
OUTLYING = 8.0
"""So many spreads (of the peaks of unrelated pairs) a peak must stand above their median."""
MOST = 2000
"""Images that are looked through before folds are made: the time grows with their square."""
_BATCH = 32


@dataclass(frozen=True)
class Pair:
    """Two images of one field.

    Attributes:
        first, second: their ids.
        peak: height of the correlation's peak in standard deviations.
        shift: (dy, dx) by which the second is moved against the first, pixels.
    """

    first: str
    second: str
    peak: float
    shift: tuple[int, int]


def find_leaks(dataset: Dataset, workers: int | None = None) -> list[Pair]:
    """Find the pairs of images that show the same field.

    Images of different size, or of different class where each image has one, are not compared.
    Memory is that of the reduced spectra: 0.4 MB an image of 704×520.

    Args:
        dataset: images without a file, or that cannot be read, are left out.
        workers: threads; all cores by default.

    Returns:
        pairs, highest peak first.
    """
    alike: dict[tuple[tuple[int, int], str | None], list[Sample]] = defaultdict(list)
    for sample in dataset:
        if sample.image_path is not None:
            alike[sample.size, sample.image_class].append(sample)
    found = []
    for (size, _), samples in alike.items():
        if len(samples) > 1:
            found += _among(samples, size, workers)
    return sorted(found, key=lambda pair: (-pair.peak, pair.first, pair.second))


def fields(pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
    """Join pairs to the groups of images that show one field, each sorted."""
    group: dict[str, set[str]] = {}
    for pair in pairs:
        joined = group.get(pair.first, {pair.first}) | group.get(pair.second, {pair.second})
        group.update(dict.fromkeys(joined, joined))
    return sorted({tuple(sorted(members)) for members in group.values()})


def keep_together(dataset: Dataset, folds: int) -> Dataset:
    """Group images that show one field, where the data set says nothing of groups; and say so.

    Left as it is, with a warning where that makes scores too good: a data set of more than
    :data:`MOST` images, and one of fewer fields than folds.
    """
    if any(sample.group is not None for sample in dataset):
        return dataset
    if len(dataset) > MOST:
        warnings.warn(
            f"{dataset.source}: more than {MOST} images: not looked through for images of one "
            "field; give groups if there are series",
            stacklevel=2,
        )
        return dataset
    found = fields(find_leaks(dataset))
    if not found:
        return dataset
    group = {name: f"field of {members[0]}" for members in found for name in members}
    some = f"{len(group)} images show a field that another one shows ({found[0][0]}, {found[0][1]})"
    if len(dataset) - len(group) + len(found) < folds:
        warnings.warn(
            f"{dataset.source}: {some}: too few fields for {folds} folds, so that each image is "
            "scored by models that have seen its field: scores are too good",
            stacklevel=2,
        )
        return dataset
    warnings.warn(f"{dataset.source}: {some}; those of one field share a fold", stacklevel=2)
    samples = tuple(replace(sample, group=group.get(sample.id)) for sample in dataset)
    return replace(dataset, samples=samples)


def threshold(peaks: npt.NDArray[np.float32]) -> float:
    """Height above which a peak tells of one field, from the heights of all pairs.

    Related pairs are few among all (n images in series of k: one in n / k), so median and spread
    are those of unrelated ones. Where pairs are too few to say so, :data:`CLEAR` alone decides.
    """
    middle = float(np.median(peaks))
    spread = 1.4826 * float(np.median(np.abs(peaks - middle)))
    return CLEAR if len(peaks) < 30 else max(CLEAR, middle + OUTLYING * spread)


def _among(samples: Sequence[Sample], size: tuple[int, int], workers: int | None) -> list[Pair]:
    """Compare images of one size with each other."""
    factor = -(-max(size) // LONGEST)
    shape = (fft.next_fast_len(size[0] // factor, True), fft.next_fast_len(size[1] // factor, True))
    band = _band(shape, factor)
    read = map_images(lambda sample: _spectrum(sample, factor, shape, band), samples, workers)
    usable = [(s, spectrum) for s, spectrum in zip(samples, read, strict=True) if len(spectrum)]
    if len(usable) < 2:
        return []
    spectra = np.stack([spectrum for _, spectrum in usable])
    rows = list(_batches(len(usable)))
    measured = map_images(lambda row: _peaks(spectra, *row, shape, band), rows, workers)
    peaks = np.concatenate([heights for heights, _ in measured])
    places = np.concatenate([at for _, at in measured])
    pairs = [(i, j) for i, first, last in rows for j in range(first, last)]
    found = []
    for k in np.flatnonzero(peaks > threshold(peaks)):
        i, j = pairs[k]
        y, x = divmod(int(places[k]), shape[1])
        shift = (
            factor * (y - shape[0] if y > shape[0] // 2 else y),
            factor * (x - shape[1] if x > shape[1] // 2 else x),
        )
        found.append(Pair(usable[i][0].id, usable[j][0].id, float(peaks[k]), shift))
    return found


def _band(shape: tuple[int, int], factor: int) -> npt.NDArray[np.bool_]:
    """Frequencies of the half spectrum that lie in the band, bool (h, w // 2 + 1)."""
    y, x = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None]
    # Of a reduced image the upper part of the band is gone; where all were, its upper half stays.
    lowest = min(BAND[0] * factor, 0.25)
    radius = np.hypot(y, x)
    return np.asarray((radius >= lowest) & (radius <= BAND[1]))


def _spectrum(
    sample: Sample, factor: int, shape: tuple[int, int], band: npt.NDArray[np.bool_]
) -> npt.NDArray[np.complex64]:
    """Phases of an image in the band, complex64 (n,); empty if it cannot be read."""
    try:
        gray = to_gray(sample.image())
    except SomasegError:
        return np.zeros(0, np.complex64)
    height, width = gray.shape[0] // factor, gray.shape[1] // factor
    small = cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)
    small = (small - small.mean()) * np.outer(np.hanning(height), np.hanning(width))
    spectrum = fft.rfft2(small.astype(np.float32), shape)[band]
    amplitude = np.abs(spectrum)
    return (spectrum / np.maximum(amplitude, 1e-6 * amplitude.max(initial=1e-12))).astype(
        np.complex64
    )


def _batches(count: int) -> Iterator[tuple[int, int, int]]:
    """Rows i with ranges of j > i."""
    for i in range(count - 1):
        for first in range(i + 1, count, _BATCH):
            yield i, first, min(first + _BATCH, count)


def _peaks(
    spectra: npt.NDArray[np.complex64],
    i: int,
    first: int,
    last: int,
    shape: tuple[int, int],
    band: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Height and place of the peak of image i with each of a range of others."""
    cross = np.zeros((last - first, *band.shape), np.complex64)
    cross[:, band] = spectra[i].conj() * spectra[first:last]
    surface = fft.irfft2(cross, shape).reshape(last - first, -1)
    places = surface.argmax(axis=1)
    heights = np.take_along_axis(surface, places[:, None], 1)[:, 0] / np.maximum(
        surface.std(axis=1), 1e-12
    )
    return heights.astype(np.float32), places
