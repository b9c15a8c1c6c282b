"""CV against the leaderboard, as a picture and in words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from somaseg.scoring.agreement import Agreement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 10  # so many entries can all be named

Points = Sequence[tuple[str, float, float]]
"""Name, CV and leaderboard score of each entry."""


def agreement_text(board: str, found: Agreement) -> str:
    """Say how CV and a board go together, in one line; warnings are apart (``found.warnings``)."""
    parts = [f"{found.n} entries have CV and a {board} score"]
    for name, r in (("Pearson", found.pearson), ("Spearman", found.spearman)):
        if r:
            parts.append(f"{name} {r.value:+.2f} [{r.low:+.2f}, {r.high:+.2f}]")
    spread = "" if found.gap_spread is None else f" ± {found.gap_spread:.3f}"
    parts.append(f"gap {board} − CV {found.gap:+.3f}{spread}")
    if found.slope is not None:
        parts.append(
            f"{board} ≈ {found.intercept:.3f} {found.slope:+.2f} · CV (± {found.residual:.3f})"
        )
    return "; ".join(parts)


def agreement_figure(
    boards: Mapping[str, tuple[Points, Agreement]], cv: str = "CV", current: str | None = None
) -> "Figure":
    """Draw the leaderboard's scores over CV, one panel a board.

    The grey line is where both are the same, the orange one the least-squares line; entries far
    off the robust line are ringed, the current one is a star. They, and all entries where there are
    few, have a number and their name below.

    Args:
        boards: for each board its points, one or more, and what was computed of them.
        cv: name of the horizontal axis.
        current: name of the entry to mark, if it is among the points.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(boards), 4.6), layout="constrained")
    for axes, (board, (points, found)) in zip(
        figure.subplots(1, len(boards), squeeze=False)[0], boards.items(), strict=True
    ):
        names, x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=28, color="C0", zorder=3)
        axes.axline((x[0], x[0]), slope=1, color="0.75", lw=1, label="equal")
        if found.slope is not None and found.intercept is not None:
            ends = [min(x), max(x)]
            line = [found.intercept + found.slope * value for value in ends]
            axes.plot(
                ends, line, color="C1", label=f"{found.intercept:.3f} {found.slope:+.2f} {cv}"
            )
        for i in found.outliers:
            axes.scatter(x[i], y[i], s=110, facecolors="none", edgecolors="C3", zorder=4)
        mine = [i for i, name in enumerate(names) if name == current]
        if mine:
            at = [x[i] for i in mine], [y[i] for i in mine]
            axes.scatter(*at, s=170, marker="*", color="C2", zorder=5, label="this run")
        few = len(points) <= _NAMED
        named = range(len(points)) if few else sorted({*found.outliers, *mine})
        for number, i in enumerate(named, 1):
            axes.annotate(f"{number}", (x[i], y[i]), (5, 5), textcoords="offset points", fontsize=9)
        key = "\n".join(f"{number}  {names[i]}" for number, i in enumerate(named, 1))
        r = f", r = {found.pearson.value:+.2f}" if found.pearson else ""
        # A name may hold a dollar, which must not begin a formula.
        axes.set_xlabel(f"{cv}\n\n{key}" if key else cv, fontsize=9, parse_math=False)
        axes.set(ylabel=f"{board} leaderboard", title=f"{found.n} entries{r}")
        axes.margins(0.15)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure
