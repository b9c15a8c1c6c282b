"""Write a whole data set, images and annotations, in one of the formats we know."""

import shutil
from pathlib import Path

from somaseg.data.formats.label_files import Loss
from somaseg.data.formats.registry import writable
from somaseg.data.ome_tiff import write_ome_tiff
from somaseg.data.planes import channel_names
from somaseg.data.types import Dataset, image_ending
from somaseg.errors import SomasegError
from somaseg.files import atomic_path, file_name
from somaseg.masks.resolve import OrderName


def write_dataset(
    folder: str | Path,
    dataset: Dataset,
    format: str,
    order: OrderName = "smallest_first",
    ending: str = ".tif",
) -> Loss:
    """Write annotations and copy the images.

    - ``competition``: ``train.csv``, ``train/ID.*``; one class an image.
    - ``coco``: ``annotations.json``, ``images/ID.*``; keeps everything but scores.
    - ``labels``: ``labels/ID.tif``, ``images/ID.*``; overlapping instances are made disjoint.

    Args:
        folder: made if missing; other files in it stay.
        dataset: images that are all annotated. Image files are copied as they are, under the name
            that :func:`somaseg.files.file_name` makes of their id; of a stack each plane becomes
            an OME-TIFF; those that are not at hand are left out.
        format: one of these, or one that another package brings.
        order: for labels, who has a pixel that several instances claim.
        ending: of label images, ``.tif`` or ``.png``.

    Returns:
        what was lost to overlap; nothing unless ``labels`` were asked for.

    Raises:
        SomasegError: what the format cannot hold (see its writer), or a file cannot be written.
    """
    folder = Path(folder)
    known = writable()
    if format not in known:
        raise SomasegError(f"format {format!r}: choose one of {', '.join(known)}")
    kind = known[format]
    assert kind.write is not None
    # Annotations first: they are what can be refused.
    loss = kind.write(folder, dataset, order, ending) or Loss()
    for sample in dataset:
        if sample.image_path is not None:
            target = folder / kind.image_folder / (file_name(sample.id) + image_ending(sample))
            if sample.plane is None:
                _copy(sample.image_path, target)
            else:
                write_ome_tiff(target, sample.image(), sample.pixel_size, channel_names(sample))
    return loss


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
