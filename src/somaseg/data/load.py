"""Load a data set of any known format; find out which one it is."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from somaseg.data.axes import Choice
from somaseg.data.faults import Fault, Faults
from somaseg.data.formats.registry import OURS, Format, find_format, formats
from somaseg.data.images import is_image
from somaseg.data.planes import with_planes
from somaseg.data.predicted import is_predicted, read_predicted, refuse_runs
from somaseg.data.reading import Reading, check_image, refuse_shattered
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import is_there
from somaseg.masks.parallel import map_images


def load_dataset(
    path: str | Path,
    format: str = "auto",
    images: str | Path | None = None,
    need_images: bool = True,
    strict: bool = True,
    choice: Choice | None = None,
) -> Dataset:
    """Load a data set.

    Args:
        path: a folder in one of the known layouts, or the annotation file itself:

            - ``competition``: ``train.csv`` or ``.csv.gz`` with its images in ``train/``,
              ``images/`` or beside it; also a submission with its images;
            - ``coco``: a COCO JSON with its images in ``images/`` or beside it;
            - ``labels``: ``images/`` and ``labels/``, or ``name.tif`` and ``name_masks.tif``;
            - ``images``: images alone, none of them annotated;
            - whatever other packages bring (:mod:`somaseg.data.formats.registry`).
        format: one of these; ``auto`` looks at what is there.
        images: folder of the images, where they lie elsewhere.
        need_images: refuse annotations whose image is missing. Without, they are loaded with no
            image path: enough to score or to look at the annotations.
        strict: raise on the first look at anything wrong, with all of it in the message. Without,
            faulty rows are left out with a Python warning that counts them.
        choice: what of stacks is wanted: a channel, a frame, a slice; without, every frame and
            slice is an image.

    Raises:
        SomasegError: what is there cannot be read, is ambiguous, or (strict) has faults that
            would make a training fail.
    """
    reading = read_dataset(path, format, images, need_images, choice=choice)
    errors = reading.faults.errors
    if strict:
        reading.faults.raise_errors()
    elif errors:
        warnings.warn(
            f"{path}: {len(errors)} faulty rows or images left out; the first: {errors[0]}",
            stacklevel=2,
        )
    return reading.dataset


def read_dataset(
    path: str | Path,
    format: str = "auto",
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    choice: Choice | None = None,
) -> Reading:
    """Read what can be read, and return it with every fault met; as :func:`load_dataset`.

    Args:
        path: folder or annotation file.
        format: see :func:`load_dataset`.
        images: folder of the images.
        need_images: whether a missing image is a fault.
        sizes: ``(height, width)`` by image id, for tables that do not say.
        choice: see :func:`load_dataset`.

    Raises:
        SomasegError: there is nothing to read, or nobody can tell what it is.
    """
    path = Path(path)
    named = None if format == "auto" else find_format(format)
    if not is_there(path):
        raise SomasegError(f"{path}: no such file or folder")
    if images is not None and not (is_there(images) and Path(images).is_dir()):
        raise SomasegError(f"{images}: no such folder of images")
    faults = Faults()
    folder = None if images is None else Path(images)
    if named is None and is_predicted(path):
        reading = read_predicted(path, faults, folder, need_images)
        return with_planes(reading, choice or Choice())
    kind, file = detect(path) if named is None else (named, _file_of(path, named))
    reading = kind.read(file, faults, folder, need_images, sizes)
    if not len(reading.dataset) and not faults.errors:
        raise SomasegError(f"{file}: no images in it; is it the right file?")
    refuse_shattered(reading)
    return with_planes(reading, choice or Choice())


def sound_part(
    path: str | Path,
    format: str = "auto",
    images: str | Path | None = None,
    need_images: bool = True,
    choice: Choice | None = None,
) -> tuple[Dataset, list[Fault]]:
    """Load what is sound of a data set; arguments as for :func:`load_dataset`.

    Faulty rows are left out, and images that are faulty as a whole or that cannot be decoded,
    which shows only when they are: here each is.

    Returns:
        the data set without them, and the faults for which something was left out.

    Raises:
        SomasegError: nothing sound is left, or it cannot be told what is there.
    """
    reading = read_dataset(path, format, images, need_images, choice=choice)
    dataset = reading.sound()
    if need_images:
        dataset = decoded(dataset, reading.faults)
    if not len(dataset):
        raise SomasegError(f"{path}: nothing sound in it; `somaseg data check` tells more")
    return dataset, reading.faults.errors


def decoded(dataset: Dataset, faults: Faults) -> Dataset:
    """Return the images that can be decoded, by decoding each; note the others in ``faults``."""

    def look(sample: Sample) -> Faults:
        found = Faults()
        check_image(sample, found)
        return found

    looks = list(zip(dataset, map_images(look, dataset), strict=True))
    for _, found in looks:
        faults.found += found
    return replace(dataset, samples=tuple(sample for sample, found in looks if not len(found)))


def detect(path: Path) -> tuple[Format, Path]:
    """Tell the format of what lies at ``path``, and the file or folder to read.

    Raises:
        SomasegError: nothing known is there, or several things are.
    """
    if path.is_file():
        return _detect_file(path), path
    if is_image(path):  # an OME-Zarr, whatever its folders are called
        return find_format("images"), path
    refuse_runs(path)
    known = formats()
    for format in known:
        sure = format.known(path)
        if sure is not None:
            return format, sure
    found = [(format, file) for format in known for file in format.detect(path)]
    if len(found) > 1:
        described = ", ".join(f"{file.name} ({format.name})" for format, file in found[:5])
        raise SomasegError(
            f"{path}: several annotations: {described}; name one file, or give --format"
        )
    return found[0] if found else (find_format("images"), path)


def _detect_file(path: Path) -> Format:
    known = formats()
    for format in known:
        if format.detect(path):
            return format
    if path.name.lower().endswith(".npy"):
        raise SomasegError(
            f"{path}: NumPy files may carry code and are not read, but for Cellpose's "
            "NAME_seg.npy; save the masks as label images"
        )
    others = "".join(f", {format.what}" for format in known if format.name not in OURS)
    raise SomasegError(
        f"{path}: not known; give a folder, a CSV, a COCO JSON, or images (PNG, JPEG, TIFF, "
        f"OME-Zarr){others}"
    )


def _file_of(path: Path, format: Format) -> Path:
    """Return the file that a named format reads in a folder."""
    if path.is_file():
        return path
    if (sure := format.known(path)) is not None:
        return sure
    files = format.detect(path)
    if not files and format.folders:
        return path
    if not files:
        raise SomasegError(f"{path}: no {format.what} in this folder")
    if len(files) > 1:
        raise SomasegError(
            f"{path}: {' and '.join(file.name for file in files[:3])} could be meant; name one"
        )
    return files[0]
