"""Cells as a zip of ImageJ ROIs, which Fiji's ROI manager opens and saves.

Outlines go along the edges of pixels, so that Fiji fills exactly the mask. A cell with holes or in
several pieces becomes a composite ROI. Class and score stand in the ROI's name and properties.
"""

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from somaseg.data.faults import Faults
from somaseg.data.formats.by_image import read_by_image
from somaseg.data.formats.registry import Format
from somaseg.data.reading import Reading, image_name
from somaseg.data.types import Dataset
from somaseg.errors import SomasegError
from somaseg.files import DAMAGE, atomic_path, check_regular, file_name
from somaseg.folders import is_leftover
from somaseg.instances import Instances
from somaseg.masks.flat import Size
from somaseg.masks.outlines import fill, outline
from somaseg.masks.resolve import OrderName

if TYPE_CHECKING:
    from roifile import ImagejRoi

MOST_BYTES = 1 << 24
"""Of one ROI: a zip that claims more is no ROI manager's."""
_ENDING = re.compile(r"[-_. ]?(RoiSet|ROIs?)$", re.IGNORECASE)
_MOVE, _LINE, _CLOSE = 0, 1, 4  # of java.awt.geom.PathIterator, as ImageJ stores them


def to_rois(cells: Instances) -> list["ImagejRoi"]:
    """Make an ROI of each hard cell.

    Raises:
        SomasegError: roifile is not installed, or a side above 32,767 pixels, which ImageJ's
            format cannot hold.
    """
    roifile = _roifile()
    check_roi_size(cells.size)
    rois = []
    for i in range(len(cells)):
        box = [int(v) for v in cells.boxes[i]]
        polygons = outline(cells.crop(i), (box[0], box[1]))
        kind = int(cells.classes[i])
        name = f"{i + 1:04d}" + (f" {cells.names[kind]}" if kind >= 0 else "")
        if len(polygons) == 1 and len(polygons[0]) == 1:
            roi = roifile.ImagejRoi.frompoints(polygons[0][0], name=name)
            roi.roitype = roifile.ROI_TYPE.TRACED
        else:
            path = np.concatenate([_segments(ring) for part in polygons for ring in part])
            roi = roifile.ImagejRoi(
                roitype=roifile.ROI_TYPE.RECT,
                left=box[0],
                top=box[1],
                right=box[2],
                bottom=box[3],
                shape_roi_size=len(path),
                multi_coordinates=path,
                name=name,
            )
        roi.props = f"score: {cells.scores[i]:.6f}\n" + (
            f"class: {cells.names[kind]}\n" if kind >= 0 else ""
        )
        rois.append(roi)
    return rois


def check_roi_size(size: Size) -> None:
    """Refuse images that ImageJ's format cannot hold, whose numbers have 16 bits.

    Raises:
        SomasegError: a side above 32,767 pixels.
    """
    if max(size) > np.iinfo(np.int16).max:
        raise SomasegError(
            f"an image of {size[1]}×{size[0]} pixels is too large for ImageJ's ROIs (32,767 a "
            "side); write GeoJSON instead"
        )


def write_rois(path: str | Path, cells: Instances) -> None:
    """Write one image's cells as a zip for Fiji's ROI manager; see :func:`to_rois`."""
    rois = to_rois(cells)
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file,
    ):
        for i, roi in enumerate(rois, 1):
            # Names within a zip must differ, and Fiji shows the ROI's own.
            file.writestr(f"{i:04d}.roi", roi.tobytes())


def read_rois(path: str | Path, size: Size, names: Sequence[str] | None = None) -> Instances:
    """Read one image's cells from a zip of ROIs, or from a single ``.roi``.

    Args:
        path: what Fiji's ROI manager saved.
        size: (height, width) of the image.
        names: class names; by default those of the file in their order of appearance.

    Raises:
        SomasegError: not ROIs, one without an area (a line, a point), outside of the image, or a
            class that ``names`` lacks. The ROI is named.
    """
    boxes, crops, scores, classes = [], [], [], []
    known = list(names) if names is not None else []
    for roi in _read(check_regular(path)):
        where = f"{path}: ROI {roi.name!r}"
        try:
            box, crop = fill(_polygons(roi), size)
        except SomasegError as error:
            raise SomasegError(
                f"{where}: {error}; is it of an image of {size[1]}×{size[0]} pixels?"
            ) from error
        facts = dict(line.split(": ", 1) for line in roi.props.splitlines() if ": " in line)
        kind = facts.get("class")
        if kind is not None and kind not in known:
            if names is not None:
                raise SomasegError(f"{where}: class {kind!r} is none of {', '.join(names)}")
            known.append(kind)
        try:
            score = float(facts.get("score", 1))
        except ValueError:
            score = -1.0
        if not 0 <= score <= 1:
            raise SomasegError(f"{where}: score {facts['score']!r}; scores lie in 0 … 1")
        boxes.append(box)
        crops.append(crop)
        scores.append(score)
        classes.append(-1 if kind is None else known.index(kind))
    if not boxes:
        return Instances.empty(size, known)
    return Instances.from_crops(size, np.stack(boxes), crops, scores, classes, known)


