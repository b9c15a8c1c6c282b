"""A detector of detectron2's names on a small ResNet, with random weights."""

import torch

from somaseg.models.config import ModelInfo
from somaseg.models.foreign.names import NETWORK
from somaseg.models.registry import build_model, parse_config


def small_detector(**fields):
    """Config of a detector as the importer finds it: ResNet-18, narrow heads."""
    config = {
        "family": "rcnn",
        "backbone": "resnet18",
        "pretrained": "none",
        "norm": "batch",
        "fpn_channels": 32,
        "box_dim": 64,
        "mask_dim": 32,
        "input_scale": 1.0,
        "anchor_sizes": ((32,), (64,), (128,), (256,), (512,)),
        "anchor_ratios": (0.5, 1.0, 2.0),
        "rpn_pre_nms": (200, 200),
        "rpn_post_nms": (50, 50),
    }
    return config | fields


def detectron2_tensors(classes=3):
    """Tensors under detectron2's names, background last, of a fresh detector."""
    torch.manual_seed(0)
    names = tuple(str(i) for i in range(classes))
    model = build_model(parse_config(small_detector()), ModelInfo(names=names, diameter=16))
    # Of an input of 0 to 255, as it is there.
    model.state_dict()[f"{NETWORK}bn1.running_var"].mul_(20_000)
    return {_their_name(k): _their_rows(k, t) for k, t in model.state_dict().items() if _kept(k)}


def _kept(name):
    return not name.endswith("num_batches_tracked")


def _their_name(name):
    if name.startswith(NETWORK):
        parts = name.removeprefix(NETWORK).split(".")
        if parts[0] in ("conv1", "bn1"):
            middle = "stem.conv1" + (".norm" if parts[0] == "bn1" else "")
        else:
            stage = f"res{int(parts[0][5:]) + 1}.{parts[1]}"
            if parts[2] == "downsample":
                middle = f"{stage}.shortcut" + (".norm" if parts[3] == "1" else "")
            else:
                norm = ".norm" if parts[2].startswith("bn") else ""
                middle = f"{stage}.conv{parts[2][-1]}{norm}"
        return f"backbone.bottom_up.{middle}.{parts[-1]}"
    tail = name.rsplit(".", 1)[-1]
    for level in range(4):
        name = name.replace(
            f"backbone.fpn.inner_blocks.{level}.0", f"backbone.fpn_lateral{level + 2}"
        )
        name = name.replace(
            f"backbone.fpn.layer_blocks.{level}.0", f"backbone.fpn_output{level + 2}"
        )
        if name.startswith(f"mask.head.{level}.0"):
            return f"roi_heads.mask_head.mask_fcn{level + 1}.{tail}"
    for ours, theirs in (
        ("rpn.head.conv.0.0", "proposal_generator.rpn_head.conv"),
        ("rpn.head.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
        ("rpn.head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"),
        ("box.stages.0.head.fc6", "roi_heads.box_head.fc1"),
        ("box.stages.0.head.fc7", "roi_heads.box_head.fc2"),
        ("box.stages.0.predictor", "roi_heads.box_predictor"),
        ("mask.predictor.conv5_mask", "roi_heads.mask_head.deconv"),
        ("mask.predictor.mask_fcn_logits", "roi_heads.mask_head.predictor"),
    ):
        name = name.replace(ours, theirs)
    return name


def _their_rows(name, tensor):
    if "cls_score" in name:
        return tensor.roll(-1, 0)
    if "box.stages.0.predictor.bbox_pred" in name:
        return tensor[4:]
    return tensor[1:] if "mask_fcn_logits" in name else tensor
