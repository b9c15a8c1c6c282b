"""Region proposals: torchvision's RPN, made fit for hundreds of small cells.

Two things differ from `torchvision.models.detection.rpn`, neither in the result: anchors are
matched with one cell after the other, because the full table (700 cells by 200,000 anchors) takes
gigabytes; and everything after the convolutions is computed in float32, because bfloat16 cannot
hold a coordinate above 256 to the pixel.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)

from somaseg.models.rcnn.config import RCNNConfig


def match_anchors(boxes: Tensor, anchors: Tensor, low: float, high: float) -> Tensor:
    """Match anchors (m, 4) with boxes (n, 4) as the RPN does: int64 (m,).

    An anchor takes the box it overlaps most: the box's row if their IoU is ``high`` or more, or
    if no anchor overlaps some box better than this one; else -1 (background) below ``low`` and
    -2 (ignored) from there on. The same as torchvision's ``Matcher`` with
    ``allow_low_quality_matches``, but for boxes that no anchor touches: they take no anchor, where
    torchvision gives them all that touch nothing.
    """
    match = np.empty(len(anchors), np.int64)
    _match(boxes.cpu().numpy(), anchors.cpu().numpy(), np.float32(low), np.float32(high), match)
    return torch.from_numpy(match).to(anchors.device)


@njit(cache=True, nogil=True)
def _match(boxes, anchors, low, high, match):  # type: ignore[no-untyped-def]
    zero = np.float32(0)
    m = len(anchors)
    best = np.zeros(m, np.float32)
    ious = np.zeros(m, np.float32)
    closest = np.zeros(m, np.bool_)
    match[:] = 0
    for i in range(len(boxes)):
        x0, y0, x1, y1 = boxes[i]
        area = (x1 - x0) * (y1 - y0)
        top = zero
        for k in range(m):
            w = min(x1, anchors[k, 2]) - max(x0, anchors[k, 0])
            h = min(y1, anchors[k, 3]) - max(y0, anchors[k, 1])
            if w <= 0 or h <= 0:
                ious[k] = zero
                continue
            other = (anchors[k, 2] - anchors[k, 0]) * (anchors[k, 3] - anchors[k, 1])
            inter = w * h
            ious[k] = inter / (area + other - inter)
            top = max(top, ious[k])
            if ious[k] > best[k]:
                best[k], match[k] = ious[k], i
        if top > 0:
            for k in range(m):
                closest[k] |= ious[k] == top
    for k in range(m):
        if not closest[k] and best[k] < high:
            match[k] = -1 if best[k] < low else -2


class ExactAnchors(AnchorGenerator):
    """Anchors with sides and steps as they are, not rounded to pixels.

    torchvision rounds half of a side, and takes the step to be the padded image's size divided by
    the level's, which is another for a level whose size is odd.

    Args:
        strides: network pixels a step, of each level.
        sizes: roots of the anchors' areas, of each level.
        ratios: heights over widths, of each level.
    """

    def __init__(
        self,
        strides: Sequence[int],
        sizes: tuple[tuple[float, ...], ...],
        ratios: tuple[tuple[float, ...], ...],
    ) -> None:
        super().__init__(sizes, ratios)
        self.steps = list(strides)
        cells = []
        for scales, shapes in zip(sizes, ratios, strict=True):
            root = torch.tensor(shapes, dtype=torch.float64).sqrt()[:, None]
            scale = torch.tensor(scales, dtype=torch.float64)
            half = torch.stack([(scale / root).flatten(), (scale * root).flatten()], 1) / 2
            cells.append(torch.cat([-half, half], 1).float())
        self.cell_anchors = cells

    def grid_anchors(
        self, grid_sizes: list[list[int]], strides: list[list[Tensor]]
    ) -> list[Tensor]:
        """Lay each level's anchors on its grid (h, w): float32 (h * w * anchors, 4)."""
        device = self.cell_anchors[0].device
        steps = [[torch.tensor(s, device=device)] * 2 for s in self.steps]
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, steps)
        return anchors


class Proposals(RegionProposalNetwork):
    """Objectness and boxes on every level of the pyramid; the best of them are proposals."""

    def __init__(self, config: RCNNConfig, strides: Sequence[int]) -> None:
        kind = AnchorGenerator if config.anchors_rounded else partial(ExactAnchors, strides)
        anchors = kind(config.anchor_sizes, (config.anchor_ratios,) * len(strides))
        self.low, self.high = config.rpn_iou
        super().__init__(
            anchors,
            RPNHead(config.fpn_channels, anchors.num_anchors_per_location()[0], config.rpn_convs),
            self.high,
            self.low,
            config.rpn_samples,
            0.5,
            dict(zip(("training", "testing"), config.rpn_pre_nms, strict=True)),
            dict(zip(("training", "testing"), config.rpn_post_nms, strict=True)),
            config.rpn_nms,
        )

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label anchors 1 (cell), 0 (background) or -1 (ignored), and give each its box."""
        labels, matched = [], []
        for places, target in zip(anchors, targets, strict=True):
            boxes = target["boxes"]
            match = match_anchors(boxes, places, self.low, self.high)
            labels.append((match >= 0).float() - (match == -2).float())
            matched.append(boxes[match.clamp(min=0)] if len(boxes) else torch.zeros_like(places))
        return labels, matched

    def forward(
        self,
        images: ImageList,
        features: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes (n_i, 4) for each image, best first; with targets also the losses."""
        logits, deltas = self.head(features)
        with torch.autocast(images.tensors.device.type, enabled=False):
            counts = [level[0].numel() for level in logits]
            logits, deltas = concat_box_prediction_layers(
                [level.float() for level in logits], [level.float() for level in deltas]
            )
            anchors = self.anchor_generator(images, [level.float() for level in features])
            boxes = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
            proposals, _ = self.filter_proposals(boxes, logits, images.image_sizes, counts)
            if targets is None:
                return proposals, {}
            labels, matched = self.assign_targets_to_anchors(anchors, targets)
            wanted = self.box_coder.encode(matched, anchors)
            objectness, box = self.compute_loss(logits, deltas, labels, wanted)
            return proposals, {"rpn_objectness": objectness, "rpn_box": box}
