"""Cells as GeoJSON, as QuPath exchanges its objects.

A FeatureCollection (RFC 7946, but in pixels, y downwards); each feature's ``properties`` hold
``objectType`` (detection), ``classification`` (name and colour), ``measurements`` (name to number)
and ``name``. See https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from somaseg.data.faults import Faults
from somaseg.data.formats.by_image import read_by_image
from somaseg.data.formats.registry import Format
from somaseg.data.measure import Table
from somaseg.data.reading import Reading, image_name
from somaseg.data.types import Dataset
from somaseg.errors import SomasegError
from somaseg.files import file_name, read_json, write_text
from somaseg.folders import is_leftover
from somaseg.instances import Instances
from somaseg.masks.flat import Size
from somaseg.masks.outlines import fill, outline
from somaseg.masks.resolve import OrderName

SCORE = "Score"
"""Measurement that holds the score."""
COLOURS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
)
"""Of the classes in turn: Okabe and Ito's, which colour-blind people can tell apart."""


def to_geojson(cells: Instances, table: Table | None = None) -> dict[str, Any]:
    """Describe hard cells as a FeatureCollection.

    Args:
        cells: of one image.
        table: their measurements, as :func:`somaseg.data.measure.measure` gives them.
    """
    features = []
    for i in range(len(cells)):
        x0, y0 = (int(v) for v in cells.boxes[i, :2])
        polygons = [
            [[*ring.tolist(), ring[0].tolist()] for ring in polygon]
            for polygon in outline(cells.crop(i), (x0, y0))
        ]
        one = len(polygons) == 1
        properties: dict[str, Any] = {"objectType": "detection", "name": str(i + 1)}
        kind = int(cells.classes[i])
        if kind >= 0:
            colour = list(COLOURS[kind % len(COLOURS)])
            properties["classification"] = {"name": cells.names[kind], "color": colour}
        properties["measurements"] = {SCORE: round(float(cells.scores[i]), 6)} | _numbers(table, i)
        features.append(
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon" if one else "MultiPolygon",
                    "coordinates": polygons[0] if one else polygons,
                },
                "properties": properties,
            }
        )
    return {"type": "FeatureCollection", "features": features}


def write_geojson(path: str | Path, cells: Instances, table: Table | None = None) -> None:
    """Write one image's cells; see :func:`to_geojson`."""
    write_text(path, json.dumps(to_geojson(cells, table), allow_nan=False) + "\n")


def read_geojson(path: str | Path, size: Size, names: Sequence[str] | None = None) -> Instances:
    """Read one image's cells: detections, cells or annotations with an area.

    Args:
        path: a FeatureCollection, or a bare list of features, as QuPath writes both.
        size: (height, width) of the image.
        names: class names; by default those of the file in their order of appearance.

    Raises:
        SomasegError: not GeoJSON, an outline outside of the image, or a class that ``names`` lacks.
            The feature is named.
    """
    content = read_json(path)
    features = content.get("features") if isinstance(content, Mapping) else content
    if not isinstance(features, list):
        raise SomasegError(f"{path}: not a GeoJSON FeatureCollection; export objects from QuPath")
    boxes, crops, scores, classes = [], [], [], []
    known = list(names) if names is not None else []
    for number, feature in enumerate(features, 1):
        where = f"{path}: feature {number}"
        try:
            properties = feature.get("properties") or {}
            box, crop = fill(_polygons(feature["geometry"]), size)
            kind = (properties.get("classification") or {}).get("name")
            kind = None if kind is None else str(kind)  # a number, in files of scripts
            score = (properties.get("measurements") or {}).get(SCORE, 1.0)
            score = float(score)
        except SomasegError as error:
            raise SomasegError(
                f"{where}: {error}; is it of an image of {size[1]}×{size[0]} pixels?"
            ) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SomasegError(f"{where}: not a polygon with properties ({error!r})") from error
        if not 0 <= score <= 1:
            raise SomasegError(f"{where}: a score of {score:g}; scores lie in 0 … 1")
        if kind is not None and kind not in known:
            if names is not None:
                raise SomasegError(f"{where}: class {kind!r} is none of {', '.join(names)}")
            known.append(kind)
        boxes.append(box)
        crops.append(crop)
        scores.append(score)
        classes.append(-1 if kind is None else known.index(kind))
    if not boxes:
        return Instances.empty(size, known)
    return Instances.from_crops(size, np.stack(boxes), crops, scores, classes, known)


def _polygons(geometry: Mapping[str, Any]) -> list[list[np.ndarray]]:
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind == "Polygon":
        coordinates = [coordinates]
    elif kind != "MultiPolygon":
        raise SomasegError(f"a {kind}, which has no area")
    return [[np.asarray(ring, float)[:, :2] for ring in polygon] for polygon in coordinates]


def _numbers(table: Table | None, i: int) -> dict[str, float]:
    if table is None:
        return {}
    left_out = {"cell", "class", "score"}
    values = {name: column[i] for name, column in table.items() if name not in left_out}
    # JSON has no NaN, and QuPath no use for it.
    return {name: round(float(v), 4) for name, v in values.items() if np.isfinite(float(v))}


def read_geojson_folder(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, Size] | None = None,
) -> Reading:
    """Read ``geojson/NAME.geojson``, or such files beside images; see :func:`read_by_image`."""
    return read_by_image(
        path, _files, "NAME.geojson", image_name, read_geojson, faults, images, need_images
    )


def _files(folder: Path) -> list[Path]:
    inner = folder / "geojson" if (folder / "geojson").is_dir() else folder
    return [file for file in sorted(inner.glob("*.geojson")) if not is_leftover(file)]


def _write(folder: Path, dataset: Dataset, order: OrderName, ending: str) -> None:
    for sample in dataset:
        path = folder / "geojson" / f"{file_name(sample.id)}.geojson"
        write_geojson(path, sample.annotated())


def _detect(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".geojson" else []
    return [path] if _files(path) else []


FORMAT = Format("geojson", "QuPath's GeoJSON", _detect, read_geojson_folder, _write, folders=True)
