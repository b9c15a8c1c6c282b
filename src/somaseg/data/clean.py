"""Mend annotations: a changed copy of a data set, and a list of every change.

Two kinds of faults. Some show in the annotations alone: holes, stray pieces, slivers, two masks of
one cell. Others show only where a model that has not seen the image disagrees with them: a mask
that lies a few pixels off, or one mask drawn around several cells. The latter are mended only with
such predictions, and only where these are sure of themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import binary_erosion, distance_transform_edt

from somaseg.data.types import Dataset
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.flat import Bools
from somaseg.masks.overlap import iou_pairs
from somaseg.masks.paste import paste
from somaseg.masks.pieces import fill_holes, label_pieces

Kind = Literal["holes", "pieces", "sliver", "duplicate", "shifted", "merged"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class CleanSettings(BaseModel):
    """What may be mended, and from where on something counts as a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    holes: bool = Field(True, description="fill the holes of masks")
    pieces: float = Field(
        0.25, ge=0, le=1, description="drop pieces below this share of a mask's largest; 0: none"
    )
    slivers: int = Field(
        3, ge=0, description="drop masks that are nowhere this many pixels wide; 0: none"
    )
    duplicates: float = Field(
        0.5, gt=0, le=1, description="of two masks above this IoU drop the smaller; 1: none"
    )
    shifts: int = Field(
        8, ge=0, description="move a mask by up to this many pixels onto a prediction; 0: none"
    )
    merged: bool = Field(True, description="cut masks drawn around several predicted cells apart")
    confidence: float = Field(
        0.5, ge=0, le=1, description="lowest score of predictions that annotations are held against"
    )


@dataclass(frozen=True)
class Change:
    """One thing that was mended.

    Attributes:
        image: its id.
        kind: of fault.
        row: of the instance in the annotation as it was.
        box: x0 y0 x1 y1 around what changed, in pixels.
        what: what was done, in a few words.
    """

    image: str
    kind: Kind
    row: int
    box: tuple[int, int, int, int]
    what: str


def clean(
    dataset: Dataset,
    settings: CleanSettings | None = None,
    found: Mapping[str, Instances] | None = None,
) -> tuple[Dataset, list[Change]]:
    """Mend every annotated image.

    Args:
        dataset: images; those without annotation stay as they are.
        settings: what may be mended.
        found: final predictions by image id, by models that have not seen the image (as out of
            fold); without, shifted and merged masks are not looked for.

    Returns:
        The data set with other instances, in the old sequence but for those that are dropped or
        cut apart; and the changes, image by image.

    Raises:
        SomasegError: a prediction of another size than its image.
    """
    settings = settings or CleanSettings()
    samples, changes = [], []
    for sample in dataset:
        if sample.instances is None:
            samples.append(sample)
            continue
        predicted = (found or {}).get(sample.id)
        if predicted is not None and predicted.size != sample.size:
            raise SomasegError(
                f"image {sample.id}: {sample.size[1]}×{sample.size[0]} pixels, but predicted on "
                f"{predicted.size[1]}×{predicted.size[0]}"
            )
        mended, made = clean_image(sample.id, sample.instances, settings, predicted)
        changes += made
        samples.append(replace(sample, instances=mended))
    return Dataset(tuple(samples), dataset.names, dataset.source, dataset.pixel_size), changes


def clean_image(
    image: str, cells: Instances, settings: CleanSettings, found: Instances | None = None
) -> tuple[Instances, list[Change]]:
    """Mend the annotation of one image; see :func:`clean`."""
    bench = _Bench(image, cells)
    if settings.holes:
        bench.fill_holes()
    if settings.pieces:
        bench.drop_pieces(settings.pieces)
    if settings.slivers:
        bench.drop_slivers(settings.slivers)
    if settings.duplicates < 1:
        bench.drop_duplicates(settings.duplicates)
    if found is not None:
        sure = found[found.scores >= settings.confidence]
        if settings.merged:
            bench.cut_merged(sure)
        if settings.shifts:
            bench.move(sure, settings.shifts)
    return bench.cells, bench.changes


