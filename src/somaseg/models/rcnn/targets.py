"""Truth as the losses need it: masks stay crops, and are resampled inside one box at a time.

A micrograph holds up to 800 cells; as full-image planes their masks would take a gigabyte. Here
they stay the crops that `Instances` keeps. Only the crops of the cells that a step has sampled are
laid, a few at a time, on small canvases with a ring of context around them, and RoIAlign (or point
sampling) reads those. Outside its crop a mask is zero, so nothing is lost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from somaseg.data.augment import Crop
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.labels import labels_to_crops

SMALLEST = 16  # network pixels
CHUNK = 64  # canvases at once: bounds the memory when one of the cells is large


@dataclass(frozen=True)
class Truth:
    """The true cells of one image.

    Attributes:
        boxes: float32 (n, 4), x0 y0 x1 y1 half open, tight around the masks.
        labels: int64 (n,), class index + 1; 0 is the background.
        instances: the masks, hard and tight.
    """

    boxes: Tensor
    labels: Tensor
    instances: Instances

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, instances: Instances) -> "Truth":
        """Take hard `Instances`; masks without a pixel are dropped.

        Raises:
            SomasegError: a class is unknown where there are several to tell apart.
        """
        instances, _ = instances.binary(keep_empty=True).tightened()
        classes = instances.classes
        if len(instances.names) <= 1:
            classes = np.zeros_like(classes)
        elif (classes < 0).any():
            raise SomasegError(
                f"instance {int((classes < 0).argmax())} has no class: give it one of "
                f"{list(instances.names)}, or train with the one class 'cell'"
            )
        boxes = torch.from_numpy(instances.boxes.astype(np.float32))
        return cls(boxes, torch.from_numpy(classes.astype(np.int64)) + 1, instances)

    @classmethod
    def of_crop(cls, crop: Crop, names: Sequence[str]) -> "Truth":
        """Collect the cells of a training crop from its label planes (`Instances.layers`)."""
        size = (crop.image.shape[-2], crop.image.shape[-1])
        parts = [Instances.empty(size, names)]
        for plane in crop.planes:
            flat, values = labels_to_crops(plane)
            parts.append(Instances.from_flat(size, flat, 1.0, crop.classes[values - 1], names))
        cells = Instances.concat(parts)
        # The crop's edge leaves slivers of some cells: nobody could tell what they are.
        return cls.of(cells[cells.areas >= SMALLEST])

    def to(self, device: torch.device) -> "Truth":
        """Move boxes and labels; masks are cut on the CPU."""
        return Truth(self.boxes.to(device), self.labels.to(device), self.instances)


class Canvases(NamedTuple):
    """Some of the asked cells, each on its own small canvas.

    Attributes:
        rows: int64 (k,), which of the asked boxes these are.
        masks: float32 (m, 1, h, w), one for each different cell.
        which: int64 (k,), the canvas of each box.
        boxes: float32 (k, 4), the boxes in the coordinates of their canvas.
    """

    rows: Tensor
    masks: Tensor
    which: Tensor
    boxes: Tensor


def canvases(truth: Truth, index: Tensor, boxes: Tensor, edge: bool = True) -> Iterator[Canvases]:
    """Lay cells ``index`` (k,) on canvases, for resampling inside ``boxes`` (k, 4).

    Where the image ends its edge continues, if ``edge``, as RoIAlign reads it on the full plane.
    """
    height, width = truth.instances.size
    order = index.argsort()  # boxes of one cell together: they share a canvas
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        cells, which = index[rows].unique(return_inverse=True)
        places = truth.instances.boxes[cells.cpu().numpy()]
        sides = (places[:, 2:] - places[:, :2]).max(0)
        masks = np.zeros((len(places), sides[1] + 2, sides[0] + 2), np.float32)
        for canvas, cell, (x0, y0, x1, y1) in zip(masks, cells.tolist(), places, strict=True):
            h, w = y1 - y0, x1 - x0
            canvas[1 : h + 1, 1 : w + 1] = truth.instances.crop(cell)
            if not edge:
                continue
            if x0 == 0:
                canvas[:, 0] = canvas[:, 1]
            if x1 == width:
                canvas[:, w + 1] = canvas[:, w]
            if y0 == 0:
                canvas[0] = canvas[1]
            if y1 == height:
                canvas[h + 1] = canvas[h]
        origins = torch.from_numpy(places[:, :2]).to(boxes) - 1
        local = boxes[rows] - origins[which].repeat(1, 2)
        yield Canvases(rows, torch.from_numpy(masks).to(boxes)[:, None], which, local)


def mask_targets(
    truth: Truth, index: Tensor, boxes: Tensor, size: int, aligned: bool = True
) -> Tensor:
    """Resample cells ``index`` (k,) inside ``boxes`` (k, 4) to float32 (k, size, size), 0..1.

    Boxes lie inside the image.
    Equal to RoIAlign on full-image planes (torchvision's ``project_masks_on_boxes`` if not
    ``aligned``). Values between 0 and 1 stay: they carry the boundary's place below a cell.
    """
    out = boxes.new_zeros(len(boxes), size, size)
    for rows, masks, which, local in canvases(truth, index, boxes):
        rois = torch.cat([which[:, None].to(local), local], 1)
        out[rows] = roi_align(masks, rois, (size, size), aligned=aligned)[:, 0]
    return out


def point_targets(truth: Truth, index: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
    """Read cells ``index`` (k,) at ``points`` (k, p, 2) in 0..1 of ``boxes``: float32 (k, p)."""
    out = boxes.new_zeros(points.shape[:2])
    for rows, masks, which, local in canvases(truth, index, boxes):
        place = local[:, None, :2] + points[rows] * (local[:, 2:] - local[:, :2])[:, None]
        extent = place.new_tensor([masks.shape[-1], masks.shape[-2]])
        grid = (2 * place / extent - 1)[:, :, None]
        out[rows] = functional.grid_sample(masks[which], grid, align_corners=False)[:, 0, :, 0]
    return out


def inside_share(truth: Truth, index: Tensor, boxes: Tensor) -> Tensor:
    """Return the share of each cell's area that lies inside its box, exactly: float32 (k,)."""
    out = boxes.new_zeros(len(boxes))
    for rows, masks, which, local in canvases(truth, index, boxes, edge=False):
        cells = masks[which, 0]
        x = _coverage(local[:, 0], local[:, 2], cells.shape[2])
        y = _coverage(local[:, 1], local[:, 3], cells.shape[1])
        out[rows] = torch.einsum("kh,khw,kw->k", y, cells, x) / cells.sum((1, 2))
    return out


def _coverage(start: Tensor, end: Tensor, length: int) -> Tensor:
    """Return how much of each unit pixel lies between ``start`` and ``end``: (k, length)."""
    pixel = torch.arange(length, device=start.device)
    upper = torch.minimum(end[:, None], pixel + 1)
    return (upper - torch.maximum(start[:, None], pixel)).clamp(0, 1)
