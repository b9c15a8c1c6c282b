"""Load a data set of any known format; find out which one it is."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from somaseg.data.coco import read_coco
from somaseg.data.competition import is_table, read_competition
from somaseg.data.faults import Faults
from somaseg.data.images import is_image_path, list_images
from somaseg.data.label_images import find_label_folder, read_label_images
from somaseg.data.reading import Reading, checked_header, csv_columns, message_without, well_group
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError

Format = Literal["auto", "competition", "coco", "labels", "images"]
FORMATS: tuple[Format, ...] = ("auto", "competition", "coco", "labels", "images")
_CSV = (".csv", ".csv.gz")


def load_dataset(
    path: str | Path,
    format: Format = "auto",
    images: str | Path | None = None,
    need_images: bool = True,
    strict: bool = True,
) -> Dataset:
    """Load a data set.

    Args:
        path: a folder in one of the known layouts, or the annotation file itself:

            - ``competition``: ``train.csv`` or ``.csv.gz`` with its images in ``train/``,
              ``images/`` or beside it; also a submission with its images;
            - ``coco``: a COCO JSON with its images in ``images/`` or beside it;
            - ``labels``: ``images/`` and ``labels/``, or ``name.tif`` and ``name_masks.tif``;
            - ``images``: images alone, none of them annotated.
        format: one of these; ``auto`` looks at what is there.
        images: folder of the images, where they lie elsewhere.
        need_images: refuse annotations whose image is missing. Without, they are loaded with no
            image path: enough to score or to look at the annotations.
        strict: raise on the first look at anything wrong, with all of it in the message. Without,
            faulty rows are left out with a Python warning that counts them.

    Raises:
        SomasegError: what is there cannot be read, is ambiguous, or (strict) has faults that
            would make a training fail.
    """
    reading = read_dataset(path, format, images, need_images)
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
    format: Format = "auto",
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Reading:
    """Read what can be read, and return it with every fault met; as :func:`load_dataset`.

    Args:
        path: folder or annotation file.
        format: see :func:`load_dataset`.
        images: folder of the images.
        need_images: whether a missing image is a fault.
        sizes: ``(height, width)`` by image id, for tables that do not say.

    Raises:
        SomasegError: there is nothing to read, or nobody can tell what it is.
    """
    path = Path(path)
    if format not in FORMATS:
        raise SomasegError(f"format {format!r}: choose one of {', '.join(FORMATS)}")
    if not path.exists():
        raise SomasegError(f"{path}: no such file or folder")
    if images is not None and not Path(images).is_dir():
        raise SomasegError(f"{images}: no such folder of images")
    kind, file = detect(path) if format == "auto" else (format, _file_of(path, format))
    faults = Faults()
    if kind == "competition":
        reading = read_competition(file, faults, images, need_images, sizes)
    elif kind == "coco":
        reading = read_coco(file, faults, images, need_images)
    elif kind == "labels":
        reading = read_label_images(file, faults, images, need_images)
    else:
        reading = read_images(file, faults)
    if not len(reading.dataset) and not faults.errors:
        raise SomasegError(f"{file}: no images in it; is it the right file?")
    return reading


def read_images(path: str | Path, faults: Faults) -> Reading:
    """Read a folder of images, or one image, without annotations.

    Raises:
        SomasegError: there are none.
    """
    path = Path(path)
    paths = [path] if path.is_file() else list_images(path) or _images_below(path)
    if not paths:
        raise SomasegError(f"{path}: neither annotations nor images (PNG, JPEG, TIFF) in it")
    samples: dict[str, Sample] = {}
    for file in paths:
        name = file.stem
        if name in samples:
            twin = samples[name].image_path
            message = f"{twin and twin.name} and {file.name} are both image {name}; rename one"
            faults.add("ambiguous image", message, file, image=name)
            continue
        try:
            size = checked_header(file, name, faults).size
        except SomasegError as error:
            faults.add("unreadable image", message_without(file, error), file, image=name)
            continue
        samples[name] = Sample(name, size, file, group=well_group(name))
    return Reading(Dataset(tuple(samples.values()), (), str(path)), faults)


def detect(path: Path) -> tuple[Format, Path]:
    """Tell the format of what lies at ``path``, and the file or folder to read.

    Raises:
        SomasegError: nothing known is there, or several things are.
    """
    if path.is_file():
        return _detect_file(path), path
    for name in ("train.csv", "train.csv.gz"):
        if (path / name).is_file():
            return "competition", path / name
    found: list[tuple[Format, Path]] = [("coco", file) for file in _coco_files(path)]
    if find_label_folder(path) is not None:
        found.append(("labels", path))
    found += [("competition", file) for file in _tables(path)]
    if len(found) > 1:
        described = ", ".join(f"{file.name} ({kind})" for kind, file in found[:5])
        raise SomasegError(
            f"{path}: several annotations: {described}; name one file, or give --format"
        )
    if found:
        return found[0]
    return "images", path


def _detect_file(path: Path) -> Format:
    name = path.name.lower()
    if name.endswith(_CSV):
        return "competition"
    if name.endswith(".json"):
        return "coco"
    if is_image_path(path):
        return "images"
    if name.endswith(".npy"):
        raise SomasegError(
            f"{path}: NumPy files may carry code and are not read; save the masks as label images "
            "(Cellpose: --save_png or --save_tif)"
        )
    raise SomasegError(
        f"{path}: not known; give a folder, a CSV, a COCO JSON, or images (PNG, JPEG, TIFF)"
    )


def _file_of(path: Path, format: Format) -> Path:
    """Return the file that a named format reads in a folder."""
    if path.is_file() or format in ("labels", "images"):
        if path.is_file() and format == "labels":
            raise SomasegError(f"{path}: a file; give the folder of label images")
        return path
    if format == "competition":
        known = [path / name for name in ("train.csv", "train.csv.gz") if (path / name).is_file()]
        files, what = known[:1] or _tables(path), "CSV with the columns id and annotation"
    else:
        files, what = _coco_files(path), "COCO JSON"
    if not files:
        raise SomasegError(f"{path}: no {what} in this folder")
    if len(files) > 1:
        raise SomasegError(
            f"{path}: {' and '.join(file.name for file in files[:3])} could be meant; name one"
        )
    return files[0]


def _coco_files(folder: Path) -> list[Path]:
    """COCO annotation files in a folder or its ``annotations/``, told by their first bytes."""
    found = []
    for file in sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")]):
        with file.open("rb") as opened:
            head = opened.read(1 << 16)
        keys = (b'"images"', b'"annotations"', b'"categories"')
        if head.lstrip().startswith(b"{") and any(key in head for key in keys):
            found.append(file)
    return found


def _tables(folder: Path) -> list[Path]:
    """CSV files in a folder that hold runs."""
    files = sorted(file for file in folder.iterdir() if file.name.lower().endswith(_CSV))
    found = []
    for file in files:
        try:
            columns = csv_columns(file)
        except SomasegError:
            continue  # some other table, which is none of our business
        if is_table(columns):
            found.append(file)
    return found


def _images_below(folder: Path) -> list[Path]:
    return list_images(folder / "images") if (folder / "images").is_dir() else []
