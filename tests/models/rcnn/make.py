"""Small models, and cells in all forms that the checks need."""

import numpy as np
import torch

from somaseg.instances import Instances
from somaseg.models.rcnn.config import RCNNConfig
from somaseg.models.rcnn.targets import Truth
from somaseg.models.registry import build_model, parse_config
from tests.masks.strategies import blobs
from tests.models.contract import INFO

SMALL = {
    "family": "rcnn",
    "backbone": "tf_efficientnet_lite0",
    "pretrained": "auto",
    "input_scale": 1.0,
    "strides": (4, 8, 16),
    "pool_level": False,
    "fpn_channels": 48,
    "anchor_sizes": ((16,), (32,), (64,)),
    "anchor_ratios": (0.5, 1.0, 2.0),
    "rpn_pre_nms": (300, 300),
    "rpn_post_nms": (100, 100),
    "roi_samples": 64,
    "box_dim": 128,
    "mask_dim": 48,
    "scoring_dim": 64,
    "class_agnostic_masks": True,
}


def config(**fields):
    return RCNNConfig.model_validate(SMALL | fields)


def model(info=INFO, **fields):
    torch.manual_seed(0)
    return build_model(parse_config(SMALL | fields), info).eval()


def truth(n, size, seed=0, radius=(4, 12)):
    """Overlapping cells as `Truth`, and their full masks float32 (n, h, w)."""
    masks = blobs(n, size, seed, radius)
    classes = np.arange(n) % len(INFO.names)
    cells = Instances.from_masks(masks, classes=classes, names=INFO.names)
    return Truth.of(cells), torch.from_numpy(masks.astype(np.float32))


def near(boxes, seed, size, shift=4.0):
    """Boxes (n, 4) moved about inside the image, none empty."""
    rng = torch.Generator().manual_seed(seed)
    moved = boxes + shift * (2 * torch.rand(boxes.shape, generator=rng) - 1)
    low, high = torch.minimum(moved[:, :2], moved[:, 2:]), torch.maximum(moved[:, :2], moved[:, 2:])
    limits = torch.tensor([size[1], size[0]])
    low = torch.minimum(low.clamp(min=0), limits - 1)
    return torch.cat([low, torch.minimum(torch.maximum(high, low + 1), limits)], 1)