class _Bench:
    """The annotation of one image while it is being mended."""

    def __init__(self, image: str, cells: Instances) -> None:
        self.image, self.cells = image, cells
        self.rows = np.arange(len(cells))  # of the annotation as it was
        self.changes: list[Change] = []

    def note(self, kind: Kind, i: int, what: str) -> None:
        x0, y0, x1, y1 = self.cells.boxes[i].tolist()
        self.changes.append(Change(self.image, kind, int(self.rows[i]), (x0, y0, x1, y1), what))

    def keep(self, kept: Bools) -> None:
        self.cells, self.rows = self.cells[kept], self.rows[kept]

    def fill_holes(self) -> None:
        before = self.cells.areas
        self.cells = self.cells.replace(pixels=fill_holes(*self.cells.flat))
        gained = self.cells.areas - before
        for i in np.flatnonzero(gained):
            self.note("holes", int(i), f"filled {gained[i]} pixels")

    def drop_pieces(self, share: float) -> None:
        numbers, counts = label_pieces(*self.cells.flat)
        pixels = self.cells.pixels.copy()
        for i in np.flatnonzero(counts > 1):
            part = slice(self.cells.offsets[i], self.cells.offsets[i + 1])
            areas = np.bincount(numbers[part], minlength=counts[i] + 1)
            areas[0] = 0
            stray = (areas > 0) & (areas < share * areas.max())
            if stray.any():
                pixels[part][stray[numbers[part]]] = 0
                self.note(
                    "pieces",
                    int(i),
                    f"dropped {stray.sum()} of {counts[i]} pieces, "
                    f"{areas[stray].sum()} of {areas.sum()} pixels",
                )
        self.cells, left = self.cells.replace(pixels=pixels).tightened()
        self.rows = self.rows[left]

    def drop_slivers(self, width: int) -> None:
        kept = np.ones(len(self.cells), bool)
        square = np.ones((width, width), bool)
        for i in range(len(self.cells)):
            # A mask is somewhere `width` wide if a square of that side fits into it.
            crop = self.cells.crop(i) > 0
            kept[i] = bool(binary_erosion(crop, square).any())
            if not kept[i]:
                self.note("sliver", i, f"dropped {crop.sum()} pixels, nowhere {width} wide")
        self.keep(kept)

    def drop_duplicates(self, iou: float) -> None:
        kept = np.ones(len(self.cells), bool)
        i, j, overlap = iou_pairs(self.cells)
        areas = self.cells.areas
        for k in np.argsort(-overlap, kind="stable"):
            if overlap[k] <= iou:
                break
            first, second = int(i[k]), int(j[k])
            if kept[first] and kept[second]:
                smaller = second if areas[second] <= areas[first] else first
                kept[smaller] = False
                other = first + second - smaller
                self.note(
                    "duplicate",
                    smaller,
                    f"dropped: IoU {overlap[k]:.2f} with instance {self.rows[other]}",
                )
        self.keep(kept)

    def cut_merged(self, found: Instances) -> None:
        """Cut masks in which several predictions lie, and which is like none of them."""
        i, j, iou = iou_pairs(self.cells, found)
        shared = iou * (self.cells.areas[i] + found.areas[j]) / (1 + iou)
        inside = shared >= 0.75 * found.areas[j]
        best = np.zeros(len(self.cells))
        np.maximum.at(best, i, iou)
        parts, rows = [], []
        for row in range(len(self.cells)):
            own = np.flatnonzero((i == row) & inside)
            covered = shared[own].sum() / max(self.cells.areas[row], 1)
            if len(own) < 2 or best[row] > 0.5 or covered < 0.5:
                parts.append(self.cells[row])
                rows.append([self.rows[row]])
                continue
            pieces = _shared_out(self.cells, row, found, j[own])
            self.note("merged", row, f"cut into {len(pieces)} cells")
            parts.append(pieces)
            rows.append([self.rows[row]] * len(pieces))
        if parts:
            self.cells, self.rows = Instances.concat(parts), np.concatenate(rows)

    def move(self, found: Instances, reach: int) -> None:
        """Move masks that match a prediction well only once they are moved."""
        i, j, iou = iou_pairs(self.cells, found)
        best = np.zeros(len(self.cells))
        np.maximum.at(best, i, iou)
        parts = []
        for row in range(len(self.cells)):
            near = (i == row) & (iou > 0.1)
            cell = self.cells[row]
            if near.any() and best[row] < 0.6:
                shift, better = _best_shift(cell, found[j[near][iou[near].argmax()]], reach)
                moved, _ = cell.window(cell.size, shift)
                if better > 0.75 and better - best[row] > 0.2 and len(moved):
                    self.note(
                        "shifted",
                        row,
                        f"moved by {shift[0]:+d} {shift[1]:+d} pixels: IoU "
                        f"with the prediction {best[row]:.2f} → {better:.2f}",
                    )
                    cell = moved
            parts.append(cell)
        if parts:
            self.cells = Instances.concat(parts)


