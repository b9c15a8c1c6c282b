"""Printing scores, and reading class weights."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from somaseg.decide import Decision


def parse_weights(text: str | None, option: str = "--weights") -> dict[str, float] | None:
    """Read ``cort=320,astro=131``. That names and numbers fit is checked where they are used.

    Raises:
        SomasegError: an entry is no ``name=number``, or a name comes twice.
    """
    from somaseg.errors import SomasegError

    if text is None:
        return None
    found: dict[str, float] = {}
    for entry in map(str.strip, text.split(",")):
        name, _, value = entry.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            name = ""
        if not name:
            raise SomasegError(
                f"{option}: {entry!r} is no name=number; write for instance "
                "cort=320,shsy5y=155,astro=131"
            )
        if name in found:
            raise SomasegError(f"{option}: class {name!r} comes twice; give it once")
        found[name] = number
    return found


def print_run_scores(scores: "Decision", title: str) -> None:
    """Print a run's out-of-fold scores by class, and the settings that were tuned."""
    from rich.table import Table

    from somaseg.cli.console import Console

    columns = {kind: getattr(scores, kind) for kind in ("untuned", "nested", "optimistic")}
    if scores.rescored is not None:
        columns["rescored"] = scores.rescored.nested
    table = Table(
        "class", "images", *columns, title=f"{title}: mAP out of fold", title_justify="left"
    )
    for name, part in scores.nested.classes.items():
        by_kind = [f"{column.classes[name].score:.3f}" for column in columns.values()]
        table.add_row(name, str(part.images), *by_kind)
    table.add_section()
    count = str(len(scores.nested.images))
    table.add_row("all images", count, *(f"{column.map:.3f}" for column in columns.values()))
    if scores.nested.weights is not None:
        weighted = (f"{column.weighted or 0:.3f}" for column in columns.values())
        table.add_row("weighted", "", *weighted)
    console = Console()
    console.print(table)
    console.print(
        "untuned: default settings; nested: each fold with settings tuned on the others, the score "
        "to expect of new images; optimistic: tuned on the images that are scored"
    )
    if scores.tuned.dealt:
        console.print("all images are of one fold: dealt into folds for the nested estimate")
    tuned = scores.tuned
    if scores.rescored is not None:
        if scores.rescoring_helps:
            tuned = scores.rescored.tuned
            what = "better than nested: kept, and used by `somaseg predict --model RUN`"
        else:
            what = "no better than nested: left out"
        console.print(f"rescored: nested, too, with learned scores; {what}")
    console.print(f"{tuned.tried} settings tried")
    for name, chosen in tuned.settings.items():
        most = "any" if chosen.max_area is None else chosen.max_area
        offset = "" if not any(chosen.offset) else "; annotations lie {:+g} px down, {:+g} px right"
        offset = offset.format(*chosen.offset)
        console.print(
            f"  {name}: score {chosen.score:g}, mask threshold {chosen.mask_threshold:g}, "
            f"NMS IoU {chosen.nms_iou:g}, area {chosen.min_area} to {most}, "
            f"overlaps {chosen.order.replace('_', ' ')}{offset}"
        )
