"""PointRend (Kirillov et al. 2020, arXiv:1912.08193): masks refined where they are uncertain.

A coarse 7² mask is enlarged step by step; after each doubling only the most uncertain points are
computed anew, from the finest features at exactly those places.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from somaseg.models.rcnn.backbone import PyramidPool
from somaseg.models.rcnn.box import Matched
from somaseg.models.rcnn.config import RCNNConfig
from somaseg.models.rcnn.mask import cell_targets, of_class
from somaseg.models.rcnn.targets import Truth, point_targets

COARSE = 7
POOLED = 14
TRAIN_POINTS = 196
OVERSAMPLE = 3  # k of the paper
IMPORTANT = 0.75  # beta of the paper
STEP_POINTS = 784  # 28²: points computed anew in one subdivision step


def read_points(maps: Tensor, points: Tensor, edge: str = "border") -> Tensor:
    """Read maps (n, c, h, w) bilinearly at points (n, p, 2), x y in 0..1: (n, c, p).

    Beyond the outermost pixel centres the edge continues, as in RoIAlign: fading to zero there,
    every mask would look uncertain along its box. ``edge: zeros`` does so, for weights that have
    learned it.
    """
    grid = (2 * points - 1)[:, :, None].to(maps.dtype)
    read = functional.grid_sample(maps, grid, padding_mode=edge, align_corners=False)
    return read[..., 0]


def read_level(level: Tensor, boxes: Tensor, points: Tensor, stride: int, edge: str) -> Tensor:
    """Read a level (c, h, w) at points (n, p, 2) in 0..1 of boxes (n, 4): (n, c, p)."""
    place = boxes[:, None, :2] + points * (boxes[:, 2:] - boxes[:, :2])[:, None]
    extent = place.new_tensor([level.shape[2], level.shape[1]]) * stride
    # All points of an image at once: its features are read in place, not copied for each box.
    flat = read_points(level[None], (place / extent).view(1, -1, 2), edge)[0]
    return flat.view(len(level), *points.shape[:2]).permute(1, 0, 2)


def grid_points(size: int, device: torch.device) -> Tensor:
    """Return the pixel centres of a size × size map in 0..1: (size², 2), row-major."""
    centre = (torch.arange(size, device=device) + 0.5) / size
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def uncertain_points(logits: Tensor, count: int, edge: str = "border") -> Tensor:
    """Draw training points (n, count, 2) from logits (n, h, w), most where they are near zero.

    Three times as many are drawn evenly; of those the three quarters of ``count`` with the
    smallest \\|logit\\| stay, and an even quarter is added.
    """
    n, important = len(logits), int(IMPORTANT * count)
    drawn = torch.rand(n, OVERSAMPLE * count, 2, device=logits.device)
    certainty = read_points(logits[:, None], drawn, edge)[:, 0].abs()
    best = certainty.topk(important, largest=False).indices
    chosen = drawn.gather(1, best[..., None].expand(-1, -1, 2))
    even = torch.rand(n, count - important, 2, device=logits.device)
    return torch.cat([chosen, even], 1)


class PointHead(nn.Module):
    """A small network at single points; sees the coarse logits again before each layer."""

    def __init__(self, fine: int, width: int, maps: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d((fine if i == 0 else width) + maps, width, 1) for i in range(3)
        )
        self.predictor = nn.Conv1d(width + maps, maps, 1)
        for layer in self.layers:
            assert isinstance(layer, nn.Conv1d)
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Fine features (n, c, p) and coarse logits (n, maps, p) to logits (n, maps, p)."""
        x = fine
        for layer in self.layers:
            x = layer(torch.cat([x, coarse.to(x.dtype)], 1)).relu()
        logits: Tensor = self.predictor(torch.cat([x, coarse.to(x.dtype)], 1))
        return logits.float()