def _shared_out(
    cells: Instances, row: int, found: Instances, predictions: npt.NDArray[np.integer]
) -> Instances:
    """Give each pixel of a mask to the nearest of some predictions."""
    box = cells.boxes[row]
    crop = cells.crop(row) > 0
    x0, y0 = int(box[0]), int(box[1])
    near = []
    for k in predictions:
        place = found.boxes[k] - np.array([x0, y0, x0, y0])
        inside = _placed(found.crop(int(k)) >= found.cut, place, crop.shape)
        near.append(distance_transform_edt(~inside))
    owner = np.argmin(near, axis=0)
    masks = [crop & (owner == k) for k in range(len(predictions))]
    masks = [mask for mask in masks if mask.any()]
    return Instances.from_crops(
        cells.size,
        np.repeat(box[None], len(masks), axis=0),
        masks,
        scores=cells.scores[row],
        classes=cells.classes[row],
        names=cells.names,
    ).tightened()[0]


def _placed(crop: Bools, place: npt.NDArray[np.integer], shape: tuple[int, ...]) -> Bools:
    """Lay a crop at ``place`` (x0 y0 x1 y1) on a frame that it may stick out of."""
    frame = np.zeros(shape, bool)
    left, top = max(int(place[0]), 0), max(int(place[1]), 0)
    right, bottom = min(int(place[2]), shape[1]), min(int(place[3]), shape[0])
    if left < right and top < bottom:
        part = crop[top - place[1] : bottom - place[1], left - place[0] : right - place[0]]
        frame[top:bottom, left:right] = part
    return frame


def _best_shift(cell: Instances, other: Instances, reach: int) -> tuple[tuple[int, int], float]:
    """Find the shift (dx, dy) of a mask within ``reach`` that meets another one best; its IoU."""
    boxes = np.concatenate([cell.boxes, other.boxes])
    x0, y0 = boxes[:, :2].min(0) - reach
    x1, y1 = boxes[:, 2:].max(0) + reach
    size = (int(y1 - y0), int(x1 - x0))
    origin = np.array([x0, y0, x0, y0])
    one = paste(cell.crop(0) > 0, cell.boxes[0] - origin, size)
    two = paste(other.crop(0) >= other.cut, other.boxes[0] - origin, size)
    total = int(one.sum()) + int(two.sum())
    best, shift = -1.0, (0, 0)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            shared = int((np.roll(one, (dy, dx), (0, 1)) & two).sum())
            iou = shared / (total - shared)
            # Of equal ones the smallest move.
            if iou > best or (iou == best and dx**2 + dy**2 < shift[0] ** 2 + shift[1] ** 2):
                best, shift = iou, (dx, dy)
    return shift, best
