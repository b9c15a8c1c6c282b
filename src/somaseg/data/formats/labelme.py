"""LabelMe: ``NAME.json`` beside ``NAME.png``, polygons, rectangles, circles, masks. Read only.

Shapes that share a ``group_id`` and a label are one cell in several pieces.
"""

import base64
import binascii
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from somaseg.data.faults import Faults
from somaseg.data.formats.by_image import read_by_image
from somaseg.data.formats.registry import Format
from somaseg.data.reading import Reading, image_name
from somaseg.errors import SomasegError
from somaseg.files import read_json
from somaseg.folders import is_leftover
from somaseg.instances import Instances
from somaseg.limits import max_pixels
from somaseg.masks.flat import Boxes, Pixels, Size
from somaseg.masks.outlines import fill

_CORNERS = 64  # of the polygon that stands for a circle


def read_labelme(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Reading:
    """Read LabelMe's files, with the images beside them; see :func:`read_by_image`."""
    return read_by_image(
        path,
        _files,
        "LabelMe JSON (with shapes)",
        image_name,
        read_shapes,
        faults,
        images,
        need_images,
    )


def read_shapes(path: Path, size: Size) -> Instances:
    """Read the cells of one image.

    Raises:
        SomasegError: no such file, drawn on an image of another size, or a shape that has no area
            or lies outside of the image; it is named.
    """
    content = read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise SomasegError(f"{path}: no LabelMe file; it has no shapes")
    drawn = content.get("imageHeight"), content.get("imageWidth")
    if all(isinstance(side, int) for side in drawn) and drawn != size:
        raise SomasegError(
            f"{path}: drawn on an image of {drawn[1]}×{drawn[0]} pixels, this one has "
            f"{size[1]}×{size[0]}"
        )
    cells: dict[Any, list[tuple[Boxes, Pixels]]] = {}
    labels: dict[Any, str] = {}
    for number, shape in enumerate(shapes, 1):
        try:
            label, group = str(shape["label"]), shape.get("group_id")
            key = (label, str(group)) if group is not None else number
            cells.setdefault(key, []).append(_shape(shape, size))
            labels[key] = label
        except SomasegError as error:
            raise SomasegError(f"{path}: shape {number}: {error}") from error
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise SomasegError(f"{path}: shape {number}: no LabelMe shape ({error!r})") from error
    if not cells:
        return Instances.empty(size)
    names = list(dict.fromkeys(labels.values()))
    joined = [_joined(parts) for parts in cells.values()]
    return Instances.from_crops(
        size,
        np.stack([box for box, _ in joined]),
        [crop for _, crop in joined],
        classes=[names.index(labels[key]) for key in cells],
        names=names,
    )


def _shape(shape: Mapping[str, Any], size: Size) -> tuple[Boxes, Pixels]:
    kind = shape.get("shape_type", "polygon")
    points = np.array(shape["points"], float).reshape(-1, 2)
    if kind == "mask":
        return _mask(str(shape["mask"]), points, size)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    elif kind == "circle":
        centre, edge = points
        angles = np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False)
        around = np.column_stack([np.cos(angles), np.sin(angles)])
        points = centre + np.hypot(*(edge - centre)) * around
    elif kind != "polygon":
        raise SomasegError(f"a {kind}, which has no area")
    return fill([[points]], size)


def _mask(text: str, points: npt.NDArray[np.float64], size: Size) -> tuple[Boxes, Pixels]:
    """A mask within its box, as a PNG in base 64."""
    x0, y0 = points.min(0).astype(int)
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise SomasegError(f"its mask is not base 64 ({error})") from error
    # Width and height stand in a PNG's first 24 bytes.
    width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
    if not data.startswith(b"\x89PNG") or width * height > max_pixels():
        raise SomasegError("its mask is no PNG, or too large")
    crop = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if crop is None or crop.ndim != 2 or not crop.any():
        raise SomasegError("its mask is damaged or empty")
    height, width = crop.shape
    if x0 < 0 or y0 < 0 or x0 + width > size[1] or y0 + height > size[0]:
        raise SomasegError("its mask lies outside of the image")
    return np.array([x0, y0, x0 + width, y0 + height], np.int32), (crop != 0).view(np.uint8)


def _joined(parts: list[tuple[Boxes, Pixels]]) -> tuple[Boxes, Pixels]:
    """One cell of several pieces."""
    boxes = np.stack([box for box, _ in parts])
    x0, y0 = boxes[:, :2].min(0)
    x1, y1 = boxes[:, 2:].max(0)
    crop = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for (left, top, right, bottom), part in parts:
        crop[top - y0 : bottom - y0, left - x0 : right - x0] |= part
    return np.array([x0, y0, x1, y1], np.int32), crop


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*.json")) if _is_labelme(file)]


def _is_labelme(file: Path) -> bool:
    if is_leftover(file) or not file.is_file():
        return False
    with file.open("rb") as opened:
        head = opened.read(1 << 12)
    return b'"shapes"' in head and (b'"flags"' in head or b'"version"' in head)


def _detect(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and _is_labelme(path) else []
    return [path] if _files(path) else []


FORMAT = Format("labelme", "LabelMe JSON", _detect, read_labelme, folders=True)
