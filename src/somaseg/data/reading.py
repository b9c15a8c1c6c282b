"""What the readers have in common: their result, and the search for images."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from somaseg.data.axes import Plane, without_plane
from somaseg.data.faults import Faults
from somaseg.data.images import Header, image_header, list_images
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import file_name, is_there
from somaseg.limits import check_pixels
from somaseg.masks.parallel import map_images
from somaseg.masks.pieces import count_pieces

# Well and site as Incucyte exports name them: "shsy5y[diff]_E10-4_Vessel-714_Ph_3" (competition)
# and "A172_Phase_C7_1_00d20h00m_4" (LIVECell): cell line, well, site in the well, …
_WELL = re.compile(
    r"^(?P<line>.+?)(?:_Phase)?_(?P<well>[A-P]\d{1,2})[-_]\d+(?:_(?P<vessel>Vessel-\d+))?(?:_|$)"
)


# Astrocytes drawn by hand have masks in several pieces, but never most of an image's in so many.
_PIECES = 3
# Faults after which an image cannot be used, though something of it was read.
_OF_IMAGES = (
    "missing image",
    "unreadable image",
    "ambiguous image",
    "shattered masks",
    "binary mask",
    "mixed classes",
    "size mismatch",
)


@dataclass(frozen=True, eq=False)
class Reading:
    """A data set as far as it could be read, with the way back to its files.

    Attributes:
        dataset: sound samples and sound instances only.
        faults: everything that was left out or looked odd, with the reason.
        files: annotation file of each image id.
        rows: for each image id where each instance stands in that file, as in ``Fault.row``.
    """

    dataset: Dataset
    faults: Faults
    files: dict[str, Path] = field(default_factory=dict)
    rows: dict[str, list[str]] = field(default_factory=dict)

    def sound(self) -> Dataset:
        """Return the data set without the images that are faulty as a whole.

        Rows that could not be read are left out already; an image stays with the others of it.
        """
        spoilt = {fault.image for fault in self.faults.errors if fault.kind in _OF_IMAGES}
        kept = tuple(sample for sample in self.dataset if sample.id not in spoilt)
        return replace(self.dataset, samples=kept)


def image_name(path: Path | str) -> str:
    """Return what an image is called: its file's name without ending, ``.ome.tif`` as well.

    In composed Unicode: some systems write ``ä`` as two characters, and the same name would not
    be found again.
    """
    stem = unicodedata.normalize("NFC", Path(path).stem)
    return stem[:-4] if stem.lower().endswith(".ome") and len(stem) > 4 else stem


def path_parts(name: str) -> list[str]:
    r"""Split a file name that may come from another system: ``C:\data\a.png`` or ``day1/a.png``."""
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return [part for part in parts if part not in ("", ".", "..") and not _DRIVE.match(part)]


_DRIVE = re.compile(r"[A-Za-z]:$")
_LABEL_STUDIO = re.compile(r"^[0-9a-f]{8}-(?=.)")  # put in front of the names of files sent to it
Place = tuple[Path, Plane | None]
_NONE: Mapping[str, Place] = MappingProxyType({})
_RAW_ENDINGS = ("_img", "_image", "_raw")  # of images beside their masks: a_img.png, a_masks.png


class ImageIndex:
    """Finds images by name in a few folders; the first folder that has one wins."""

    def __init__(self, folders: Sequence[Path], given: Mapping[str, Place] = _NONE) -> None:
        """Look into folders; ``given`` are further images by name, each a file and its plane."""
        self.given = given
        self.folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        self._by_name: list[dict[str, list[Path]]] = []
        self._found: set[Path] = set()
        for folder in self.folders:
            names: dict[str, list[Path]] = {}
            for path in list_images(folder):
                names.setdefault(image_name(path), []).append(path)
            self._by_name.append(names)

    def find(self, name: str) -> Path | None:
        """Return the image called ``name``: a path in a folder, or a file name with no ending.

        Raises:
            SomasegError: several files of one folder have that name and differ in their ending.
        """
        # A file name written on another computer may carry folders that are not here: the more
        # of them that are, the better.
        parts = path_parts(name) or [name]
        tails = ["/".join(parts[k:]) for k in range(len(parts))]
        last = parts[-1]
        stem = image_name(last)
        plain = (last, stem, file_name(name), _LABEL_STUDIO.sub("", stem))
        for folder, names in zip(self.folders, self._by_name, strict=True):
            found = [path for tail in (name, *tails) if _is_file(path := folder / tail)][:1]
            for key in (*plain, *(image_name(last) + ending for ending in _RAW_ENDINGS)):
                found = found or names.get(key, [])
            found = found or _stacks(names.get(without_plane(image_name(last)), []))
            self._found.update(found)
            if len(found) > 1:
                raise SomasegError(
                    f"{folder}: {' and '.join(path.name for path in found)} could both be image "
                    f"{name}; remove one"
                )
            if found:
                return found[0]
        place = self.given.get(name) or self.given.get(file_name(name))
        return place[0] if place is not None and is_there(place[0]) else None

    def plane_of(self, name: str) -> Plane | None:
        """Which plane of its file an image is, where that was given."""
        place = self.given.get(name) or self.given.get(file_name(name))
        return place[1] if place is not None and self.find(name) == place[0] else None

    def others(self) -> list[Path]:
        """Return the images never asked for, in folders where others were found."""
        folders = {path.parent for path in self._found}
        return [
            path
            for folder, names in zip(self.folders, self._by_name, strict=True)
            if folder in folders
            for paths in names.values()
            for path in paths
            if path not in self._found
        ]

    def __str__(self) -> str:
        return ", ".join(str(folder) for folder in self.folders) or "any folder"


def locate(
    name: str,
    index: ImageIndex,
    size: tuple[int, int] | None,
    need_images: bool,
    faults: Faults,
    file: Path,
    image: str,
) -> tuple[Path | None, tuple[int, int] | None]:
    """Find an image and its size, and hold the size against the annotated one.

    Returns:
        path and ``(height, width)``; none for what is not known.
    """
    try:
        path = index.find(name)
    except SomasegError as error:
        faults.add("ambiguous image", str(error), file, image=image)
        return None, size
    if path is None and size is not None:
        try:  # nothing but the annotation file says how large it is
            check_pixels(file, *size)
        except SomasegError as error:
            faults.add("unknown size", message_without(file, error), file, image=image)
            return None, None
    if path is None:
        if need_images:
            faults.add(
                "missing image",
                f"no image {name} in {index}; name the folder of the images",
                file,
                image=image,
            )
        elif size is None:
            faults.add("unknown size", f"neither its size nor image {name}", file, image=image)
        return None, size
    try:
        real = checked_header(path, image, faults).size
    except SomasegError as error:
        if need_images or size is None:
            faults.add("unreadable image", message_without(path, error), path, image=image)
            return path, None
        return path, size
    if size is not None and real != size:
        faults.add(
            "size mismatch",
            f"annotated on {size[1]}×{size[0]} pixels, but {path.name} has {real[1]}×{real[0]}; "
            "annotate the image as it is",
            file,
            image=image,
        )
        return None, None
    return path, real


def checked_header(path: Path, image: str, faults: Faults, plane: Plane | None = None) -> Header:
    """Read an image's header; note if viewers turn what is stored.

    Raises:
        SomasegError: as :func:`somaseg.data.images.image_header`.
    """
    header = image_header(path, plane.scene if plane else 0)
    if header.orientation != 1:
        message = (
            f"orientation {header.orientation} (EXIF, TIFF): viewers turn it, here and in the "
            "masks found it lies as it is stored; save it upright if it was annotated turned"
        )
        faults.add("turned image", message, path, image=image)
    return header


def check_image(sample: Sample, faults: Faults) -> None:
    """Decode an image, if it is at hand; note if that fails."""
    if sample.image_path is None:
        return
    try:
        sample.image()
    except SomasegError as error:
        message = message_without(sample.image_path, error)
        faults.add("unreadable image", message, sample.image_path, image=sample.id)


def note_unannotated(index: ImageIndex, faults: Faults, but: Collection[Path] = ()) -> None:
    """Note the images that lie beside annotated ones but have no annotation; not those in but."""
    for path in index.others():
        if path in but:
            continue
        faults.add(
            "image without annotation",
            "not annotated: it is left out",
            path,
            image=image_name(path),
        )


def well_group(name: str) -> str | None:
    """Return cell line, well and vessel of an Incucyte name; none if it is no such name.

    Images of one well show the same cells again and again: they must share a fold.
    """
    match = _WELL.match(name)
    return "_".join(part for part in match.groups() if part) if match else None


def with_image_classes(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Set every image's class if no image mixes cells of several, else none.

    An image without cells keeps the class it came with.
    """
    classes: list[str | None] = []
    for sample in samples:
        instances = sample.annotated()
        present = set(instances.classes.tolist())
        if len(present) > 1 or -1 in present:
            return tuple(replace(sample, image_class=None) for sample in samples)
        classes.append(instances.names[present.pop()] if present else sample.image_class)
    pairs = zip(samples, classes, strict=True)
    return tuple(replace(sample, image_class=name) for sample, name in pairs)


