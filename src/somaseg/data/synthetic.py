"""Synthetic phase-contrast micrographs with exact, overlapping masks.

Three kinds stand for three neuronal cell types: ``cort`` (few round somas, many neurites, specks),
``shsy5y`` (dense, small, elongated, in clumps) and ``astro`` (large, flat, irregular, faint,
overlapping). Neurites and specks belong to no mask. Numbers, sizes, density, overlap and gray
values follow those of the published images; how it is drawn stands in `synthetic_scene`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from somaseg.data.convert import write_dataset as write_annotated
from somaseg.data.synthetic_scene import Image, Look, Scene
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import atomic_path
from somaseg.instances import Instances

KINDS: tuple[str, ...] = ("astro", "cort", "shsy5y")


class Micrograph(NamedTuple):
    """A synthetic image, its name, its kind and its exact instances."""

    id: str
    kind: str
    image: Image
    instances: Instances


_LOOKS = {
    "astro": Look(
        density=25, area=620, area_spread=0.75, stretch=(1.2, 3.2), tips=(2, 6), reach=(0.4, 1.9),
        bend=0.5, clump=0.8, overlap=(0.08, 0.28), thickness=(24, 90), bold=0.3, grain=9,
        neurites=(0, 1), neurite_length=(20, 60), fibre=40, strays=4, specks=8, noise=1.6,
    ),
    "cort": Look(
        density=9.5, area=180, area_spread=0.38, stretch=(1.0, 1.45), tips=(1, 4),
        reach=(0.05, 0.35), bend=0.1, clump=0.25, overlap=(0.03, 0.12), thickness=(130, 260),
        bold=0.2, grain=30, neurites=(4, 12), neurite_length=(25, 110), fibre=85, strays=55,
        specks=70, noise=3.0,
    ),
    "shsy5y": Look(
        density=92, area=185, area_spread=0.45, stretch=(1.2, 2.6), tips=(2, 4), reach=(0.2, 0.9),
        bend=0.35, clump=0.9, overlap=(0.05, 0.2), thickness=(80, 170), bold=0.08, grain=13,
        neurites=(0, 2), neurite_length=(15, 60), fibre=65, strays=8, specks=30, noise=2.4,
    ),
}  # fmt: skip


def make_image(
    kind: str, seed: int | Sequence[int], size: tuple[int, int] = (260, 352)
) -> tuple[Image, Instances]:
    """Draw one micrograph.

    Args:
        kind: one of ``KINDS``.
        seed: non-negative; the same kind, seed and size give the same pixels.
        size: (height, width) in pixels, 48 at least. Cells keep their size in pixels (that of the
            published 704 × 520 images), so that a larger image holds more of them.

    Returns:
        uint8 (height, width) and its instances, hard, with ``names == KINDS``.

    Raises:
        SomasegError: unknown kind, negative seed, or an image too small to hold a cell.
    """
    if kind not in _LOOKS:
        raise SomasegError(f"no synthetic cells of kind {kind!r}; choose from {', '.join(KINDS)}")
    height, width = size
    if min(height, width) < 48:
        raise SomasegError(f"a synthetic image of {height} × {width} is too small; use 48 or more")
    entropy = [seed] if isinstance(seed, int | np.integer) else list(seed)
    if min(entropy) < 0:
        raise SomasegError(f"seed {seed} is negative; use 0 or more")
    rng = np.random.default_rng([KINDS.index(kind), *entropy])
    scene = Scene(_LOOKS[kind], (height, width), rng)
    scene.add_cells()
    scene.add_strays()
    scene.add_specks()
    instances = Instances.from_crops(
        (height, width),
        np.array(scene.boxes, np.int32).reshape(-1, 4),
        scene.crops,
        classes=np.full(len(scene.crops), KINDS.index(kind), np.int16),
        names=KINDS,
    )
    return scene.develop(), instances


def make_samples(
    n_per_class: int, size: tuple[int, int] = (260, 352), seed: int = 0
) -> Iterator[Micrograph]:
    """Draw ``n_per_class`` micrographs of each kind, one at a time, kinds in turn.

    Image ``i`` of a kind does not depend on ``n_per_class``: a larger set begins with the smaller.
    """
    for index in range(n_per_class):
        for kind in KINDS:
            yield Micrograph(f"{kind}-{index:03d}", kind, *make_image(kind, (seed, index), size))


def write_dataset(
    folder: str | Path,
    n_per_class: int = 6,
    size: tuple[int, int] = (260, 352),
    seed: int = 0,
    format: Literal["competition", "coco", "labels"] = "competition",
    n_test: int = 0,
) -> Path:
    """Write micrographs of each kind and their annotations as a data set on disk.

    ``competition`` is the layout of the Sartorius competition: ``train.csv`` with one row for each
    cell, ``train/*.png`` and, if ``n_test`` images of each kind are asked for, ``test/*.png`` that
    have no annotation (they continue the series: ``make_samples(n_per_class + n_test)`` ends with
    them). ``coco`` and ``labels`` are those of `somaseg.data.formats`.

    Args:
        folder: made if missing. Files of the same names are replaced.
        n_per_class: annotated images of each of the three kinds.
        size: (height, width) of each image.
        seed: of the whole set.
        format: the layout.
        n_test: images of each kind without annotation; only for ``competition``.

    Returns:
        The folder.

    Raises:
        SomasegError: unknown format, a number below zero, or a folder that cannot be written.
    """
    folder = Path(folder)
    if format not in ("competition", "coco", "labels"):
        raise SomasegError(f"unknown format {format!r}; choose competition, coco or labels")
    if n_per_class < 1 or n_test < 0:
        raise SomasegError("a synthetic data set needs at least one image of each kind")
    if n_test and format != "competition":
        raise SomasegError(f"the {format} layout has no folder for test images; leave n_test at 0")
    train: list[Sample] = []
    for index, micrograph in enumerate(make_samples(n_per_class + n_test, size, seed)):
        is_train = index < n_per_class * len(KINDS)
        images = ("train" if is_train else "test") if format == "competition" else "images"
        path = folder / images / f"{micrograph.id}.png"
        _write_png(path, micrograph.image)
        if is_train:
            train.append(Sample(micrograph.id, size, path, micrograph.instances, micrograph.kind))
    write_annotated(folder, Dataset(tuple(train), KINDS, str(folder)), format)
    return folder


def _write_png(path: Path, image: Image) -> None:
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), image):
            raise OSError("OpenCV could not encode the picture")
