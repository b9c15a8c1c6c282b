"""What a notebook shows of Instances and of a Dataset: small pictures and their figures."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from somaseg.data.facts import diameters
from somaseg.data.images import to_gray
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.report.html import png_uri, render
from somaseg.report.overlays import CLASS_COLOURS, RGB, overlay, to_rgb

_LONGEST = 400  # pixels of the picture of Instances, on its longer side
_THUMBNAIL = 240  # the same of an image of a Dataset
_PICTURES = 4
_FILL = 0.35

Size = tuple[int, int]


def html(value: Instances | Dataset) -> str:
    """Return what a notebook shows of instances or of a data set."""
    return dataset_html(value) if isinstance(value, Dataset) else instances_html(value)


def instances_html(cells: Instances) -> str:
    """Draw the masks on black, with a line of text: how many, of which classes, their scores.

    One colour a class if there are several, else neighbouring rows in different ones. Soft masks
    are cut at one half.
    """
    height, width = cells.size
    several = len(np.unique(cells.classes)) > 1
    size = _fitted(cells.size, _LONGEST)
    facts = [f"{_number(len(cells), 'instance')} in {width} × {height}"]
    if (cells.scores != 1).any():  # annotations have the score 1
        low, high = float(cells.scores.min()), float(cells.scores.max())
        facts.append(f"scores {low:.2f} … {high:.2f}")
    return render(
        "instances",
        facts=facts,
        classes=[
            {"name": name, "count": count, "colour": _colour(index) if several else ""}
            for index, name, count in _counts(cells)
        ],
        **_drawn(np.zeros((*size, 3), np.uint8), cells, several, _FILL),
    )


def dataset_html(dataset: Dataset) -> str:
    """Tabulate images and instances by class, above a few images with outlines.

    Outlines have the colours of the classes if there are several. An image that cannot be read is
    black under its outlines, and its caption says so.
    """
    facts = [_number(len(dataset), "image")]
    annotated = sum(sample.instances is not None for sample in dataset)
    if annotated < len(dataset):
        facts.append(f"{annotated} annotated")
    facts.append(dataset.source)
    if dataset.pixel_size is not None:
        facts.append(f"{dataset.pixel_size:g} µm a pixel")
    return render(
        "dataset",
        facts=facts,
        table=_table(dataset),
        pictures=[_thumbnail(sample, len(dataset.names) > 1) for sample in _examples(dataset)],
    )


# Figures.


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _colour(index: int) -> str:
    """Give the colour of a class as overlays have it, for CSS."""
    # Unknown ones are white in pictures, but a notebook's page may be white, too.
    red, green, blue = CLASS_COLOURS[index % len(CLASS_COLOURS)] if index >= 0 else (136, 136, 136)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _counts(cells: Instances) -> list[tuple[int, str, int]]:
    """Index, name and count of each class that occurs; unknown ones last."""
    kinds = [*enumerate(cells.names), (-1, "unknown")]
    counted = [(i, name, int(np.count_nonzero(cells.classes == i))) for i, name in kinds]
    return [kind for kind in counted if kind[2]]


def _table(dataset: Dataset) -> dict[str, Any]:
    """Count images and instances of each class, and of all."""
    samples = dataset.samples
    cells = [sample.instances for sample in samples if sample.instances is not None]
    areas = np.concatenate([np.zeros(0, np.int64), *(one.areas for one in cells)])
    classes = np.concatenate([np.zeros(0, np.int16), *(one.classes for one in cells)])
    shown = [_shown(sample, dataset.names) for sample in samples]
    rows = []
    for index, name in [*enumerate(dataset.names), (-1, "unknown")]:
        images = sum(index in indices for indices in shown)
        own = areas[classes == index]
        if index >= 0 or (len(own) and dataset.names):
            rows.append(_row(name, images, own, _colour(index)))
    if len(rows) != 1:
        rows.append(_row("all", len(samples), areas))
    return {"head": ["class", "images", "instances", "median diameter, px"], "rows": rows}


def _row(name: str, images: int, areas: npt.NDArray[np.int64], colour: str = "") -> dict[str, Any]:
    median = f"{np.median(diameters(areas)):.1f}" if len(areas) else "–"
    return {"colour": colour, "cells": [name, f"{images}", f"{len(areas)}", median]}


def _shown(sample: Sample, names: Sequence[str]) -> set[int]:
    """Indices of the classes that an image is of, or has an instance of; -1 is unknown."""
    found = set() if sample.instances is None else set(np.unique(sample.instances.classes).tolist())
    return found if sample.image_class is None else found | {names.index(sample.image_class)}


# Pictures.


def _drawn(
    canvas: RGB, cells: Instances | None, by_class: bool, fill: float = 0.0
) -> dict[str, Any]:
    """Draw instances over a picture of their image, (h, w, 3), of any scale."""
    height, width = canvas.shape[:2]
    if not canvas.size:
        return {"uri": "", "width": width, "height": height}
    if cells is not None:
        small = _scaled(cells, (height, width))
        canvas = overlay(canvas, small, color_by="class" if by_class else "instance", fill=fill)
    return {"uri": png_uri(canvas), "width": width, "height": height}


def _fitted(size: Size, longest: int) -> Size:
    """Scale a size (h, w) so that its longer side is ``longest``; no pixel stays none."""
    if 0 in size:
        return size
    factor = longest / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _scaled(cells: Instances, size: Size) -> Instances:
    """Bring instances to another size (h, w) of their image, without those that have no pixel.

    Each new pixel is what lies under its centre. So outlines stay one pixel wide, and the image
    never lies in memory, however large. An instance between all centres keeps one pixel.
    """
    cells = cells[cells.areas > 0]
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size, cells.size, strict=True)
    )
    x0, y0, x1, y1 = cells.boxes.T
    left, right = np.searchsorted(columns, (x0, x1))
    top, bottom = np.searchsorted(rows, (y0, y1))
    boxes = np.stack([left, top, right, bottom], axis=1).astype(np.int32)
    crops = []
    for i, (x, y) in enumerate(cells.boxes[:, :2]):
        inside = np.ix_(rows[top[i] : bottom[i]] - y, columns[left[i] : right[i]] - x)
        crop = cells.crop(i)[inside] >= cells.cut
        if not crop.any():
            across, down = min(left[i], size[1] - 1), min(top[i], size[0] - 1)
            boxes[i] = across, down, across + 1, down + 1
            crop = np.ones((1, 1), np.bool_)
        crops.append(crop)
    return Instances.from_crops(size, boxes, crops, cells.scores, cells.classes, cells.names)


def _examples(dataset: Dataset) -> list[Sample]:
    """Choose an image of each class, then any, up to four; those with file and cells first."""
    able = [sample for sample in dataset if 0 not in sample.size]
    able.sort(key=lambda s: (s.image_path is None, not s.instances))
    chosen: list[Sample] = []
    seen: set[int] = set()
    for index in range(len(dataset.names)):
        if index not in seen:
            first = [sample for sample in able if index in _shown(sample, dataset.names)][:1]
            chosen += first
            seen |= {i for sample in first for i in _shown(sample, dataset.names)}
    return [*chosen, *(sample for sample in able if sample not in chosen)][:_PICTURES]


def _thumbnail(sample: Sample, by_class: bool) -> dict[str, Any]:
    """Draw an image, with its caption; ``fault`` says why it cannot be read, if so."""
    size, cells = _fitted(sample.size, _THUMBNAIL), sample.instances
    fault = ""
    try:
        canvas = _small(sample, size)
    except Exception as error:  # whatever is wrong with one file, all else is shown
        canvas, fault = np.zeros((*size, 3), np.uint8), str(error) or type(error).__name__
    parts = [
        sample.id,
        sample.image_class,
        "not annotated" if cells is None else _number(len(cells), "instance"),
        "the image cannot be read" if fault else None,
    ]
    return {
        "caption": ", ".join(filter(None, parts)),
        "fault": fault,
        **_drawn(canvas, cells, by_class, _FILL if fault else 0.0),
    }


def _small(sample: Sample, size: Size) -> RGB:
    """Read an image, scale it, and stretch its contrast if it is gray.

    Raises:
        SomasegError: it cannot be read, or has values that are not finite.
    """
    # Of a large image every n-th pixel will do: all of them may not fit into memory.
    step = max(1, max(sample.size) // (4 * _THUMBNAIL))
    image = np.asarray(sample.image(mapped=True)[::step, ::step])
    if not np.isfinite(image).all():
        raise SomasegError(f"{sample.image_path}: has values that are not finite")
    rgb = to_rgb(image if image.ndim == 3 else to_gray(image))
    way = cv2.INTER_AREA if size < image.shape[:2] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, size[::-1], interpolation=way), np.uint8)
