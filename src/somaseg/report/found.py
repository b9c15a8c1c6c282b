"""A page of what was found: one HTML file with pictures, outlines, a table and charts."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from somaseg.files import atomic_path
from somaseg.instances import Instances
from somaseg.masks.outlines import outline
from somaseg.report.html import in_figure, jpeg_uri, stream, svg_uri
from somaseg.report.overlays import CLASS_COLOURS, WHITE, to_rgb

SHOWN = 60
"""Most images with a picture on the page: it stays small enough to be mailed."""
SIDE = 800
"""Longest side of a picture, in pixels."""

Image = npt.NDArray[Any]


def write_found(
    path: str | Path,
    ids: Sequence[str],
    image: Callable[[str], Image],
    cells: Callable[[str], Instances],
    title: str,
    notes: Sequence[str] = (),
) -> None:
    """Write the page, an image at a time, so that memory does not grow with their number.

    Of more than :data:`SHOWN` images a picture is shown of that many, spread evenly; the table has
    them all.

    Args:
        path: the HTML file.
        ids: of the images.
        image: reads one, (h, w) or (h, w, 3).
        cells: reads its final instances. Asked twice: for the table, then for the pictures.
        title: of the page.
        notes: what the reader should know, a paragraph each.

    Raises:
        SomasegError: an image cannot be read, or the file not written.
    """
    head, rows, total, areas = _table(ids, cells)
    names = list(total)
    picked = [ids[round(i)] for i in np.linspace(0, len(ids) - 1, min(len(ids), SHOWN))]
    picked = list(dict.fromkeys(picked))
    told = list(notes)
    if len(picked) < len(ids):
        told.append(f"Pictures of {len(picked)} of the {len(ids)} images; the table has them all.")
    by_class = ", ".join(f"{count} {name}" for name, count in total.items())
    summary = f"{len(ids)} images, {sum(total.values())} cells" + (f": {by_class}" if names else "")
    anchors = {name: f"image-{k}" for k, name in enumerate(picked)}
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        parts = stream(
            "found",
            title=title,
            summary=f"{summary}.",
            notes=told,
            head=head,
            rows=rows,
            shown=anchors,
            charts=_charts(rows, head, areas),
            keys=[{"name": n, "colour": _colour(k)} for k, n in sorted(areas)],
            shots=(_shot(anchors[name], name, image(name), cells(name)) for name in picked),
        )
        file.writelines(parts)


def _table(
    ids: Sequence[str], cells: Callable[[str], Instances]
) -> tuple[list[str], list[list[str]], Counter[str], dict[tuple[int, str], list[float]]]:
    """Head and rows of the table; cells of each class; their areas by place and name of class."""
    found: list[tuple[str, Counter[str], float, float]] = []
    total: Counter[str] = Counter()
    areas: dict[tuple[int, str], list[float]] = {}
    for name in ids:
        one = cells(name)
        sizes = one.areas
        counts: Counter[str] = Counter()
        for k, area in zip(one.classes.tolist(), sizes.tolist(), strict=True):
            kind = one.names[k] if k >= 0 else "unknown"
            counts[kind] += 1
            areas.setdefault((k, kind), []).append(float(area))
        total += counts
        medians = (np.median(sizes), np.median(one.scores)) if len(one) else (np.nan, np.nan)
        found.append((name, counts, float(medians[0]), float(medians[1])))
    classes = list(total)
    head = [
        "image",
        "cells",
        *(classes if len(classes) > 1 else ()),
        "median area, px",
        "median score",
    ]
    rows = [
        [
            name,
            str(counts.total()),
            *(str(counts[kind]) for kind in (classes if len(classes) > 1 else ())),
            "" if np.isnan(area) else f"{area:.0f}",
            "" if np.isnan(score) else f"{score:.2f}",
        ]
        for name, counts, area, score in found
    ]
    return head, rows, total, areas


def _colour(place: int) -> str:
    rgb = CLASS_COLOURS[place % len(CLASS_COLOURS)] if place >= 0 else WHITE
    return "#" + "".join(f"{value:02x}" for value in rgb)


def _charts(
    rows: Sequence[Sequence[str]], head: Sequence[str], areas: dict[tuple[int, str], list[float]]
) -> Iterator[dict[str, str]]:
    """How many cells images have, and how large cells are, by class."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    if not areas:
        return
    counts = [int(row[1]) for row in rows]
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(counts, bins=min(30, max(counts) + 1), color="#0072b2")
    axes.set(xlabel="cells in an image", ylabel="images")
    for axis in (axes.xaxis, axes.yaxis):  # there are no half cells
        axis.set_major_locator(MaxNLocator(integer=True))
    yield {"uri": svg_uri(figure), "title": "Cells in an image"}
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    largest = max(max(values) for values in areas.values())
    bins = np.geomspace(max(min(min(values) for values in areas.values()), 1), largest + 1, 30)
    for (place, name), values in sorted(areas.items()):
        label = in_figure(name)
        axes.hist(values, bins=bins.tolist(), histtype="step", color=_line(place), label=label)
    axes.set(xscale="log", xlabel="area of a cell, pixels", ylabel="cells")
    # Numbers as people write them, and none over another.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    yield {"uri": svg_uri(figure), "title": "Areas of cells, by class"}


def _line(place: int) -> str:
    """Colour of a line on white: white itself would not be seen."""
    return _colour(place) if place >= 0 else "#555555"


def _shot(anchor: str, name: str, image: Image, cells: Instances) -> dict[str, Any]:
    """A picture and the outlines over it."""
    height, width = cells.size
    rgb = to_rgb(image)
    shrink = min(1.0, SIDE / max(height, width))
    if shrink < 1:
        size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return {
        "anchor": anchor,
        "name": name,
        "cells": len(cells),
        "width": width,
        "height": height,
        "uri": jpeg_uri(rgb),
        "outlines": [
            {
                "d": _path(cells, i),
                "colour": _colour(int(cells.classes[i])),
                "score": int(cells.scores[i] * 100),
            }
            for i in range(len(cells))
        ],
    }


def _path(cells: Instances, i: int) -> str:
    """Outline of a cell as an SVG path; relative steps, which are short."""
    corner = (int(cells.boxes[i, 0]), int(cells.boxes[i, 1]))
    parts = []
    for polygon in outline(cells.crop(i), corner):
        for ring in polygon:
            steps = np.diff(ring, axis=0)
            parts.append(
                f"M{ring[0, 0]} {ring[0, 1]}"
                + "".join(f"h{dx}" if dx else f"v{dy}" for dx, dy in steps.tolist())
                + "z"
            )
    return "".join(parts)
