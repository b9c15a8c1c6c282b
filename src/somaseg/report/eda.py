"""The EDA page: what a data set looks like, in pictures, distributions and figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from somaseg.data.fingerprint import (
    PERCENTILES,
    Fingerprint,
    Group,
    ImageFacts,
    Quantiles,
    diameters,
    measure,
    summarise,
)
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import write_text
from somaseg.report.html import png_uri, render, svg_uri
from somaseg.report.overlays import CLASS_COLOURS, contact_sheet, overlay, to_rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WINDOW = (360, 480)  # (height, width) of the part of an image that an example shows
Colour = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class _Kind:
    """The images of one class, or of all: what is drawn in one colour."""

    name: str
    index: int | None
    colour: Colour
    facts: Sequence[ImageFacts]
    group: Group

    def of_cells(self, values: Callable[[ImageFacts], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """One value for each cell of this kind, (n,)."""
        parts = [values(fact)[self.rows(fact)] for fact in self.facts]
        return np.concatenate([np.zeros(0), *parts])

    def rows(self, fact: ImageFacts) -> npt.NDArray[np.bool_]:
        if self.index is None:
            return np.ones(len(fact.areas), np.bool_)
        return fact.classes == self.index

    def of_images(self, value: Callable[[ImageFacts, int | None], float]) -> list[float]:
        """One value for each annotated image, NaN left out."""
        values = [value(fact, self.index) for fact in self.facts if fact.annotated]
        return [number for number in values if np.isfinite(number)]


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
        "charts": _charts(kinds, fingerprint.pixel_size),
        "examples": [group for kind in kinds if (group := _examples(dataset, kind, examples))],
    }


def _kinds(dataset: Dataset, facts: Sequence[ImageFacts], fingerprint: Fingerprint) -> list[_Kind]:
    kinds = []
    for index, name in enumerate(dataset.names):
        if name in fingerprint.by_class:
            r, g, b = CLASS_COLOURS[index % len(CLASS_COLOURS)]
            own = [fact for fact in facts if fact.shows(index, name)]
            kinds.append(
                _Kind(name, index, (r / 255, g / 255, b / 255), own, fingerprint.by_class[name])
            )
    return kinds or [_Kind("all images", None, (0.3, 0.3, 0.3), facts, fingerprint.overall)]


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


def _table(kinds: Sequence[_Kind], fingerprint: Fingerprint) -> dict[str, Any]:
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


# Charts.


def _charts(kinds: Sequence[_Kind], pixel_size: float | None) -> list[dict[str, str]]:
    charts = []
    if any(kind.group.cells for kind in kinds):
        charts += [
            _chart(
                "Cells an image",
                "Each dot is one image; the line is the median.",
                lambda ax: _dots(ax, kinds, lambda k: k.of_images(_n_cells), "cells", log=True),
            ),
            _chart(
                "Cell diameter",
                "Diameter of a disc of the cell's area; each class has the same area in the chart.",
                lambda ax: _histogram(ax, kinds, pixel_size),
            ),
            _chart(
                "Density",
                "Share of the image that cells cover.",
                lambda ax: _dots(ax, kinds, lambda k: k.of_images(_density), "density, %"),
            ),
            _chart(
                "Touching",
                "Share of an image's cells that meet another one.",
                lambda ax: _dots(ax, kinds, _touching, "touching, %"),
            ),
        ]
    if any(kind.group.overlap and kind.group.overlap.max > 0 for kind in kinds):
        charts.append(
            _chart(
                "Overlap",
                "Share of the cells' pixels that a second cell covers.",
                lambda ax: _dots(ax, kinds, lambda k: k.of_images(_overlap), "overlap, %"),
            )
        )
    if any(kind.group.intensity for kind in kinds):
        charts.append(
            _chart(
                "Gray values",
                "Gray value at each percentile of an image: mean over the images, with one "
                "standard deviation.",
                lambda ax: _intensity(ax, kinds),
            )
        )
    if any(kind.group.contrast for kind in kinds):
        charts.append(
            _chart(
                "Contrast and texture",
                "Each dot is one image. Left of zero the cells are darker than the background; "
                "above one they are more structured.",
                lambda ax: _visibility(ax, kinds),
            )
        )
    return charts


def _chart(title: str, caption: str, draw: "Callable[[Axes], None]") -> dict[str, str]:
    # The object interface of matplotlib: no global state, no display, any thread.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.0))
    ax = figure.subplots()
    draw(ax)
    ax.set_title(title, loc="left", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    return {"title": title, "caption": caption, "uri": svg_uri(figure)}


def _n_cells(fact: ImageFacts, index: int | None) -> float:
    return float(len(fact.areas) if index is None else np.count_nonzero(fact.classes == index))


def _density(fact: ImageFacts, index: int | None) -> float:
    return 100 * fact.regions[index].density if index in fact.regions else 0.0


def _overlap(fact: ImageFacts, index: int | None) -> float:
    return 100 * fact.regions[index].overlap if index in fact.regions else np.nan


def _touching(kind: _Kind) -> list[float]:
    return [
        100 * float(fact.touching[rows].mean())
        for fact in kind.facts
        if (rows := kind.rows(fact)).any()
    ]


def _dots(
    ax: "Axes",
    kinds: Sequence[_Kind],
    values: Callable[[_Kind], list[float]],
    label: str,
    log: bool = False,
) -> None:
    """One row of dots for each class, scattered a little so that they do not hide each other."""
    rng = np.random.default_rng(0)
    for row, kind in enumerate(kinds):
        numbers = np.array(values(kind), np.float64)
        if len(numbers) == 0:
            continue
        height = row + rng.uniform(-0.25, 0.25, len(numbers))
        ax.scatter(numbers, height, s=14, color=kind.colour, alpha=0.7, linewidths=0)
        ax.plot([np.median(numbers)] * 2, [row - 0.38, row + 0.38], color="#222", lw=1.2)
    if log:
        ax.set_xscale("symlog", linthresh=10)
        from matplotlib.ticker import ScalarFormatter

        ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_xlim(left=0)
    ax.set_yticks(range(len(kinds)), [kind.name for kind in kinds])
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    ax.set_xlabel(label)


def _histogram(ax: "Axes", kinds: Sequence[_Kind], pixel_size: float | None) -> None:
    unit, scale = ("px", 1.0) if pixel_size is None else ("µm", pixel_size)
    sizes = [scale * diameters(kind.of_cells(lambda fact: fact.areas)) for kind in kinds]
    known = np.concatenate(sizes)
    # Sizes of cells are nearly log-normal: bins of equal width in the logarithm.
    bins = np.geomspace(known.min() * 0.98, known.max() * 1.02, 41).tolist()
    for kind, size in zip(kinds, sizes, strict=True):
        if len(size):
            weights = np.full(len(size), 1 / len(size))
            ax.hist(
                size, bins, weights=weights, histtype="stepfilled", color=kind.colour, alpha=0.25
            )
            ax.hist(
                size, bins, weights=weights, histtype="step", color=kind.colour, label=kind.name
            )
    ax.set_xscale("log")
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if bins[0] <= t <= bins[-1]]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"diameter, {unit}")
    ax.legend(frameon=False)


def _intensity(ax: "Axes", kinds: Sequence[_Kind]) -> None:
    places = np.arange(len(PERCENTILES))
    for kind in kinds:
        rows = [fact.percentiles for fact in kind.facts if len(fact.percentiles)]
        if rows:
            mean, std = np.mean(rows, axis=0), np.std(rows, axis=0)
            ax.plot(places, mean, "o-", ms=3, color=kind.colour, label=kind.name)
            ax.fill_between(places, mean - std, mean + std, color=kind.colour, alpha=0.2, lw=0)
    ax.set_xticks(places, [f"{p:g}" for p in PERCENTILES])
    ax.set_xlabel("percentile of the pixels")
    ax.set_ylabel("gray value")
    ax.legend(frameon=False)


def _visibility(ax: "Axes", kinds: Sequence[_Kind]) -> None:
    for kind in kinds:
        regions = [f.regions[kind.index] for f in kind.facts if kind.index in f.regions]
        x, y = [r.contrast for r in regions], [r.texture for r in regions]
        ax.scatter(x, y, s=16, color=kind.colour, alpha=0.7, linewidths=0, label=kind.name)
    ax.axvline(0, color="#aaa", lw=0.8)
    ax.axhline(1, color="#aaa", lw=0.8)
    ax.set_xlabel("contrast")
    ax.set_ylabel("texture")
    ax.legend(frameon=False)


# Pictures.


def _examples(dataset: Dataset, kind: _Kind, n: int) -> dict[str, Any] | None:
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
        "uri": png_uri(contact_sheet([part, drawn], columns=2)),
        "caption": f"{sample.id}: {len(cells)} cells in the image, {len(inside)} in the part shown",
    }
