"""The mask head: a small map of the cell inside its box (He et al. 2017, arXiv:1703.06870)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from somaseg.models.rcnn.backbone import PyramidPool, normalisation
from somaseg.models.rcnn.box import Matched
from somaseg.models.rcnn.config import RCNNConfig
from somaseg.models.rcnn.targets import Truth, mask_targets


def of_class(maps: Tensor, labels: Tensor) -> Tensor:
    """Take each box's map of its class: (n, classes or 1, h, w) to (n, h, w)."""
    column = labels if maps.shape[1] > 1 else torch.zeros_like(labels)
    return maps[torch.arange(len(maps), device=maps.device), column]


def cell_targets(
    matched: Sequence[Matched], truths: Sequence[Truth], size: int, aligned: bool
) -> Tensor:
    """Cut the true masks inside matched boxes: float32 (sum n_i, size, size)."""
    return torch.cat(
        [
            mask_targets(truth, m.truth, m.boxes, size, aligned)
            for m, truth in zip(matched, truths, strict=True)
        ]
    )


class ConvMask(nn.Module):
    """3×3 convolutions (four), one 2× transposed one, a 1×1: logits of ``mask_size`` squared.

    Attributes:
        size: side of the masks.
        pool: from the pyramid to the head; ``mask_size / 2`` squared.
    """

    def __init__(self, config: RCNNConfig, classes: int) -> None:
        super().__init__()
        self.size, self.aligned = config.mask_size, config.aligned
        self.pool = PyramidPool(config, self.size // 2)
        width = config.mask_dim
        self.head = MaskRCNNHeads(
            config.fpn_channels,
            [width] * config.mask_layers,
            1,
            norm_layer=normalisation(config.head_norm),
        )
        self.predictor = MaskRCNNPredictor(
            width, width, 1 if config.class_agnostic_masks else classes
        )
        # Small, so that training starts from one half everywhere, not from noise.
        nn.init.normal_(self.predictor.mask_fcn_logits.weight, std=0.001)
        nn.init.zeros_(self.predictor.mask_fcn_logits.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features (n, c, s / 2, s / 2) to logits (n, classes or 1, s, s), float32."""
        logits: Tensor = self.predictor(self.head(pooled))
        return logits.float()

    def losses(
        self,
        features: Sequence[Tensor],
        pooled: Tensor,
        matched: list[Matched],
        truths: list[Truth],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Binary cross-entropy of the true class's map over the foreground ``matched``.

        Returns:
            The loss, and the predicted probabilities (n, s, s) without gradient.
        """
        logits = of_class(self(pooled), torch.cat([m.labels for m in matched]))
        if len(logits) == 0:
            return {"mask": logits.sum() * 0}, logits.detach()
        goal = cell_targets(matched, truths, self.size, self.aligned)
        loss = functional.binary_cross_entropy_with_logits(logits, goal)
        return {"mask": loss}, logits.detach().sigmoid()

    def predict(
        self, features: Sequence[Tensor], pooled: Tensor, boxes: Tensor, labels: Tensor
    ) -> Tensor:
        """Probabilities (n, s, s) inside boxes (n, 4) of one image."""
        return of_class(self(pooled), labels).sigmoid()


class MaskStages(nn.Module):
    """One mask head for each stage of a cascade; their probabilities are averaged.

    As in MMDetection; the paper (arXiv:1712.00726) and detectron2 have one. Each learns of the
    proposals that its stage is given, the later ones at half the weight of the one before.
    """

    def __init__(self, config: RCNNConfig, classes: int) -> None:
        super().__init__()
        self.size = config.mask_size
        self.stages = nn.ModuleList(ConvMask(config, classes) for _ in range(3))
        self.pool = PyramidPool(config, self.size // 2)

    def spread(self, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Add to a state dict with one mask head what each of several starts from."""
        spread = dict(tensors)
        for name, value in tensors.items():
            if name.startswith((f"{prefix}head.", f"{prefix}predictor.")):
                for i in range(len(self.stages)):
                    spread.setdefault(f"{prefix}stages.{i}.{name.removeprefix(prefix)}", value)
        return spread

    def predict(
        self, features: Sequence[Tensor], pooled: Tensor, boxes: Tensor, labels: Tensor
    ) -> Tensor:
        """Probabilities (n, s, s) inside boxes (n, 4) of one image."""
        found = [of_class(stage(pooled), labels).sigmoid() for stage in self.stages]
        return torch.stack(found).mean(0)