def message_without(path: Path, error: SomasegError) -> str:
    """Return the message without the file's name in front, which a fault has in its own field."""
    return str(error).removeprefix(f"{path}: ")


def refuse_shattered(reading: Reading) -> None:
    """Note images most of whose masks lie in many pieces: they were not drawn like that."""

    def pieces(sample: Sample) -> npt.NDArray[np.integer]:
        cells = sample.instances
        return count_pieces(*cells.flat) if cells is not None else np.zeros(0, np.int32)

    known = {fault.image for fault in reading.faults if fault.kind == "binary mask"}
    for sample, counts in zip(reading.dataset, map_images(pieces, reading.dataset), strict=True):
        shattered = int(np.count_nonzero(counts > _PIECES))
        if sample.id in known or shattered < 3 or 2 * shattered <= len(counts):
            continue
        message = (
            f"{shattered} of {len(counts)} masks lie in more than {_PIECES} pieces (half of them "
            f"in {int(np.median(counts))} or more): label images saved as JPEG or resized with "
            "interpolation, or runs numbered down the columns; export them again without"
        )
        file = reading.files.get(sample.id, Path(reading.dataset.source))
        reading.faults.add("shattered masks", message, file, image=sample.id)


def _stacks(paths: list[Path]) -> list[Path]:
    """Files of several planes, of which ``a_t003`` is one of ``a.tif``."""
    found = []
    for path in paths:
        try:
            header = image_header(path)
        except SomasegError:
            continue  # told where it is asked for by its own name
        if not header.alone:
            found.append(path)
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False