class PointPool(nn.Module):
    """Boxes' features at size² points of the finest level, one sample each."""

    def __init__(self, config: RCNNConfig, size: int) -> None:
        super().__init__()
        self.size, self.stride, self.edge = size, config.strides[0], config.point_edge

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Levels (b, c, h, w) and boxes (n_i, 4) of each image to (sum n_i, c, size, size)."""
        grid = grid_points(self.size, features[0].device)
        read = [
            read_level(level, own, grid.expand(len(own), -1, -1), self.stride, self.edge)
            for level, own in zip(features[0], boxes, strict=True)
        ]
        return torch.cat(read).unflatten(2, (self.size, self.size))


class PointMask(nn.Module):
    """Coarse head, point head, subdivision; the same interface as `ConvMask`.

    Attributes:
        size: side of the masks, 7 times a power of two.
        pool: from the pyramid to the coarse head.
    """

    def __init__(self, config: RCNNConfig, classes: int) -> None:
        super().__init__()
        self.size, self.aligned = config.mask_size, config.aligned
        self.stride, self.scored = config.strides[0], config.mask_scoring
        self.maps = 1 if config.class_agnostic_masks else classes
        self.edge = config.point_edge
        self.pool = (PointPool if config.point_coarse == "points" else PyramidPool)(config, POOLED)
        width = config.mask_dim
        self.coarse = nn.Sequential(
            nn.Conv2d(config.fpn_channels, width, 2, stride=2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(width * COARSE**2, config.box_dim),
            nn.ReLU(inplace=True),
            nn.Linear(config.box_dim, config.box_dim),
            nn.ReLU(inplace=True),
            nn.Linear(config.box_dim, self.maps * COARSE**2),
        )
        self.point = PointHead(config.fpn_channels, width, self.maps)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features (n, c, 14, 14) to coarse logits (n, classes or 1, 7, 7), float32."""
        logits: Tensor = self.coarse(pooled)
        return logits.float().view(-1, self.maps, COARSE, COARSE)

    def fine(self, level: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
        """Read the finest level (c, h, w) at points (n, p, 2) in 0..1 of boxes: (n, c, p)."""
        return read_level(level, boxes, points, self.stride, self.edge)

    def losses(
        self,
        features: Sequence[Tensor],
        pooled: Tensor,
        matched: list[Matched],
        truths: list[Truth],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Cross-entropy of the coarse mask, and of the point head at uncertain points.

        Returns:
            The losses, and the predicted probabilities (n, s, s) without gradient (only if the
            model scores masks; subdivision takes time).
        """
        coarse = self(pooled)
        labels = torch.cat([m.labels for m in matched])
        if len(coarse) == 0:
            nothing = coarse.sum() * 0 + sum(p.sum() * 0 for p in self.point.parameters())
            return {"mask": nothing}, coarse.new_zeros(0, self.size, self.size)
        chosen = of_class(coarse, labels)
        goal = cell_targets(matched, truths, COARSE, self.aligned)
        coarse_loss = functional.binary_cross_entropy_with_logits(chosen, goal)
        with torch.no_grad():
            points = uncertain_points(chosen, TRAIN_POINTS, self.edge)
        counts = [len(m.labels) for m in matched]
        fine, wanted = [], []
        for i, (m, truth, own) in enumerate(
            zip(matched, truths, points.split(counts), strict=True)
        ):
            if len(own):
                fine.append(self.fine(features[0][i], m.boxes, own))
                wanted.append(point_targets(truth, m.truth, m.boxes, own))
        logits = of_class(
            self.point(torch.cat(fine), read_points(coarse, points, self.edge))[..., None], labels
        )
        point_loss = functional.binary_cross_entropy_with_logits(logits[..., 0], torch.cat(wanted))
        losses = {"mask": coarse_loss, "mask_point": point_loss}
        return losses, self._refined(coarse, features[0], matched)

    @torch.no_grad()
    def _refined(self, coarse: Tensor, finest: Tensor, matched: list[Matched]) -> Tensor:
        if not self.scored:
            return coarse.new_zeros(0, self.size, self.size)
        parts = coarse.split([len(m.labels) for m in matched])
        return torch.cat(
            [
                self.subdivide(part, level, m.boxes, m.labels).sigmoid()
                for part, level, m in zip(parts, finest, matched, strict=True)
            ]
        )

    def predict(
        self, features: Sequence[Tensor], pooled: Tensor, boxes: Tensor, labels: Tensor
    ) -> Tensor:
        """Probabilities (n, s, s) inside boxes (n, 4) of one image."""
        return self.subdivide(self(pooled), features[0][0], boxes, labels).sigmoid()

    def subdivide(self, coarse: Tensor, level: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Double coarse logits (n, maps, 7, 7) until (n, s, s), mending the uncertain points."""
        logits = of_class(coarse, labels)[:, None]
        while logits.shape[-1] < self.size:
            logits = functional.interpolate(
                logits, scale_factor=2, mode="bilinear", align_corners=False
            )
            side = logits.shape[-1]
            flat = logits.view(len(logits), side**2)
            count = min(STEP_POINTS, side**2)
            cells = flat.abs().topk(count, largest=False).indices
            points = grid_points(side, flat.device)[cells]
            known = read_points(coarse, points, self.edge)
            mended = self.point(self.fine(level, boxes, points), known)
            logits = flat.scatter(1, cells, of_class(mended[..., None], labels)[..., 0])
            logits = logits.view(-1, 1, side, side)
        return logits[:, 0]
