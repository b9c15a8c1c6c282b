"""The EDA page: what a data set looks like, in pictures, distributions and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from somaseg.data.facts import ImageFacts, measure
from somaseg.data.fingerprint import (
    Fingerprint,
    Group,
    Quantiles,
    summarise,
)
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import write_text
from somaseg.report.eda_charts import Kind, data_charts
from somaseg.report.html import jpeg_uri, render
from somaseg.report.overlays import CLASS_COLOURS, contact_sheet, overlay, to_rgb

_WINDOW = (360, 480)  # (height, width) of the part of an image that an example shows


def write_eda(
    dataset: Dataset, path: str | Path, *, examples: int = 3, workers: int | None = None
) -> Fingerprint:
    """Measure a data set and write the page: one HTML file that needs no other.

    Args:
        dataset: annotated images; annotations without images and images without annotations do,
            with less to show.
        path: file to write, such as ``eda.html``.
        examples: pictures for each class, from images with few to images with many cells.
        workers: threads; all cores by default.

    Returns:
        The fingerprint whose figures the page shows.

    Raises:
        SomasegError: no image, an image that cannot be read, or a file that cannot be written.
    """
    fingerprint, sections = data_sections(dataset, examples=examples, workers=workers)
    page = render(
        "eda",
        title=f"Data set {'/'.join(Path(dataset.source).parts[-2:])}",
        json=fingerprint.model_dump_json(indent=1),
        **sections,
    )
    write_text(path, page)
    return fingerprint


def data_sections(
    dataset: Dataset, *, examples: int = 3, workers: int | None = None
) -> tuple[Fingerprint, dict[str, Any]]:
    """Measure a data set: its fingerprint, and what ``data.html.j2`` shows of it.

    Args and errors as for :func:`write_eda`.
    """
    if len(dataset) == 0:
        raise SomasegError(f"{dataset.source}: holds no image, so there is nothing to show")
    facts = measure(dataset, workers)
    fingerprint = summarise(dataset, facts)
    kinds = _kinds(dataset, facts, fingerprint)
    return fingerprint, {
        "facts": _sentence(fingerprint),
        "notes": _notes(fingerprint),
        "table": _table(kinds, fingerprint),
        "charts": data_charts(kinds, fingerprint.pixel_size),
        "examples": [group for kind in kinds if (group := _examples(dataset, kind, examples))],
    }


def _kinds(dataset: Dataset, facts: Sequence[ImageFacts], fingerprint: Fingerprint) -> list[Kind]:
    kinds = []
    for index, name in enumerate(dataset.names):
        if name in fingerprint.by_class:
            r, g, b = CLASS_COLOURS[index % len(CLASS_COLOURS)]
            own = [fact for fact in facts if fact.shows(index, name)]
            kinds.append(
                Kind(name, index, (r / 255, g / 255, b / 255), own, fingerprint.by_class[name])
            )
    return kinds or [Kind("all images", None, (0.3, 0.3, 0.3), facts, fingerprint.overall)]


# Text and figures.


def _sentence(fingerprint: Fingerprint) -> str:
    sizes = ", ".join(f"{s.width} × {s.height} ({s.images})" for s in fingerprint.sizes[:4])
    more = len(fingerprint.sizes) - 4
    parts = [
        f"{fingerprint.images} images, {fingerprint.annotated} of them annotated",
        f"{fingerprint.overall.cells} cells",
        f"{sizes} pixels{f' and {more} other sizes' if more > 0 else ''}",
        *fingerprint.pixel_types,
    ]
    if fingerprint.pixel_size is not None:
        parts.append(f"{fingerprint.pixel_size:g} µm a pixel")
    return " · ".join(parts)


def _notes(fingerprint: Fingerprint) -> list[str]:
    """Facts that decide between methods, as sentences; only those that the figures support."""
    overall = fingerprint.overall
    if not overall.cells or overall.cells_per_image is None or overall.diameter is None:
        return []
    most = overall.cells_per_image.max
    notes = [
        f"Up to {most:.0f} cells in an image"
        + ("; a detector that stops at 100 would miss most of them." if most > 200 else ".")
    ]
    diameter = {name: g.diameter.median for name, g in fingerprint.by_class.items() if g.diameter}
    if len(diameter) > 1:
        small, large = min(diameter, key=diameter.__getitem__), max(diameter, key=diameter.get)  # type: ignore[arg-type]
        notes.append(
            f"The median cell measures {diameter[small]:.1f} pixels across in {small} and "
            f"{diameter[large]:.1f} in {large}, a ratio of {diameter[large] / diameter[small]:.2f}."
        )
    low, high = overall.diameter.p05, overall.diameter.p95
    notes.append(f"Nine cells in ten are between {low:.1f} and {high:.1f} pixels across.")
    if overall.touching is not None:
        notes.append(
            f"{overall.touching:.0%} of the cells touch another one: connected components of a "
            "foreground mask cannot tell them apart."
        )
    if overall.overlap is not None and overall.overlap.mean > 0:
        notes.append(
            f"{overall.overlap.mean:.1%} of the foreground lies in more than one cell (mean over "
            "the images): label images cannot hold these masks whole."
        )
    return notes


def _table(kinds: Sequence[Kind], fingerprint: Fingerprint) -> dict[str, Any]:
    head = (
        "class", "images", "cells", "cells an image", "diameter, px", "area, px", "density",
        "overlap", "touching", "contrast", "texture",
    )  # fmt: skip
    rows = [
        {
            "name": kind.name,
            "colour": "#" + "".join(f"{round(255 * c):02x}" for c in kind.colour),
            "cells": _cells(kind.group),
        }
        for kind in kinds
    ]
    if len(kinds) > 1:
        rows.append({"name": "all", "colour": "", "cells": _cells(fingerprint.overall)})
    return {"head": head, "rows": rows}


def _cells(group: Group) -> list[tuple[str, str]]:
    return [
        (f"{group.images}", ""),
        (f"{group.cells}", ""),
        _range(group.cells_per_image, ".0f"),
        _range(group.diameter, ".1f"),
        _range(group.area, ".0f"),
        _range(group.density, ".1%"),
        _range(group.overlap, ".1%"),
        ("–" if group.touching is None else f"{group.touching:.0%}", ""),
        _range(group.contrast, ".2f"),
        _range(group.texture, ".2f"),
    ]


def _range(values: Quantiles | None, spec: str) -> tuple[str, str]:
    if values is None:
        return "–", ""
    return f"{values.median:{spec}}", f"{values.p05:{spec}} … {values.p95:{spec}}"


# Pictures.


def _examples(dataset: Dataset, kind: Kind, n: int) -> dict[str, Any] | None:
    """Pictures of images with few, typical and many cells of a class."""
    usable = [fact for fact in kind.facts if fact.annotated and fact.pixel_type is not None]
    usable.sort(key=lambda fact: (np.count_nonzero(kind.rows(fact)), fact.id))
    if not usable or n < 1:
        return None
    places = np.linspace(0, 1, 2 * n + 1)[1::2] * (len(usable) - 1)
    chosen = sorted({round(place) for place in places})
    pictures = [_picture(dataset[usable[place].id]) for place in chosen]
    return {"name": kind.name, "pictures": pictures}


def _picture(sample: Sample) -> dict[str, str]:
    """Show the part of an image with most cells: as it is, and with outlines."""
    cells = sample.annotated()
    height, width = min(_WINDOW[0], sample.size[0]), min(_WINDOW[1], sample.size[1])
    top, left = (sample.size[0] - height) // 2, (sample.size[1] - width) // 2
    if len(cells):
        x, y = np.median((cells.boxes[:, :2] + cells.boxes[:, 2:]) / 2, axis=0)
        top = int(np.clip(y - height / 2, 0, sample.size[0] - height))
        left = int(np.clip(x - width / 2, 0, sample.size[1] - width))
    whole = to_rgb(sample.image())
    part = whole[top : top + height, left : left + width]
    inside, _ = cells.window((height, width), (-left, -top))
    drawn = overlay(part, inside, color_by="instance", fill=0.12)
    return {
        "uri": jpeg_uri(contact_sheet([part, drawn], columns=2)),
        "caption": f"{sample.id}: {len(cells)} cells in the image, {len(inside)} in the part shown",
    }