def _read(path: Path) -> list["ImagejRoi"]:
    roifile = _roifile()
    try:
        if path.suffix.lower() != ".zip":
            return [roifile.ImagejRoi.frombytes(path.read_bytes())]
        with zipfile.ZipFile(path) as file:
            entries = [
                entry for entry in file.infolist() if entry.filename.lower().endswith(".roi")
            ]
            large = [entry.filename for entry in entries if entry.file_size > MOST_BYTES]
            if large:
                raise SomasegError(f"{path}: {large[0]} is too large to be an ROI")
            if not entries and file.infolist():
                raise SomasegError(f"{path}: no .roi in it; save it from Fiji's ROI manager")
            return [roifile.ImagejRoi.frombytes(file.read(entry)) for entry in entries]
    except SomasegError:
        raise
    except DAMAGE as error:
        raise SomasegError(f"{path}: not ImageJ ROIs, or damaged ({error})") from error


def _polygons(roi: "ImagejRoi") -> list[list[npt.NDArray[np.float64]]]:
    """Rings of an ROI that has an area; even-odd, as ImageJ fills a composite."""
    roifile = _roifile()
    kinds = roifile.ROI_TYPE
    if roi.composite and roi.multi_coordinates is not None:
        return [[np.asarray(ring, float) for ring in roi.coordinates(multi=True)]]
    if roi.roitype in (kinds.RECT, kinds.OVAL, kinds.POLYGON, kinds.FREEHAND, kinds.TRACED):
        return [[np.asarray(roi.coordinates(), float)]]
    raise SomasegError(f"a {roi.roitype.name.lower()}, which has no area")


def _segments(ring: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Path of a closed ring: for each point its kind, x, y; then the closing."""
    kinds = np.full(len(ring), _LINE)
    kinds[0] = _MOVE
    steps = np.column_stack([kinds, ring]).astype(np.float32).ravel()
    return np.append(steps, np.float32(_CLOSE))


def _roifile() -> Any:
    try:
        import roifile
    except ImportError as error:
        raise SomasegError("ImageJ ROIs need roifile; pip install 'somaseg[lab]'") from error
    return roifile


def _roi_image(file: Path) -> str:
    """Name of the image that a file of ROIs is of: of ``a.zip``, ``a_RoiSet.zip``."""
    return _ENDING.sub("", image_name(file)) or image_name(file)


def _files(folder: Path) -> list[Path]:
    inner = folder / "rois" if (folder / "rois").is_dir() else folder
    return [file for file in sorted(inner.glob("*.zip")) if _holds_rois(file)]


def _holds_rois(file: Path) -> bool:
    if is_leftover(file):
        return False
    try:
        with zipfile.ZipFile(file) as opened:
            names = opened.namelist()
    except DAMAGE:
        return False
    return all(name.lower().endswith(".roi") for name in names)


def read_roi_folder(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, Size] | None = None,
) -> Reading:
    """Read ``rois/NAME.zip``, or such files beside their images; see :func:`read_by_image`."""
    return read_by_image(
        path, _files, "zip of ROIs", _roi_image, read_rois, faults, images, need_images
    )


def _write(folder: Path, dataset: Dataset, order: OrderName, ending: str) -> None:
    for sample in dataset:
        check_roi_size(sample.size)
    for sample in dataset:
        write_rois(folder / "rois" / f"{file_name(sample.id)}.zip", sample.annotated())


def _detect(path: Path) -> list[Path]:
    if path.is_file():
        roi = path.suffix.lower() == ".roi"
        return [path] if roi or (path.suffix.lower() == ".zip" and _holds_rois(path)) else []
    return [path] if _files(path) else []


FORMAT = Format("rois", "zips of ImageJ's ROIs", _detect, read_roi_folder, _write, folders=True)
