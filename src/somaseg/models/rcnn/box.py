"""The box head: what is in a proposal, and where exactly (Girshick 2015, arXiv:1504.08083)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, nms, remove_small_boxes

from somaseg.models.rcnn.targets import Truth


class Matched(NamedTuple):
    """Proposals of one image and what they should become.

    Attributes:
        boxes: float32 (n, 4).
        labels: int64 (n,), 0 is the background.
        truth: int64 (n,), the cell that the box overlaps most; 0 where there is none.
    """

    boxes: Tensor
    labels: Tensor
    truth: Tensor

    def take(self, rows: Tensor) -> "Matched":
        """Keep rows, bool (n,) or int64 (k,)."""
        return Matched(self.boxes[rows], self.labels[rows], self.truth[rows])

    def foreground(self) -> "Matched":
        """Keep the proposals that hold a cell."""
        return self.take(self.labels > 0)


def match(boxes: Tensor, truth_boxes: Tensor, labels: Tensor, threshold: float) -> Matched:
    """Give each box (n, 4) the label of the cell it overlaps most, 0 if by less than the IoU."""
    if len(truth_boxes) == 0 or len(boxes) == 0:
        none = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
        return Matched(boxes, none, none)
    best, row = box_iou(truth_boxes, boxes).max(0)
    return Matched(boxes, torch.where(best >= threshold, labels[row], 0), row)


def sample(matched: Matched, count: int, positive: float) -> Matched:
    """Draw ``count`` proposals at random, at most the share ``positive`` of them with a cell."""
    sampler = BalancedPositiveNegativeSampler(count, positive)
    (chosen,), (background,) = sampler([matched.labels])
    return matched.take((chosen | background) > 0)


class BoxPredictor(nn.Module):
    """Class logits and box deltas, of each class or of all together."""

    def __init__(self, inputs: int, classes: int, class_agnostic: bool) -> None:
        super().__init__()
        self.cls_score = nn.Linear(inputs, classes)
        self.bbox_pred = nn.Linear(inputs, 4 if class_agnostic else 4 * classes)
        # Small, so that training starts from "anything, where it was proposed".
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, inputs) to logits (n, classes) and deltas (n, 4 or 4 * classes), float32."""
        return self.cls_score(x).float(), self.bbox_pred(x).float()


class BoxStage(nn.Module):
    """Hidden layers on the pooled features, then classes and boxes.

    Args:
        head: the hidden layers, from pooled features (n, c, p, p) to (n, width).
        width: of the last hidden layer.
        classes: the background included.
        class_agnostic: one box for all classes.
        iou: a proposal holds a cell from this overlap on.
        weights: of the box deltas (arXiv:1504.08083; arXiv:1712.00726 for later stages).
    """

    def __init__(
        self,
        head: nn.Module,
        width: int,
        classes: int,
        class_agnostic: bool,
        iou: float,
        weights: Sequence[float],
    ) -> None:
        super().__init__()
        self.head = head
        self.predictor = BoxPredictor(width, classes, class_agnostic)
        self.iou = iou
        self.coder = BoxCoder(tuple(weights))

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features (n, c, p, p) to class logits and box deltas."""
        logits, deltas = self.predictor(self.head(pooled))
        return logits, deltas

    def losses(
        self, logits: Tensor, deltas: Tensor, matched: list[Matched], truths: list[Truth]
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and smooth L1 (beta 1/9) of the foreground's deltas over all samples."""
        labels = torch.cat([m.labels for m in matched])
        if len(labels) == 0:
            return logits.sum() * 0, deltas.sum() * 0
        classification = functional.cross_entropy(logits, labels)
        wanted = [
            truth.boxes[m.truth] if len(truth) else m.boxes
            for m, truth in zip(matched, truths, strict=True)
        ]
        goal = torch.cat(self.coder.encode(wanted, [m.boxes for m in matched]))
        rows = (labels > 0).nonzero()[:, 0]
        per_class = deltas.view(len(labels), -1, 4)
        column = labels[rows] if per_class.shape[1] > 1 else torch.zeros_like(rows)
        box = functional.smooth_l1_loss(
            per_class[rows, column], goal[rows], beta=1 / 9, reduction="sum"
        )
        return classification, box / len(labels)

    def decode(self, deltas: Tensor, boxes: list[Tensor]) -> list[Tensor]:
        """Apply deltas to proposals (n_i, 4): (n_i, 1 or classes, 4) for each image."""
        counts = [len(b) for b in boxes]
        if sum(counts) == 0:
            return [b.view(0, deltas.shape[1] // 4, 4) for b in boxes]
        return list(self.coder.decode(deltas, boxes).split(counts))


class Detections(NamedTuple):
    """Boxes found in one image, best first: float32 (n, 4), float32 (n,), int64 (n,) from 1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def detect(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    floor: float,
    iou: float,
    limit: int,
    across_classes: bool,
) -> Detections:
    """Turn class scores and boxes into detections, by a floor and suppression.

    Args:
        boxes: float32 (n, 1 or classes, 4).
        scores: float32 (n, classes), the background first.
        size: (height, width) of the image.
        floor: detections must score more.
        iou: suppress what overlaps a better one by more.
        limit: the most detections to return.
        across_classes: suppress whatever the classes; else each class on its own.
    """
    boxes = clip_boxes_to_image(boxes, size)
    classes = scores.shape[1]
    if boxes.shape[1] == 1:
        boxes = boxes.expand(-1, classes, -1)
    boxes, scores = boxes[:, 1:].reshape(-1, 4), scores[:, 1:].reshape(-1)
    labels = torch.arange(1, classes, device=scores.device).repeat(len(scores) // (classes - 1))
    rows = (scores > floor).nonzero()[:, 0]
    rows = rows[remove_small_boxes(boxes[rows], 1e-2)]
    boxes, scores, labels = boxes[rows], scores[rows], labels[rows]
    kept = nms(boxes, scores, iou) if across_classes else batched_nms(boxes, scores, labels, iou)
    kept = kept[:limit]
    return Detections(boxes[kept], scores[kept], labels[kept])
