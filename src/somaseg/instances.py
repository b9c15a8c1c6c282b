"""Instances: the masks of one image, cropped to their boxes, with scores and classes.

The one container that goes through the whole package. Memory is the sum of the box areas: the
masks of 800 cells take less than a megabyte.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from somaseg import looks
from somaseg.errors import SomasegError
from somaseg.masks import checks, overlap, paste, pieces, resolve, rle
from somaseg.masks import flat as _flat
from somaseg.masks import labels as _labels
from somaseg.masks.flat import Bools, Boxes, Flat, Ints, Pixels, Size
from somaseg.masks.resolve import Order

Scores = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int16]
Index = int | np.integer | slice | Sequence[int] | npt.NDArray[np.integer] | Bools


@dataclass(frozen=True, eq=False, repr=False)
class Instances:
    """n instances of one image. Treat the arrays as read-only.

    Args:
        size: (height, width) of the image in pixels
        boxes: int32 (n, 4), x0 y0 x1 y1, half open, inside the image, at least a pixel large;
            around the mask, not necessarily tight
        pixels: uint8 (sum of the box areas,), the crops row by row, one after the other
        offsets: int64 (n + 1,), crop i is ``pixels[offsets[i]:offsets[i + 1]]``
        scores: float32 (n,), 1 for annotations
        classes: int16 (n,), index into ``names``; -1 is unknown
        names: of the classes
        soft: pixels are 0 … 255 = probability · 255; else they are 0 or 1

    Raises:
        SomasegError: the arrays do not fit each other or the image.
    """

    size: Size
    boxes: Boxes
    pixels: Pixels
    offsets: Ints
    scores: Scores
    classes: Classes
    names: tuple[str, ...] = ()
    soft: bool = False

    def __post_init__(self) -> None:
        size, names = checks.checked_size(self.size), checks.checked_names(self.names)
        flat = checks.checked_flat(self.flat, size, self.soft)
        n = len(flat.boxes)
        self.__dict__.update(  # the class is frozen for others
            size=size,
            names=names,
            scores=checks.checked_scores(self.scores, n),
            classes=checks.checked_classes(self.classes, n, names),
            **flat._asdict(),
        )

    # ---- construction ----

    @classmethod
    def from_flat(
        cls,
        size: Size,
        flat: Flat,
        scores: npt.ArrayLike | None = None,
        classes: npt.ArrayLike | None = None,
        names: Sequence[str] = (),
        soft: bool = False,
    ) -> Self:
        """Instances of boxes, pixels and offsets.

        Args:
            size: (height, width) of the image
            flat: what the functions of ``somaseg.masks`` return
            scores: (n,) or one for all; 1 by default
            classes: (n,) or one for all; by default 0 if there is one name, else -1
            names: of the classes
            soft: pixels are probability · 255
        """
        n = len(flat.boxes)
        if scores is None:
            scores = np.float32(1)
        if classes is None:
            classes = 0 if len(names) == 1 else -1
        return cls(size, *flat, _rows(scores, n), _rows(classes, n), tuple(names), soft)

    @classmethod
    def empty(cls, size: Size, names: Sequence[str] = (), soft: bool = False) -> Self:
        """No instance."""
        return cls.from_flat(size, _flat.from_crops(np.zeros((0, 4)), []), names=names, soft=soft)

    @classmethod
    def from_crops(
        cls,
        size: Size,
        boxes: npt.ArrayLike,
        crops: Sequence[npt.NDArray],
        scores: npt.ArrayLike | None = None,
        classes: npt.ArrayLike | None = None,
        names: Sequence[str] = (),
        soft: bool = False,
    ) -> Self:
        """Instances of boxes (n, 4) and as many crops, uint8 or bool (y1 - y0, x1 - x0)."""
        return cls.from_flat(size, _flat.from_crops(boxes, crops), scores, classes, names, soft)

    @classmethod
    def from_masks(
        cls,
        masks: npt.NDArray,
        scores: npt.ArrayLike | None = None,
        classes: npt.ArrayLike | None = None,
        names: Sequence[str] = (),
        soft: bool = False,
    ) -> Self:
        """Instances of full masks (n, h, w), bool, or uint8 if soft; empty ones are refused."""
        if masks.ndim != 3 or (soft and masks.dtype != np.uint8):
            raise SomasegError(
                f"instances: masks are (n, height, width), uint8 if soft, not {masks.shape} "
                f"{masks.dtype}"
            )
        n, height, width = masks.shape
        boxes = np.tile(np.array([0, 0, width, height], np.int32), (n, 1))
        pixels = np.ascontiguousarray(masks if soft else masks != 0).view(np.uint8).ravel()
        flat, kept = paste.tighten(boxes, pixels, _flat.offsets_of(boxes))
        if len(kept) < n:
            missing = sorted(set(range(n)) - set(kept.tolist()))[0]
            raise SomasegError(f"instances: mask {missing} is empty")
        return cls.from_flat((height, width), flat, scores, classes, names, soft)

    @classmethod
    def from_labels(
        cls,
        labels: npt.NDArray[np.integer],
        scores: npt.ArrayLike | None = None,
        classes: npt.ArrayLike | None = None,
        names: Sequence[str] = (),
    ) -> Self:
        """Instances of a label image (h, w): one row for each label other than 0, sorted."""
        try:
            flat, _ = _labels.labels_to_crops(np.asarray(labels))
        except ValueError as error:
            raise SomasegError(f"instances: {error}") from error
        height, width = labels.shape
        return cls.from_flat((height, width), flat, scores, classes, names)

    @classmethod
    def from_runs(
        cls,
        size: Size,
        runs: Sequence[rle.Runs],
        scores: npt.ArrayLike | None = None,
        classes: npt.ArrayLike | None = None,
        names: Sequence[str] = (),
    ) -> Self:
        """Instances of the competition's runs: one text, or integer array (k, 2), for each.

        Starts count from 1 along the rows; runs of a mask may come in any order.

        Raises:
            SomasegError: numbers that are none, an odd count, a run outside the image, runs of
                one mask that overlap, an empty mask (``masks.rle.find_faults`` lists them all).
        """
        return cls.from_flat(size, rle.runs_to_crops(runs, size), scores, classes, names)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All instances of several sets of one image; class names are merged by name."""
        if not parts:
            raise SomasegError("instances: nothing to join")
        sizes = {part.size for part in parts}
        if len(sizes) > 1:
            raise SomasegError(f"instances: images of different sizes do not join: {sorted(sizes)}")
        softness = {part.soft for part in parts if len(part)} or {parts[0].soft}
        if len(softness) > 1:
            raise SomasegError("instances: soft and hard masks do not join; use binary() first")
        names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        boxes = np.concatenate([part.boxes for part in parts])
        return cls(
            parts[0].size,
            boxes,
            np.concatenate([part.pixels for part in parts]),
            _flat.offsets_of(boxes),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.rename(names).classes for part in parts]),
            names,
            softness.pop(),
        )

    # ---- rows ----

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Index) -> Self:
        """Instances of the rows: a number (one row), slice, integer array or bool array (n,)."""
        n = len(self)
        if isinstance(index, int | np.integer):
            row = int(index)
            if not -n <= row < n:
                raise IndexError(f"instance {row} of {n}")
            index = slice(row % n, row % n + 1)
        if isinstance(index, slice) and index.indices(n)[2] == 1:
            first, stop, _ = index.indices(n)
            stop = max(first, stop)
            offsets = self.offsets[first : stop + 1]
            flat = Flat(
                self.boxes[first:stop],
                self.pixels[offsets[0] : offsets[-1]],
                offsets - offsets[0],
            )
            rows: Ints | slice = slice(first, stop)
        else:
            if not isinstance(index, slice):
                index = np.asarray(index)
                if index.ndim != 1:
                    raise IndexError(f"instances: an index has one dimension, not {index.ndim}")
                index = index if index.size or index.dtype == bool else index.astype(np.int64)
            rows = np.arange(n)[index]  # numpy checks the index, and counts negative ones back
            flat = paste.gather(*self.flat, rows)
        return self._selected(flat, rows)

    def replace(self, **fields: Any) -> Self:
        """A copy with other values of some fields; validated."""
        return dataclasses.replace(self, **fields)

    def with_scores(self, scores: npt.ArrayLike) -> Self:
        """The same masks with other scores, (n,) or one for all."""
        return self.replace(scores=_rows(scores, len(self)))

    def with_classes(self, classes: npt.ArrayLike, names: Sequence[str] | None = None) -> Self:
        """The same masks with other classes, (n,) or one for all, and names if given."""
        return self.replace(
            classes=_rows(classes, len(self)),
            names=self.names if names is None else tuple(names),
        )

    def rename(self, names: Sequence[str]) -> Self:
        """The same instances with their classes numbered after other names.

        Raises:
            SomasegError: an instance has a class that is not among ``names``.
        """
        places = {name: place for place, name in enumerate(names)}
        # The last entry is for class -1.
        table = np.array([places.get(name, -2) for name in self.names] + [-1], np.int16)
        classes = table[self.classes]
        if (classes == -2).any():
            missing = self.names[self.classes[int((classes == -2).argmax())]]
            raise SomasegError(f"instances: class {missing!r} is not among {tuple(names)}")
        return self.replace(classes=classes, names=tuple(names))

    # ---- masks ----

    @property
    def flat(self) -> Flat:
        """Boxes, pixels and offsets, as the functions of ``somaseg.masks`` take them."""
        return Flat(self.boxes, self.pixels, self.offsets)

    @property
    def cut(self) -> int:
        """Smallest pixel value that is inside: 1, or 128 (a half) for soft masks."""
        return int(_flat.cut_of(self.soft))

    @property
    def areas(self) -> Ints:
        """Pixels of each mask, int64 (n,); soft masks are cut at a half."""
        return overlap.areas(self.pixels, self.offsets, self.cut)

    def crop(self, i: int) -> Pixels:
        """Crop of row i, uint8 (y1 - y0, x1 - x0): a view, soft if the masks are."""
        x0, y0, x1, y1 = self.boxes[i].tolist()
        i %= len(self)
        return self.pixels[self.offsets[i] : self.offsets[i + 1]].reshape(y1 - y0, x1 - x0)

    def mask(self, i: int) -> Bools:
        """Mask of row i in the full image, bool (height, width); soft masks are cut at a half."""
        return paste.paste(self.crop(i) >= self.cut, self.boxes[i], self.size)

    def binary(self, threshold: npt.ArrayLike = 0.5, keep_empty: bool = False) -> Self:
        """Hard masks: where the probability is above ``threshold`` (one, or (n,)).

        Boxes are made tight and instances without a pixel are dropped, unless ``keep_empty``:
        then rows and boxes stay as they are. Hard masks are not changed by the threshold.
        """
        hard = self
        if self.soft:
            hard = self.replace(
                pixels=paste.binarise(self.pixels, self.offsets, threshold), soft=False
            )
        return hard if keep_empty else hard.tightened()[0]

    def tightened(self) -> tuple[Self, Ints]:
        """The instances in their smallest boxes, without empty ones; and the rows that are left."""
        flat, rows = paste.tighten(*self.flat)
        return self._selected(flat, rows), rows

    def window(self, size: Size, shift: tuple[int, int] = (0, 0)) -> tuple[Self, Ints]:
        """The instances as seen in another frame: a crop of the image, or a larger one around it.

        Args:
            size: (height, width) of the frame
            shift: (dx, dy) added to all coordinates; for a crop from x, y it is (-x, -y)

        Returns:
            The instances that have a pixel there, cut off at its border, and their rows int64.
        """
        flat, rows = paste.window(*self.flat, size, shift)
        tight, left = paste.tighten(*flat)
        return self._selected(tight, rows[left], size=checks.checked_size(size)), rows[left]

    def split(self, connectivity: int = 8) -> tuple[Self, Ints]:
        """Each connected piece as an instance of its own; and the row it comes from, int64."""
        flat, rows = pieces.split_pieces(*self.flat, connectivity)
        tight, left = paste.tighten(*flat)
        return self._selected(tight, rows[left]), rows[left]

    def order(self, order: Order) -> Ints:
        """Rows int64 (n,) in the order named: smallest_first, largest_first, score."""
        return resolve.order_rows(order, self.areas, self.scores)

    def disjoint(
        self,
        order: Order = "smallest_first",
        *,
        largest_piece: bool = False,
        fill_holes: bool = False,
        min_area: int = 1,
    ) -> tuple[Self, Ints]:
        """Instances that share no pixel, each given to the first in order; and the rows left.

        See ``masks.resolve.resolve_overlaps``. Soft masks are cut at a half.
        """
        hard = self.binary(keep_empty=True)
        flat, rows = resolve.resolve_overlaps(
            *hard.flat,
            self.size,
            hard.order(order),
            largest_piece=largest_piece,
            fill_holes=fill_holes,
            min_area=min_area,
        )
        return hard._selected(flat, rows), rows

    def to_labels(self, order: Order = "smallest_first") -> npt.NDArray[np.int32]:
        """Label image int32 (h, w): row + 1; a shared pixel goes to the first in order.

        Args:
            order: smallest_first, largest_first, score, or the rows (n,), the first one first
        """
        return _labels.crops_to_labels(*self.flat, self.size, self.order(order), self.cut)

    def claims(self) -> npt.NDArray[np.int32]:
        """Number of instances that each pixel belongs to, int32 (h, w)."""
        return overlap.claims(*self.flat, self.size, self.cut)

    def layers(self) -> npt.NDArray[np.int32]:
        """Label images int32 (k, h, w), row + 1, with k small: no pixel is lost to overlap."""
        pairs = overlap.shared_pixels(self)
        return _labels.crops_to_layers(*self.flat, self.size, pairs, self.cut)

    def to_runs(self) -> list[str]:
        """Competition strings of the masks: runs sorted, starts from 1, along the rows."""
        if self.soft:
            raise SomasegError("instances: soft masks have no runs; use binary() first")
        return rle.crops_to_texts(*self.flat, self.size)

    # ---- others ----

    def __repr__(self) -> str:
        height, width = self.size
        kind = "soft " if self.soft else ""
        counts = {
            name: int((self.classes == i).sum())
            for i, name in [*enumerate(self.names), (-1, "unknown")]
        }
        by_class = ", ".join(f"{name}: {count}" for name, count in counts.items() if count)
        return f"Instances({len(self)} {kind}in {width} x {height}; {by_class or 'none'})"

    def table(
        self,
        image: npt.NDArray[Any] | None = None,
        channels: Sequence[str] = (),
        pixel_size: float | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Measure each cell: columns by name; see :func:`somaseg.data.measure.measure`."""
        return dict(looks.look("table")(self, image, channels, pixel_size))

    def rois(self) -> list[Any]:
        """Make an ROI for Fiji of each cell; see :func:`somaseg.data.formats.rois.to_rois`."""
        return list(looks.look("rois")(self))

    def geojson(self, table: Mapping[str, npt.NDArray[Any]] | None = None) -> dict[str, Any]:
        """Outlines for QuPath; see :func:`somaseg.data.formats.geojson.to_geojson`."""
        return dict(looks.look("geojson")(self, table))

    def _repr_html_(self) -> str:
        """What a notebook shows: the masks, drawn small, and their counts."""
        return str(looks.look("html")(self))

    def _selected(self, flat: Flat, rows: Ints | slice, **fields: Any) -> Self:
        """``rows`` with these masks; not checked again: what is made of sound rows is sound."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.__dict__.update(
            flat._asdict(), scores=self.scores[rows], classes=self.classes[rows], **fields
        )
        return made


def _rows(values: npt.ArrayLike, n: int) -> npt.NDArray:
    """An array (n,); a single value is repeated."""
    array = np.asarray(values)
    return np.full(n, array) if array.ndim == 0 else array
