"""Box stages in a row, each trained on the boxes of the one before it, at a higher overlap.

Cascade R-CNN (Cai & Vasconcelos 2018, arXiv:1712.00726). With one stage it is Faster R-CNN's
box head, and that is how the plain models are built too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from somaseg.models.rcnn.backbone import PyramidPool, normalisation
from somaseg.models.rcnn.box import BoxStage, Detections, Matched, detect, match, sample
from somaseg.models.rcnn.config import RCNNConfig
from somaseg.models.rcnn.targets import Truth

IOUS = (0.5, 0.6, 0.7)
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
POOL = 7


class BoxStages(nn.Module):
    """One stage (``box_head: single``) or three (``cascade``)."""

    def __init__(self, config: RCNNConfig, classes: int) -> None:
        super().__init__()
        count = 3 if config.box_head == "cascade" else 1
        self.config = config
        self.pool = PyramidPool(config, POOL)
        self.weights = config.box_weights or WEIGHTS[:count]
        self.stages = nn.ModuleList(
            BoxStage(
                _hidden(config),
                config.box_dim,
                classes,
                config.class_agnostic_boxes or count > 1,
                iou,
                weights,
            )
            for iou, weights in zip(IOUS[:count], self.weights, strict=True)
        )

    def spread(self, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Add to a state dict the stages that it lacks, each made from the first.

        A later stage measures deltas in smaller units, so its box layer is enlarged: to begin with
        it moves a box as the first would.
        """
        first = f"{prefix}stages.0."
        spread = dict(tensors)
        for i in range(1, len(self.stages)):
            unit = self.weights[i][0] / self.weights[0][0]
            for name, value in tensors.items():
                if name.startswith(first):
                    tail = name.removeprefix(first)
                    scaled = value * unit if ".bbox_pred." in name else value
                    spread.setdefault(f"{prefix}stages.{i}.{tail}", scaled)
        return spread

    def sample(self, proposals: Sequence[Tensor], truths: Sequence[Truth]) -> list[Matched]:
        """Match proposals (n_i, 4), the true boxes among them, and draw what to train on."""
        samples = []
        for boxes, truth in zip(proposals, truths, strict=True):
            boxes = torch.cat([boxes, truth.boxes])
            matched = match(boxes, truth.boxes, truth.labels, IOUS[0])
            samples.append(sample(matched, self.config.roi_samples, self.config.roi_positive))
        return samples

    def losses(
        self,
        features: Sequence[Tensor],
        matched: list[Matched],
        truths: list[Truth],
        sizes: list[tuple[int, int]],
    ) -> tuple[dict[str, Tensor], list[list[Matched]]]:
        """Losses of each stage; its boxes are matched anew for the next, at a higher overlap.

        Returns:
            the losses, and the proposals that each stage was given.
        """
        losses: dict[str, Tensor] = {}
        given = [matched]
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, BoxStage)
            pooled = self.pool(features, [m.boxes for m in matched])
            # The stages share the features: together they weigh as much as one head.
            pooled = scale_gradient(pooled, 1 / len(self.stages))
            logits, deltas = stage(pooled)
            classification, box = stage.losses(logits, deltas, matched, truths)
            suffix = f"_{i + 1}" if len(self.stages) > 1 else ""
            losses |= {f"class{suffix}": classification, f"box{suffix}": box}
            if i + 1 < len(self.stages):
                decoded = stage.decode(deltas.detach(), [m.boxes for m in matched])
                matched = [
                    match(_refined(boxes, size), truth.boxes, truth.labels, IOUS[i + 1])
                    for boxes, size, truth in zip(decoded, sizes, truths, strict=True)
                ]
                given.append(matched)
        return losses, given

    def predict(
        self, features: Sequence[Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """Scores are of the mean over the stages, boxes those of the last."""
        of_logits = self.config.cascade_mean == "logits"
        boxes, scores = proposals, []
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, BoxStage)
            logits, deltas = stage(self.pool(features, boxes))
            scores.append(logits if of_logits else logits.softmax(1))
            decoded = stage.decode(deltas, boxes)
            if i + 1 < len(self.stages):
                boxes = [
                    clip_boxes_to_image(b[:, 0], size)
                    for b, size in zip(decoded, sizes, strict=True)
                ]
        joined = torch.stack(scores).mean(0)
        mean = (joined.softmax(1) if of_logits else joined).split([len(b) for b in boxes])
        config = self.config
        return [
            detect(
                b,
                s,
                size,
                config.score_floor,
                config.box_nms,
                config.detections,
                config.nms_across_classes,
            )
            for b, s, size in zip(decoded, mean, sizes, strict=True)
        ]


def _hidden(config: RCNNConfig) -> nn.Module:
    """Layers from pooled features to ``box_dim``: two fully connected, or convolutions and one."""
    if config.box_convs:
        return FastRCNNConvFCHead(
            (config.fpn_channels, POOL, POOL),
            [config.fpn_channels] * config.box_convs,
            [config.box_dim],
            normalisation(config.head_norm),
        )
    return TwoMLPHead(config.fpn_channels * POOL**2, config.box_dim)


def _refined(decoded: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (n, 1, 4) of a stage, clipped to the image; those left empty teach nothing and go."""
    boxes = clip_boxes_to_image(decoded[:, 0], size)
    return boxes[remove_small_boxes(boxes, 1e-2)]


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x`` itself; its gradient is multiplied by ``factor``."""
    return x if factor == 1 else x.detach() + (x - x.detach()) * factor
