"""Write label images, as Cellpose, ImageJ, napari and QuPath read them: 0 background, k cell k."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from somaseg.data.competition import ONE_CLASS
from somaseg.data.label_images import CLASSES_CSV, INSTANCES_CSV
from somaseg.data.statistics import count_claims
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import atomic_path, file_name, write_text
from somaseg.instances import Instances
from somaseg.masks.parallel import map_images
from somaseg.masks.resolve import OrderName

_LARGEST_16_BIT = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class Loss:
    """What a label image cannot hold of overlapping instances.

    Attributes:
        pixels: claims on a pixel that were given up, as another instance has it.
        shared: pixels that more than one instance claimed.
        hidden: instances that lost all their pixels.
    """

    pixels: int = 0
    shared: int = 0
    hidden: int = 0

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(
            self.pixels + other.pixels, self.shared + other.shared, self.hidden + other.hidden
        )


def write_labels(path: str | Path, labels: npt.NDArray[np.integer[Any]]) -> None:
    """Write one label image: TIFF (16 bit, or 32 above 65,535 cells) or PNG (16 bit).

    Args:
        path: ends with ``.tif``, ``.tiff`` or ``.png``.
        labels: integers ``(h, w)``, not negative.

    Raises:
        SomasegError: another ending, negative labels, or more than 65,535 for a PNG.
    """
    path = Path(path)
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0):
        raise SomasegError(
            f"{path}: labels are integers (h, w) from 0, not {labels.dtype} {labels.shape}"
        )
    small = labels.max(initial=0) <= _LARGEST_16_BIT
    ending = path.suffix.lower()
    if ending == ".png":
        if not small:
            raise SomasegError(
                f"{path}: label {labels.max()} does not fit the 16 bits of a PNG; write a TIFF"
            )
        done, data = cv2.imencode(".png", labels.astype(np.uint16))
        if not done:
            raise SomasegError(f"{path}: {labels.shape} labels cannot be written as a PNG")
        with atomic_path(path) as temporary:
            temporary.write_bytes(data.tobytes())
    elif ending in (".tif", ".tiff"):
        values = labels.astype(np.uint16 if small else np.uint32)
        with atomic_path(path) as temporary:
            tifffile.imwrite(temporary, values, compression="zlib", photometric="minisblack")
    else:
        raise SomasegError(f"{path}: label images end with .tif or .png")


def measure_loss(instances: Instances, labels: npt.NDArray[np.int32]) -> Loss:
    """Compare instances with the label image made of them (label = row + 1)."""
    claims = count_claims(instances)
    seen = np.unique(labels)
    return Loss(
        int(claims.sum() - np.count_nonzero(claims)),
        int(np.count_nonzero(claims > 1)),
        len(instances) - int(np.count_nonzero(seen)),
    )


def write_label_folder(
    folder: str | Path,
    dataset: Dataset,
    order: OrderName = "smallest_first",
    ending: str = ".tif",
) -> dict[str, Loss]:
    """Write a data set's ``labels/ID.tif``, and in tables what label images cannot say.

    ``classes.csv`` (id, class, group) is written where images have a class of several or a group,
    ``instances.csv`` (id, label, class, score) where cells of an image differ in class or score.

    Args:
        folder: made if missing.
        dataset: images that are all annotated.
        order: who has a pixel that several instances claim: the first in this order.
        ending: ``.tif`` or ``.png``.

    Returns:
        what was lost to overlap, by image id.
    """
    folder = Path(folder)

    def write(sample: Sample) -> tuple[Loss, set[int]]:
        instances = sample.annotated()
        labels = instances.to_labels(order)
        write_labels(folder / "labels" / f"{file_name(sample.id)}{ending}", labels)
        return measure_loss(instances, labels), set(np.unique(labels).tolist())

    losses, labels = zip(*map_images(write, dataset), strict=True) if len(dataset) else ((), ())
    _write_tables(folder, dataset, labels)
    return dict(zip(dataset.ids, losses, strict=True))


def _write_tables(folder: Path, dataset: Dataset, labels: Sequence[set[int]]) -> None:
    """Write the two tables; ``labels`` are those that can be seen in each image."""
    images, cells = [], []
    for sample, visible in zip(dataset, labels, strict=True):
        instances = sample.annotated()
        kinds = [dataset.names[k] if k >= 0 else "" for k in instances.classes.tolist()]
        of_image = sample.image_class or (kinds[0] if len(set(kinds)) == 1 else "")
        images.append((sample.id, of_image, sample.group or ""))
        if len(set(kinds)) > 1 or (instances.scores != 1).any():
            cells += [
                (sample.id, label, kind, f"{score:.9g}")
                for label, (kind, score) in enumerate(
                    zip(kinds, instances.scores.tolist(), strict=True), start=1
                )
                if label in visible
            ]
    # Label images of one class are read as "cell" by themselves.
    if dataset.names != (ONE_CLASS,) or any(group for *_, group in images):
        write_text(folder / CLASSES_CSV, csv_text(("id", "class", "group"), images))
    if cells:
        write_text(folder / INSTANCES_CSV, csv_text(("id", "label", "class", "score"), cells))


def csv_text(header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    """Return a CSV table as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
