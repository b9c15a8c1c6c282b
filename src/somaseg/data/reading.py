"""What the readers have in common: their result, and the search for images."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from somaseg.data.faults import Faults
from somaseg.data.images import Header, image_header, list_images
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError

# Well and site as Incucyte exports name them: "shsy5y[diff]_E10-4_Vessel-714_Ph_3" (competition)
# and "A172_Phase_C7_1_00d20h00m_4" (LIVECell): cell line, well, site in the well, …
_WELL = re.compile(
    r"^(?P<line>.+?)(?:_Phase)?_(?P<well>[A-P]\d{1,2})[-_]\d+(?:_(?P<vessel>Vessel-\d+))?(?:_|$)"
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


class ImageIndex:
    """Finds images by name in a few folders; the first folder that has one wins."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        self._by_stem: list[dict[str, list[Path]]] = []
        self._found: set[Path] = set()
        for folder in self.folders:
            stems: dict[str, list[Path]] = {}
            for path in list_images(folder):
                stems.setdefault(path.stem, []).append(path)
            self._by_stem.append(stems)

    def find(self, name: str) -> Path | None:
        """Return the image called ``name``: a path in a folder, or a file name with no ending.

        Raises:
            SomasegError: several files of one folder have that name and differ in their ending.
        """
        for folder, stems in zip(self.folders, self._by_stem, strict=True):
            # A file name written on another computer may carry folders that are not here.
            last = name.replace("\\", "/").rsplit("/", 1)[-1]
            exact = [path for path in (folder / name, folder / last) if path.is_file()]
            found = exact[:1] or stems.get(last) or stems.get(Path(last).stem) or []
            self._found.update(found)
            if len(found) > 1:
                raise SomasegError(
                    f"{folder}: {' and '.join(path.name for path in found)} could both be image "
                    f"{name}; remove one"
                )
            if found:
                return found[0]
        return None

    def others(self) -> list[Path]:
        """Return the images never asked for, in folders where others were found."""
        folders = {path.parent for path in self._found}
        return [
            path
            for folder, stems in zip(self.folders, self._by_stem, strict=True)
            if folder in folders
            for paths in stems.values()
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


def checked_header(path: Path, image: str, faults: Faults) -> Header:
    """Read an image's header; note if viewers turn what is stored.

    Raises:
        SomasegError: as :func:`somaseg.data.images.image_header`.
    """
    header = image_header(path)
    if header.orientation != 1:
        message = (
            f"orientation {header.orientation} (EXIF, TIFF): viewers turn it, here and in the "
            "masks found it lies as it is stored; save it upright if it was annotated turned"
        )
        faults.add("turned image", message, path, image=image)
    return header


def note_unannotated(index: ImageIndex, faults: Faults, but: Collection[Path] = ()) -> None:
    """Note the images that lie beside annotated ones but have no annotation; not those in but."""
    for path in index.others():
        if path in but:
            continue
        faults.add(
            "image without annotation", "not annotated: it is left out", path, image=path.stem
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
