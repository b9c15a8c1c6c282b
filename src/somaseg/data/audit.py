"""Audit a data set: everything wrong or odd about it, in one table."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from somaseg.data.axes import Choice
from somaseg.data.facts import overlap_share
from somaseg.data.faults import KINDS, Fault, Faults
from somaseg.data.leaks import MOST, find_leaks
from somaseg.data.load import read_dataset
from somaseg.data.reading import Reading, check_image, message_without
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.overlap import iou_pairs
from somaseg.masks.parallel import map_images
from somaseg.masks.pieces import count_pieces, hole_areas

DUPLICATE_IOU = 0.5  # above it two masks compete for one cell: no metric can give credit to both


@dataclass(frozen=True, eq=False)
class Audit:
    """What was read of a data set and what is wrong with it, by kind, errors first."""

    dataset: Dataset
    faults: tuple[Fault, ...]

    @property
    def errors(self) -> list[Fault]:
        """Faults that would make a training fail."""
        return [fault for fault in self.faults if fault.severity == "error"]

    @property
    def counts(self) -> dict[str, int]:
        """Number of faults of each kind met, errors first."""
        return dict(Counter(fault.kind for fault in self.faults))


def audit(
    path: str | Path,
    format: str = "auto",
    images: str | Path | None = None,
    need_images: bool = True,
    choice: Choice | None = None,
) -> Audit:
    """Look at every row, image and mask of a data set.

    Args:
        path: as for :func:`somaseg.data.load_dataset`.
        format: as there.
        images: as there.
        need_images: as there; without, missing images are no fault, and those found are not
            decoded.
        choice: as there.

    Raises:
        SomasegError: nobody can tell what the data set is; a file that cannot be read at all is
            a fault like others.
    """
    try:
        reading = read_dataset(path, format, images, need_images, choice=choice)
    except SomasegError as error:
        if not Path(path).exists():
            raise
        faults = Faults()
        faults.add("unreadable file", message_without(Path(path), error), path)
        return Audit(Dataset((), (), str(path)), tuple(faults))

    def check(sample: Sample) -> Faults:
        faults = Faults()
        if need_images:
            check_image(sample, faults)
        if sample.instances is not None:
            _check_instances(sample, sample.instances, reading, faults)
        return faults

    found = list(reading.faults)
    for faults in map_images(check, reading.dataset):
        found += faults
    if len(reading.dataset) and all(sample.instances is None for sample in reading.dataset):
        message = "images without any annotation: there is nothing to train on"
        found.append(Fault("no annotation", message, str(path)))
    elif len(reading.dataset) and not (
        reading.faults.errors or any(sample.instances for sample in reading.dataset)
    ):
        message = "no cell in any image: there is nothing to train on"
        found.append(Fault("no cell", message, str(path)))
    if need_images:
        found += _same_fields(reading.dataset)
    rank = {kind: position for position, kind in enumerate(KINDS)}  # errors come first there
    found.sort(key=lambda fault: rank[fault.kind])  # stable: a kind's stay in the files' order
    return Audit(reading.dataset, tuple(found))


def _same_fields(dataset: Dataset) -> list[Fault]:
    """Images that show one field and are not kept together by a group."""
    faults = []
    for pair in find_leaks(dataset) if len(dataset) <= MOST else []:
        first, second = dataset[pair.first], dataset[pair.second]
        if first.group is None or first.group != second.group:
            message = (
                f"shows the field of {pair.first}, moved by {pair.shift[0]:+d} {pair.shift[1]:+d} "
                f"pixels (peak {pair.peak:.0f}): give both one group, so that they share a fold"
            )
            faults.append(Fault("same field", message, str(second.image_path), image=pair.second))
    return faults


def _check_instances(
    sample: Sample, instances: Instances, reading: Reading, faults: Faults
) -> None:
    file = reading.files[sample.id]
    rows = reading.rows[sample.id]
    if not len(instances):
        if all(fault.image != sample.id for fault in reading.faults.errors):
            faults.add("image without cells", "annotated as empty", file, image=sample.id)
        return
    i, j, iou = iou_pairs(instances)
    for k in np.flatnonzero(iou > DUPLICATE_IOU):
        first, second, value = int(i[k]), int(j[k]), float(iou[k])
        kind = "duplicate mask" if value == 1 else "near-duplicate mask"
        message = (
            f"the same mask as {rows[first]}; remove one"
            if value == 1
            else f"IoU {value:.2f} with {rows[first]}; keep the better one"
        )
        faults.add(kind, message, file, rows[second], sample.id, second)
    shared, share = overlap_share(instances)
    if shared:
        message = f"{shared} pixels, {share:.2%} of the foreground, belong to several instances"
        faults.add("overlap", message, file, image=sample.id)
    areas = instances.areas
    pieces = count_pieces(*instances.flat)
    for k in np.flatnonzero(pieces > 1):
        message = f"{pieces[k]} separate pieces, {areas[k]} pixels in all"
        faults.add("pieces", message, file, rows[k], sample.id, int(k))
    holes = hole_areas(*instances.flat)
    for k in np.flatnonzero(holes > 0):
        message = f"holes of {holes[k]} pixels in a mask of {areas[k]}"
        faults.add("holes", message, file, rows[k], sample.id, int(k))
