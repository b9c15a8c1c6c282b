"""The figures of ``somaseg data info``: of each class and of all."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from somaseg.data.fingerprint import Fingerprint, Group


def figures(group: "Group") -> dict[str, Any]:
    """Return what is told of a class, or of all: areas and diameters are medians, in pixels."""
    cells = group.cells_per_image
    return {
        "images": group.images,
        "annotated": group.annotated,
        "cells": group.cells,
        "cells_mean": cells.mean if cells else 0.0,
        "cells_max": int(cells.max) if cells else 0,
        "area_median": group.area.median if group.area else None,
        "diameter_median": 2 * math.sqrt(group.area.median / math.pi) if group.area else None,
        "overlap_share": group.overlap_share,
    }


def info_table(title: str, facts: "Fingerprint") -> "Table":
    """Tabulate the figures."""
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        caption="mean and max: cells an image; area (px), diameter (px) of its circle: medians; "
        "overlap: share of the foreground that several cells claim",
        caption_justify="left",
    )
    table.add_column("class")
    columns = ("images", "annotated", "cells", "mean", "max", "area", "diameter", "overlap")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    rows = list(facts.by_class.items()) if len(facts.by_class) > 1 else []
    for name, figures in rows:
        table.add_row(name, *_figure_cells(figures))
    if rows:
        table.add_section()
    only = next(iter(facts.by_class), "all")
    table.add_row("all" if rows else only, *_figure_cells(facts.overall))
    return table


def _figure_cells(group: "Group") -> list[str]:
    told = figures(group)
    area, diameter = told["area_median"], told["diameter_median"]
    return [
        *(str(told[name]) for name in ("images", "annotated", "cells")),
        f"{told['cells_mean']:.1f}",
        str(told["cells_max"]),
        "–" if area is None else f"{area:.0f}",
        "–" if diameter is None else f"{diameter:.1f}",
        f"{told['overlap_share']:.1%}",
    ]
