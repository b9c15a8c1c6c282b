"""A table of cells: place, shape, brightness and neighbours of each, one row a cell."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from somaseg.data.images import to_gray
from somaseg.errors import SomasegError
from somaseg.files import atomic_path
from somaseg.instances import Instances
from somaseg.masks.flat import Boxes

Table = dict[str, npt.NDArray[Any]]
"""Columns of equal length, by name."""

TOUCH = 2
"""Cells whose masks are at most this far apart, in pixels, are neighbours."""
_SHAPE = (
    "centroid",
    "axis_major_length",
    "axis_minor_length",
    "orientation",
    "eccentricity",
    "solidity",
    "perimeter",
)
_PROPERTIES = ("centroid-0", "centroid-1", *_SHAPE[1:])


def measure(
    cells: Instances,
    image: npt.NDArray[Any] | None = None,
    channels: Sequence[str] = (),
    pixel_size: float | None = None,
) -> Table:
    """Measure each cell; of shapes, what scikit-image's ``regionprops`` says of its mask.

    Args:
        cells: hard instances of one image.
        image: (h, w), or (h, w, c): adds the mean intensity, as stored.
        channels: names of the channels of (h, w, c), to be measured each by itself; without, the
            gray value is.
        pixel_size: side of a pixel in µm: adds lengths and areas in µm.

    Returns:
        columns of n rows, in the order of the cells:

        - ``cell`` from 1, ``class`` (empty if unknown), ``score``
        - ``x``, ``y``: centroid in pixels, of pixel centres (the first pixel's is 0.5)
        - ``area`` in pixels; ``major_axis``, ``minor_axis`` of the ellipse with the same second
          moments; ``perimeter``
        - ``orientation``: of the major axis, −90 to 90 degrees, counter-clockwise from the x axis
        - ``eccentricity``, ``solidity``: 0 to 1
        - ``neighbours``: other cells at most 2 pixels away
        - ``intensity``, or ``intensity_NAME`` of each channel
        - with ``pixel_size``: ``x_um``, ``y_um``, ``area_um2``, ``major_axis_um``,
          ``minor_axis_um``, ``perimeter_um``

    Raises:
        SomasegError: soft cells, an image of another size, a pixel size that is not above 0, or
            names that do not fit the channels.
    """
    if cells.soft:
        raise SomasegError("soft masks cannot be measured; settle them first")
    planes = _planes(image, cells, channels)
    names = [cells.names[k] if k >= 0 else "" for k in cells.classes]
    table: Table = {
        "cell": np.arange(1, len(cells) + 1),
        "class": np.array(names, dtype=object),
        "score": cells.scores.astype(np.float64),
    }
    table |= _shapes(cells)
    labels = cells.to_labels()
    table["neighbours"] = count_neighbours(labels, cells.boxes, table["cell"])
    for name, plane in planes.items():
        table[name] = np.array(
            [plane[_window(box)][cells.crop(i) != 0].mean() for i, box in enumerate(cells.boxes)],
            float,
        )
    if pixel_size is not None:
        if not (np.isfinite(pixel_size) and pixel_size > 0):
            raise SomasegError(f"pixel size {pixel_size}: must be above 0, in µm")
        for name in ("x", "y", "major_axis", "minor_axis", "perimeter"):
            table[f"{name}_um"] = table[name] * pixel_size
        table["area_um2"] = table["area"] * pixel_size**2
    return table


def write_cells(path: str | Path, tables: Mapping[str, Table]) -> None:
    """Write the cells of several images as one table, CSV or Parquet by its ending.

    Args:
        path: ends in ``.csv`` or ``.parquet`` (which needs pyarrow).
        tables: by image id, which becomes the first column, ``image``. A column that some images
            lack (as a channel) is empty there.

    Raises:
        SomasegError: another ending, or pyarrow is not installed.
    """
    path = Path(path)
    columns = list(dict.fromkeys(name for table in tables.values() for name in table))
    if path.suffix == ".csv":
        with (
            atomic_path(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["image", *columns])
            for image, table in tables.items():
                writer.writerows([image, *row] for row in rows_of(table, columns))
        return
    if path.suffix != ".parquet":
        raise SomasegError(f"{path}: a table of cells ends in .csv or .parquet")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SomasegError(f"{path}: needs pyarrow; pip install 'somaseg[lab]'") from error
    parts = [
        pyarrow.table(
            {"image": pyarrow.array([image] * len(table["cell"]), "string")} | _arrow(table)
        )
        for image, table in tables.items()
    ]
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(
            pyarrow.concat_tables(parts, promote_options="default"), temporary
        )


def _arrow(table: Table) -> dict[str, Any]:
    # Texts are kept as such even where a table has no row to tell.
    return {
        name: column.astype(str) if column.dtype == object else column
        for name, column in table.items()
    }


def rows_of(table: Table, columns: Sequence[str] | None = None) -> Iterator[list[str]]:
    """Rows of a table as text; ``columns`` that it lacks are empty."""
    names = list(table) if columns is None else columns
    missing = [""] * len(table["cell"])
    texts = [_text(table[name]) if name in table else missing for name in names]
    return (list(row) for row in zip(*texts, strict=True))


def _text(column: npt.NDArray[Any]) -> list[str]:
    """Numbers with six digits that count; whole ones as such."""
    if column.dtype == object:
        return [str(value) for value in column]
    return [f"{value:.6g}" if column.dtype.kind == "f" else str(value) for value in column]


def _planes(
    image: npt.NDArray[Any] | None, cells: Instances, channels: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Column name and (h, w) of each channel."""
    if image is None:
        return {}
    if image.shape[:2] != tuple(cells.size) or image.ndim not in (2, 3):
        raise SomasegError(
            f"an image of shape {image.shape} does not fit cells of an image of {cells.size[1]}×"
            f"{cells.size[0]} pixels"
        )
    if image.ndim == 2:
        return {"intensity": image}
    if not channels:
        return {"intensity": to_gray(image)}
    names = list(channels)
    if len(names) != image.shape[2]:
        raise SomasegError(f"{len(names)} names for {image.shape[2]} channels")
    return {f"intensity_{name}": image[..., k] for k, name in enumerate(names)}


def _window(box: npt.NDArray[np.int32]) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def _shapes(cells: Instances) -> Table:
    """Place and shape of each cell."""
    from skimage.measure import regionprops_table

    if not cells.areas.all():
        raise SomasegError("a cell without a pixel cannot be measured")
    found = {name: np.zeros(len(cells)) for name in _PROPERTIES}
    for layer in cells.layers():  # in each of them no cell hides another
        part = regionprops_table(layer, properties=("label", *_SHAPE))
        rows = part["label"] - 1
        for name in _PROPERTIES:
            found[name][rows] = part[name]
    # Theirs is in radians from the y axis (down).
    degrees = np.degrees(found["orientation"]) - 90
    return {
        "x": found["centroid-1"] + 0.5,
        "y": found["centroid-0"] + 0.5,
        "area": cells.areas,
        "major_axis": found["axis_major_length"],
        "minor_axis": found["axis_minor_length"],
        "perimeter": found["perimeter"],
        "orientation": (degrees + 90) % 180 - 90,
        "eccentricity": found["eccentricity"],
        "solidity": found["solidity"],
    }


def count_neighbours(
    labels: npt.NDArray[np.integer], boxes: Boxes, numbers: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """How many other cells come within :data:`TOUCH` pixels of each.

    Args:
        labels: (h, w), 0 is background.
        boxes: (n, 4) of the cells asked for.
        numbers: (n,) their labels.
    """
    steps = np.arange(-TOUCH, TOUCH + 1)
    kernel = (steps[:, None] ** 2 + steps**2 <= TOUCH**2).astype(np.uint8)
    counts = np.zeros(len(boxes), np.int64)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        top, left = max(y0 - TOUCH, 0), max(x0 - TOUCH, 0)
        around = labels[top : y1 + TOUCH, left : x1 + TOUCH]
        own = around == numbers[i]
        near = around[(cv2.dilate(own.view(np.uint8), kernel) != 0) & ~own]
        counts[i] = len(set(near.tolist()) - {0})
    return counts
