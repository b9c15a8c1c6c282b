"""What napari's layers and our types have in common: cells as labels with features, and back.

A layer of labels has for each cell its class and score as features; a row's ``index`` is the label.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from somaseg.data import load_dataset
from somaseg.data.convert import write_dataset
from somaseg.data.ome_tiff import write_ome_tiff
from somaseg.data.planes import channel_names
from somaseg.data.predicted import is_predicted
from somaseg.data.reading import with_image_classes
from somaseg.data.types import ONE_CLASS, Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import file_name
from somaseg.instances import Instances

LayerData = tuple[Any, dict[str, Any], str]
"""What napari makes a layer of: data, its arguments, its type."""


def features_of(cells: Instances) -> dict[str, list[Any]]:
    """Class and score of each label, the background first."""
    names = [cells.names[k] if k >= 0 else "" for k in cells.classes.tolist()]
    return {
        "index": list(range(len(cells) + 1)),
        "class": ["", *names],
        "score": [float("nan"), *cells.scores.round(4).tolist()],
    }


def cells_of(labels: npt.NDArray[Any], features: Any = None) -> Instances:
    """Cells of a layer, corrected or not; a label without a class is a ``cell``.

    Args:
        labels: (h, w), whole numbers from 0.
        features: the layer's table, of which a class and a score count, if it has them.

    Raises:
        SomasegError: not (h, w).
    """
    if labels.ndim != 2:
        raise SomasegError(f"labels of {labels.ndim} axes: show one plane, (h, w)")
    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    cells = Instances.from_labels(np.ascontiguousarray(labels, np.int32))
    told: dict[int, tuple[str, float]] = {}
    columns = set(features.columns) if features is not None else set()
    if {"index", "class", "score"} <= columns:
        rows = zip(features["index"], features["class"], features["score"], strict=True)
        told = {int(i): (str(kind), float(score)) for i, kind, score in rows}
    pairs = [told.get(int(number), ("", 1.0)) for number in numbers]
    kinds = [kind if kind not in ("", "nan") else ONE_CLASS for kind, _ in pairs]
    names = tuple(dict.fromkeys(kinds)) or (ONE_CLASS,)
    scores = [score if 0 <= score <= 1 else 1.0 for _, score in pairs]
    classes = np.array([names.index(kind) for kind in kinds], np.int16)
    return cells.replace(scores=np.array(scores, np.float32)).with_classes(classes, names)


def plane_on_show(layer: Any, step: Sequence[int]) -> npt.NDArray[Any]:
    """Return the plane of an image layer that the viewer shows, (h, w) or (h, w, 3).

    Args:
        layer: an image.
        step: the viewer's ``dims.current_step``.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    outer = data.ndim - 2 - bool(layer.rgb)
    # The viewer may have more axes than the layer, which has the last of them.
    at = tuple(int(k) for k in step[len(step) - 2 - outer : len(step) - 2]) if outer else ()
    return np.asarray(data[at])


def reader_of(path: str | list[str]) -> Callable[[Any], list[LayerData]] | None:
    """Return a reader for a folder that ``somaseg predict`` wrote; none for anything else."""
    if not isinstance(path, str) or not is_predicted(Path(path)):
        return None
    return _read


def _read(path: Any) -> list[LayerData]:
    found: list[LayerData] = []
    for sample in load_dataset(path):
        cells = sample.annotated()
        scale = {"scale": (sample.pixel_size,) * 2} if sample.pixel_size else {}
        image = sample.image()
        names = channel_names(sample)
        if names:
            shown: dict[str, Any] = {"channel_axis": 2, "name": [f"{sample.id} {n}" for n in names]}
        else:
            shown = {"name": sample.id, "rgb": image.ndim == 3}
        found.append((image, {**shown, **scale}, "image"))
        more = {"features": features_of(cells), **scale}
        found.append((cells.to_labels(), {"name": f"{sample.id} cells", **more}, "labels"))
    return found


def write_layers(path: str, layers: list[LayerData]) -> list[str]:
    """Add an image and its labels to a data set that every command reads.

    Args:
        path: folder of the data set, made if missing.
        layers: an image and labels, each a plane.

    Returns:
        the files written.
    """
    given = {kind: (data, meta) for data, meta, kind in layers}
    image, told = given["image"]
    labels, more = given["labels"]
    scale = tuple(told.get("scale") or ())[-2:]
    size = float(scale[-1]) if scale and scale[0] == scale[-1] and scale[-1] != 1 else None
    return add_to_dataset(path, str(told["name"]), image, labels, more.get("features"), size)


def add_to_dataset(
    folder: str | Path,
    name: str,
    image: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    features: Any = None,
    pixel_size: float | None = None,
) -> list[str]:
    """Write ``images/NAME.tif`` and ``labels/NAME.tif``, and the classes of all in tables.

    Returns:
        the two files.

    Raises:
        SomasegError: labels that do not fit the image, or a folder of something else.
    """
    folder = Path(folder)
    cells = cells_of(labels, features)
    if image.shape[:2] != cells.size:
        raise SomasegError(
            f"labels of {cells.size[1]}×{cells.size[0]} pixels do not fit an image of "
            f"{image.shape[1]}×{image.shape[0]}"
        )
    id = file_name(name)
    # The tables tell the classes of all images, so those that stand are written anew with it.
    there = load_dataset(folder, "labels") if (folder / "labels").is_dir() else ()
    before = [sample for sample in there if sample.id != id]
    of_all = [*(s.annotated() for s in before), cells]
    names = tuple(dict.fromkeys(n for one in of_all for n in one.names))
    path = folder / "images" / f"{id}.tif"
    write_ome_tiff(path, image, pixel_size)
    samples = [replace(s, instances=s.annotated().rename(names)) for s in before]
    samples.append(Sample(id, cells.size, path, cells.rename(names)))
    dataset = Dataset(with_image_classes(samples), names, str(folder))
    write_dataset(folder, dataset, "labels")
    return [str(path), str(folder / "labels" / f"{id}.tif")]
