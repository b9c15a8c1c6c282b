"""Charts of a data set: distributions by class, as SVG."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from somaseg.data.facts import PERCENTILES, ImageFacts, diameters
from somaseg.data.fingerprint import Group
from somaseg.report.html import in_figure, svg_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Colour = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Kind:
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
        """Which of an image's cells are of this kind, (n,)."""
        if self.index is None:
            return np.ones(len(fact.areas), np.bool_)
        return fact.classes == self.index

    def of_images(self, value: Callable[[ImageFacts, int | None], float]) -> list[float]:
        """One value for each annotated image, NaN left out."""
        values = [value(fact, self.index) for fact in self.facts if fact.annotated]
        return [number for number in values if np.isfinite(number)]


def data_charts(kinds: Sequence[Kind], pixel_size: float | None) -> list[dict[str, str]]:
    """Draw all charts for which the data have figures: title, caption and address of each.

    Args:
        kinds: what is drawn in one colour each.
        pixel_size: in µm, or none if it isn't known: sizes are in pixels then.
    """
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


def _touching(kind: Kind) -> list[float]:
    return [
        100 * float(fact.touching[rows].mean())
        for fact in kind.facts
        if (rows := kind.rows(fact)).any()
    ]


def _dots(
    ax: "Axes",
    kinds: Sequence[Kind],
    values: Callable[[Kind], list[float]],
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
    ax.set_yticks(range(len(kinds)), [in_figure(kind.name) for kind in kinds])
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    ax.set_xlabel(label)


def _histogram(ax: "Axes", kinds: Sequence[Kind], pixel_size: float | None) -> None:
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
                size,
                bins,
                weights=weights,
                histtype="step",
                color=kind.colour,
                label=in_figure(kind.name),
            )
    ax.set_xscale("log")
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if bins[0] <= t <= bins[-1]]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"diameter, {unit}")
    ax.legend(frameon=False)


def _intensity(ax: "Axes", kinds: Sequence[Kind]) -> None:
    places = np.arange(len(PERCENTILES))
    for kind in kinds:
        rows = [fact.percentiles for fact in kind.facts if len(fact.percentiles)]
        if rows:
            mean, std = np.mean(rows, axis=0), np.std(rows, axis=0)
            ax.plot(places, mean, "o-", ms=3, color=kind.colour, label=in_figure(kind.name))
            ax.fill_between(places, mean - std, mean + std, color=kind.colour, alpha=0.2, lw=0)
    ax.set_xticks(places, [f"{p:g}" for p in PERCENTILES])
    ax.set_xlabel("percentile of the pixels")
    ax.set_ylabel("gray value")
    ax.legend(frameon=False)


def _visibility(ax: "Axes", kinds: Sequence[Kind]) -> None:
    for kind in kinds:
        regions = [f.regions[kind.index] for f in kind.facts if kind.index in f.regions]
        x, y = [r.contrast for r in regions], [r.texture for r in regions]
        ax.scatter(
            x, y, s=16, color=kind.colour, alpha=0.7, linewidths=0, label=in_figure(kind.name)
        )
    ax.axvline(0, color="#aaa", lw=0.8)
    ax.axhline(1, color="#aaa", lw=0.8)
    ax.set_xlabel("contrast")
    ax.set_ylabel("texture")
    ax.legend(frameon=False)
