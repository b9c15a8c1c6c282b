"""Mask Scoring (Huang et al. 2019, arXiv:1903.00241): a learned guess of each mask's IoU."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from somaseg.models.rcnn.box import Matched
from somaseg.models.rcnn.config import RCNNConfig
from somaseg.models.rcnn.mask import cell_targets
from somaseg.models.rcnn.targets import Truth, inside_share


def true_iou(predicted: Tensor, goal: Tensor, share: Tensor) -> Tensor:
    """IoU of masks cut at one half with the *whole* true cell, outside its box too.

    Args:
        predicted: probabilities (n, s, s).
        goal: the true mask inside the box, resampled alike (n, s, s).
        share: of the true cell's area that lies inside the box (n,).

    Returns:
        float32 (n,). Areas are counted on the s × s grid; the whole cell's is its area inside the
        box divided by ``share``.
    """
    mask, cell = predicted >= 0.5, goal >= 0.5
    overlap = (mask & cell).sum((1, 2))
    whole = cell.sum((1, 2)) / share.clamp(min=1e-6)
    union = mask.sum((1, 2)) + whole - overlap
    return torch.where(overlap > 0, overlap / union.clamp(min=1), 0.0)


class MaskIoU(nn.Module):
    """Four 3×3 convolutions on the pooled features and the mask, three fully connected layers.

    Args:
        config: of the model.
        classes: the background included.
        pooled: side of the mask head's pooled features.
    """

    def __init__(self, config: RCNNConfig, classes: int, pooled: int) -> None:
        super().__init__()
        self.aligned, self.limits = config.aligned, config.mask_iou_limits
        self.side = min(14, pooled)
        self.reduce = nn.AvgPool2d(pooled // self.side)
        width, dim = config.mask_dim, config.scoring_dim
        layers: list[nn.Module] = []
        inputs = config.fpn_channels + 1
        for stride in (1, 1, 1, 2):
            layers += [nn.Conv2d(inputs, width, 3, stride, 1), nn.ReLU(inplace=True)]
            inputs = width
        layers += [nn.Flatten(), nn.Linear(width * ((self.side + 1) // 2) ** 2, dim), nn.ReLU()]
        last = nn.Linear(dim, classes)
        layers += [nn.Linear(dim, dim), nn.ReLU(), last]
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            elif isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(last.weight, std=0.01)

    def forward(self, pooled: Tensor, masks: Tensor) -> Tensor:
        """Pooled features (n, c, p, p) and probabilities (n, s, s) to IoUs (n, classes)."""
        mask = functional.adaptive_max_pool2d(masks[:, None], self.side)
        out: Tensor = self.layers(torch.cat([self.reduce(pooled), mask.to(pooled.dtype)], 1))
        return out.float()

    def losses(
        self, pooled: Tensor, masks: Tensor, matched: list[Matched], truths: list[Truth]
    ) -> dict[str, Tensor]:
        """Half the squared error of the true class's IoU, over cells that the mask touches."""
        guess = self(pooled, masks)
        if len(guess) == 0:
            return {"mask_iou": guess.sum() * 0}
        goal = cell_targets(matched, truths, masks.shape[-1], self.aligned)
        share = torch.cat(
            [
                inside_share(truth, m.truth, m.boxes)
                for m, truth in zip(matched, truths, strict=True)
            ]
        )
        iou = true_iou(masks, goal, share)
        labels = torch.cat([m.labels for m in matched])
        guess = guess[torch.arange(len(guess), device=guess.device), labels]
        touched = (iou > 0).float()
        error = ((guess - iou) ** 2 * touched).sum() / touched.sum().clamp(min=1)
        return {"mask_iou": error / 2}

    def rescore(self, pooled: Tensor, masks: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Class scores (n,) times the guessed IoU of each mask (kept within 0..1 by default)."""
        guess = self(pooled, masks)
        own = guess[torch.arange(len(guess), device=guess.device), labels]
        return scores * (own.clamp(0, 1) if self.limits else own)
