"""Write a whole data set, images and annotations, in one of the formats we read."""

import dataclasses
import shutil
from pathlib import Path
from typing import Literal

from somaseg.data.types import Dataset
from somaseg.errors import SomasegError
from somaseg.export.coco import write_annotations
from somaseg.export.competition import write_training_table
from somaseg.export.labels import Loss, write_label_folder
from somaseg.files import atomic_path
from somaseg.masks.resolve import OrderName

Target = Literal["competition", "coco", "labels"]
TARGETS: tuple[Target, ...] = ("competition", "coco", "labels")


def write_dataset(
    folder: str | Path,
    dataset: Dataset,
    format: Target,
    order: OrderName = "smallest_first",
    ending: str = ".tif",
) -> Loss:
    """Write annotations and copy the images.

    - ``competition``: ``train.csv``, ``train/ID.*``; one class an image.
    - ``coco``: ``annotations.json``, ``images/ID.*``; keeps everything but scores.
    - ``labels``: ``labels/ID.tif``, ``images/ID.*``; overlapping instances are made disjoint.

    Args:
        folder: made if missing; other files in it stay.
        dataset: images that are all annotated. Image files are copied as they are; those that
            are not at hand are left out.
        format: one of these.
        order: for labels, who has a pixel that several instances claim.
        ending: of label images, ``.tif`` or ``.png``.

    Returns:
        what was lost to overlap; nothing unless ``labels`` were asked for.

    Raises:
        SomasegError: what the format cannot hold (see its writer), or a file cannot be written.
    """
    folder = Path(folder)
    dataset = _with_flat_ids(dataset)
    loss = Loss()
    # Annotations first: they are what can be refused.
    if format == "competition":
        write_training_table(folder / "train.csv", dataset)
    elif format == "coco":
        write_annotations(folder / "annotations.json", dataset)
    elif format == "labels":
        loss = sum(write_label_folder(folder, dataset, order, ending).values(), Loss())
    else:
        raise SomasegError(f"format {format!r}: choose one of {', '.join(TARGETS)}")
    images = folder / ("train" if format == "competition" else "images")
    for sample in dataset:
        if sample.image_path is not None:
            _copy(sample.image_path, images / f"{sample.id}{sample.image_path.suffix}")
    return loss


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _with_flat_ids(dataset: Dataset) -> Dataset:
    """Rename images that are named after their folder too (a/1): ids become file names."""
    samples = [dataclasses.replace(s, id=s.id.replace("/", "_")) for s in dataset]
    return dataclasses.replace(dataset, samples=tuple(samples))
