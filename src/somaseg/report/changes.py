"""What cleaning changed: a table, and pictures of before and after."""

from collections.abc import Sequence
from pathlib import Path

from somaseg.data.clean import Change
from somaseg.data.tables import csv_text
from somaseg.data.types import Dataset
from somaseg.files import file_name, write_text
from somaseg.report.overlays import contact_sheet, overlay, to_rgb, write_png

MARGIN = 24
"""Pixels shown around what changed."""
SCALE = 3


def write_changes(path: str | Path, changes: Sequence[Change]) -> None:
    """Write every change as a row of a CSV, whole or not at all."""
    header = ("image", "instance", "kind", "what", "x0", "y0", "x1", "y1")
    rows = [(c.image, c.row, c.kind, c.what, *c.box) for c in changes]
    write_text(path, csv_text(header, rows))


def draw_changes(
    folder: str | Path, before: Dataset, after: Dataset, changes: Sequence[Change], most: int = 12
) -> int:
    """Draw changes, before on the left and after on the right: ``KIND-IMAGE-ROW.png``.

    Args:
        folder: for the pictures; made if there is one to draw.
        before, after: the data set and its mended copy.
        changes: of these; those of images without a file are left out.
        most: pictures of each kind; they are spread evenly over the changes.

    Returns:
        how many were drawn.
    """
    drawn = 0
    kinds: dict[str, list[Change]] = {}
    for change in changes:
        if before[change.image].image_path is not None:
            kinds.setdefault(change.kind, []).append(change)
    for kind, own in kinds.items():
        step = max(1, -(-len(own) // most)) if most else len(own) + 1
        for change in own[::step] if most else []:
            image = before[change.image].image()
            x0, y0 = max(change.box[0] - MARGIN, 0), max(change.box[1] - MARGIN, 0)
            x1 = min(change.box[2] + MARGIN, image.shape[1])
            y1 = min(change.box[3] + MARGIN, image.shape[0])
            part = to_rgb(image)[y0:y1, x0:x1]
            pictures = []
            for dataset in (before, after):
                cells = dataset[change.image].annotated()
                inside, _ = cells.window(part.shape[:2], (-x0, -y0))
                pictures.append(overlay(part, inside, color_by="instance", fill=0.25, scale=SCALE))
            name = f"{kind}-{file_name(change.image)}-{change.row}.png"
            write_png(Path(folder) / name, contact_sheet(pictures, ["before", "after"], columns=2))
            drawn += 1
    return drawn
