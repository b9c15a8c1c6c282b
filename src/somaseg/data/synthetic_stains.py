"""Synthetic two-channel micrographs: cells that neither channel alone can tell apart.

Cells lie in clumps. ``actin`` shows how far they reach, but not where one ends and the next begins;
``dapi`` shows a nucleus in each of them, and as many of dead cells that have no body.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from somaseg.data.convert import write_dataset
from somaseg.data.ome_tiff import write_ome_tiff
from somaseg.data.types import ONE_CLASS, Dataset, Sample
from somaseg.instances import Instances

STAINS = ("actin", "dapi")


def make_stained(
    seed: int, size: tuple[int, int] = (128, 128)
) -> tuple[npt.NDArray[np.uint16], Instances]:
    """Draw one micrograph.

    Args:
        seed: the same seed and size give the same pixels.
        size: (height, width) in pixels.

    Returns:
        uint16 (height, width, 2), the channels of :data:`STAINS`, and its cells, which touch and do
        not overlap.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    labels, nearest = np.zeros(size, np.int32), np.full(size, np.inf)
    nuclei = np.zeros(size, np.float32)
    centres: list[npt.NDArray[np.float64]] = []
    limits = np.array(size)
    for clump in rng.uniform(0, 1, (size[0] * size[1] // 1800, 2)) * limits:
        for centre in clump + rng.normal(0, 11, (rng.integers(2, 6), 2)):
            inside = (centre > 6).all() and (centre < limits - 6).all()
            if not inside or any(np.hypot(*(centre - other)) < 11 for other in centres):
                continue
            centres.append(centre)
            away = np.hypot(y - centre[0], x - centre[1])
            own = (away < rng.uniform(8, 13)) & (away < nearest)
            labels[own], nearest[own] = len(centres), away[own]
            nuclei[away < 3.5] = rng.uniform(0.7, 1)
    bodies = (labels > 0).astype(np.float32)
    for _ in range(len(centres)):
        centre = rng.uniform(4, limits - 4)
        away = np.hypot(y - centre[0], x - centre[1])
        if not bodies[away < 7].any():
            nuclei[away < 3.5] = rng.uniform(0.7, 1)
    planes = []
    for plane, dark, bright in ((bodies, 300, 2500), (nuclei, 150, 20_000)):
        soft = cv2.GaussianBlur(plane, (0, 0), 1.2)
        lit = dark + bright * soft * (1 + 0.05 * rng.standard_normal(size))
        planes.append(lit + dark / 10 * rng.standard_normal(size))
    image = np.clip(np.stack(planes, -1), 0, 65_535).astype(np.uint16)
    # What has lost all its pixels to its neighbours is no cell.
    kept = np.unique(labels, return_inverse=True)[1].reshape(size).astype(np.int32)
    return image, Instances.from_labels(kept).with_classes(0, (ONE_CLASS,))


def write_stained(
    folder: str | Path, count: int = 12, size: tuple[int, int] = (128, 128), seed: int = 0
) -> Path:
    """Write micrographs as OME-TIFF of two channels, with label images; return the folder.

    Args:
        folder: made if missing. Files of the same names are replaced.
        count: of images.
        size: (height, width) of each.
        seed: of the first; the others follow.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        image, cells = make_stained(seed + number, size)
        name = f"stained-{number:03d}"
        path = folder / "images" / f"{name}.tif"
        write_ome_tiff(path, image, 0.65, STAINS)
        samples.append(Sample(name, size, path, cells))
    write_dataset(folder, Dataset(tuple(samples), (ONE_CLASS,), str(folder)), "labels")
    return folder
