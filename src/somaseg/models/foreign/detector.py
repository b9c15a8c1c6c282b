"""Make a two-stage model of another library's: its tensors and what it computes otherwise."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.models.foreign.names import NETWORK, TABLES, rename

Tensors = dict[str, Tensor]

CAFFE = {"mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)}
"""Input of the Caffe weights, in 0..255, blue first."""
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
"""Input of PyTorch's own weights, in 0..255, red first."""

_COMMON: dict[str, Any] = {
    "family": "rcnn",
    "norm": "frozen",
    "shortest_side": 800,
    "longest_side": 1333,
    # Of images of 520 × 704, LIVECell's: the scale of training crops.
    "input_scale": round(800 / 520, 4),
    "input_levels": "full",
    "padding": "mean",
    "strides": (4, 8, 16, 32),
    "pool_level": True,
    "anchor_sizes": ((32,), (64,), (128,), (256,), (512,)),
    "anchor_ratios": (0.5, 1.0, 2.0),
    "rpn_pre_nms": (2000, 1000),
    "rpn_post_nms": (1000, 1000),
    "nms_across_classes": False,
    "score_floor": 0.05,
    "box_nms": 0.5,
    "detections": 100,
}
_PEERS: dict[str, Any] = {
    "anchors_rounded": False,
    "aligned": True,
    "roi_sampling": 0,
    "point_coarse": "points",
    "point_edge": "zeros",
}
DEFAULTS: Mapping[str, dict[str, Any]] = {
    "torchvision": _COMMON
    | {"aligned": False, "roi_sampling": 2, "rpn_pre_nms": (2000, 1000), **IMAGENET},
    "detectron2": _COMMON | _PEERS | {"stride_in_1x1": True, **CAFFE},
    "mmdet": _COMMON | _PEERS | {"cascade_mean": "logits", "mask_iou_limits": False, **IMAGENET},
}
"""What each library's published configs compute, in our terms; mean and std still in 0..255."""
MM_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
"""Standard deviations of box deltas by stage, as MMDetection's configs write them."""

_BLOCKS = {(2, 2): "resnet18", (6, 2): "resnet34", (6, 3): "resnet50"}
_BLOCKS |= {(23, 3): "resnet101", (36, 3): "resnet152"}


def convert_detector(
    tensors: Tensors, library: str, fields: Mapping[str, Any]
) -> tuple[Tensors, dict[str, Any], int]:
    """Rename and rearrange another library's tensors, and find the config that they are of.

    Args:
        tensors: under the library's names.
        library: a key of :data:`DEFAULTS`.
        fields: of our config, from the library's own config; they replace the defaults. Mean and
            std in 0..255; ``sizes_outside`` if anchors go by size first, then by ratio.

    Returns:
        tensors under our names, fields of the config, and the number of classes.

    Raises:
        SomasegError: tensors that have no place here, or an encoder that is not known; named.
    """
    ours, unknown = rename(tensors.items(), TABLES[library])
    if unknown:
        raise SomasegError(
            f"{len(unknown)} tensors have no place in somaseg's detector: {_some(unknown)}; "
            "predict there, and join its COCO results here (docs/model_files.md)"
        )
    if library != "torchvision":
        ours = background_first(ours)
    found = DEFAULTS[library] | read_shapes(ours, library) | dict(fields)
    sizes_outside = found.pop("sizes_outside", library == "detectron2")
    sizes, ratios = len(found["anchor_sizes"][0]), len(found["anchor_ratios"])
    if sizes_outside and sizes > 1:
        ours = anchors_by_ratio(ours, sizes, ratios)
    for name in ("mean", "std"):
        found[name] = tuple(value / 255 for value in found[name])
    anchors = len(ours["rpn.head.cls_logits.weight"])
    if anchors != sizes * ratios:
        raise SomasegError(
            f"the file has {anchors} anchors a place, and {sizes} sizes of {ratios} ratios are "
            "told; give its config with --config"
        )
    return ours, found, len(ours["box.stages.0.predictor.cls_score.bias"]) - 1


def read_shapes(ours: Tensors, library: str) -> dict[str, Any]:
    """Read what the shapes of tensors (our names) tell of the config.

    Raises:
        SomasegError: an encoder that is not known, or no detector.
    """
    for needed in ("rpn.head.cls_logits.weight", "box.stages.0.predictor.cls_score.bias"):
        if needed not in ours:
            raise SomasegError(f"no two-stage detector with a pyramid: {needed} is missing")
    stages = _count(ours, r"box\.stages\.(\d+)\.predictor\.cls_score\.bias")
    if stages not in (1, 3):
        raise SomasegError(f"a cascade of {stages} stages; here it has three")
    boxes = len(ours["box.stages.0.predictor.bbox_pred.bias"])
    hidden = ours["box.stages.0.predictor.cls_score.weight"].shape[1]
    fields: dict[str, Any] = {
        "backbone": _backbone(ours),
        "fpn_channels": len(ours["backbone.fpn.layer_blocks.0.0.weight"]),
        "head_norm": "batch" if "backbone.fpn.layer_blocks.0.1.running_mean" in ours else "none",
        "rpn_convs": _count(ours, r"rpn\.head\.conv\.(\d+)\.0\.weight"),
        "box_head": "cascade" if stages == 3 else "single",
        "box_dim": hidden,
        "box_convs": _count(ours, r"box\.stages\.0\.head\.(\d+)\.0\.weight"),
        "class_agnostic_boxes": boxes == 4 and stages == 1,
    }
    if library == "detectron2" and fields["backbone"].startswith("resnext"):
        fields |= {"stride_in_1x1": False, "std": (57.375, 57.12, 58.395)}
    elif fields["backbone"] in ("resnet18", "resnet34"):
        fields["stride_in_1x1"] = False  # they have no 1×1 convolution
    if library == "mmdet" and stages == 3:
        fields["box_weights"] = tuple(tuple(1 / std for std in stds) for stds in MM_STDS)
    if "mask.coarse.7.bias" in ours:
        last = ours["mask.point.predictor.weight"]
        fields |= {
            "mask_head": "point",
            "mask_size": 224,
            "mask_dim": len(ours["mask.point.layers.0.weight"]),
            "class_agnostic_masks": len(last) == 1,
        }
    else:
        prefix = "mask.stages.0." if "mask.stages.0.head.0.0.weight" in ours else "mask."
        if f"{prefix}predictor.mask_fcn_logits.bias" not in ours:
            raise SomasegError("a detector of boxes without masks; take it as a start (--from)")
        fields |= {
            "mask_head": "conv",
            "mask_size": 28,
            "mask_heads": "one" if prefix == "mask." else "stages",
            "mask_dim": len(ours[f"{prefix}head.0.0.weight"]),
            "mask_layers": _count(ours, re.escape(prefix) + r"head\.(\d+)\.0\.weight"),
            "class_agnostic_masks": len(ours[f"{prefix}predictor.mask_fcn_logits.bias"]) == 1,
        }
    if "scoring.layers.13.bias" in ours:
        fields |= {"mask_scoring": True, "scoring_dim": len(ours["scoring.layers.9.bias"])}
    return fields


def background_first(ours: Tensors) -> Tensors:
    """Put the background before the classes, where others have it after them or leave it out."""
    points = len(ours.get("mask.point.predictor.bias", ()))  # maps of a PointRend
    out = {}
    for name, tensor in ours.items():
        if ".predictor.cls_score." in name:
            tensor = tensor.roll(1, 0)
        elif ".predictor.bbox_pred." in name and len(tensor) > 4:
            tensor = _before(tensor, 4)
        elif name.startswith("scoring.layers.13.") or (
            ".mask_fcn_logits." in name and len(tensor) > 1
        ):
            tensor = _before(tensor, 1)
        elif points > 1 and name.startswith(("mask.coarse.7.", "mask.point.")):
            if name.startswith("mask.coarse.7."):
                tensor = _before(tensor, len(tensor) // points)
            elif name.endswith(".weight"):  # sees the background's coarse logit, too
                fine, coarse = tensor.split([tensor.shape[1] - points, points], 1)
                tensor = torch.cat([fine, torch.zeros_like(fine[:, :1]), coarse], 1)
            if name.startswith("mask.point.predictor."):
                tensor = _before(tensor, 1)
        out[name] = tensor
    return out


def anchors_by_ratio(ours: Tensors, sizes: int, ratios: int) -> Tensors:
    """Order the anchors' rows by ratio, then size, where they go by size, then ratio."""
    order = torch.arange(sizes * ratios).view(sizes, ratios).T.flatten()
    out = dict(ours)
    for name in ("weight", "bias"):
        out[f"rpn.head.cls_logits.{name}"] = ours[f"rpn.head.cls_logits.{name}"][order]
        deltas = ours[f"rpn.head.bbox_pred.{name}"]
        out[f"rpn.head.bbox_pred.{name}"] = deltas.unflatten(0, (-1, 4))[order].flatten(0, 1)
    return out


def _before(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([torch.zeros_like(tensor[:rows]), tensor])


def _backbone(ours: Tensors) -> str:
    depth = _count(ours, re.escape(NETWORK) + r"layer3\.(\d+)\.conv1\.weight")
    convs = 3 if f"{NETWORK}layer1.0.conv3.weight" in ours else 2
    name = _BLOCKS.get((depth, convs))
    if name is None or f"{NETWORK}bn1.running_mean" not in ours:
        raise SomasegError(
            "its encoder is no ResNet or ResNeXt of 18 to 152 layers with batch normalisation; "
            "predict there, and join its COCO results here (docs/model_files.md)"
        )
    middle = ours[f"{NETWORK}layer1.0.conv2.weight"]
    groups = middle.shape[0] // middle.shape[1]
    return (
        name if groups == 1 else f"{name.replace('resnet', 'resnext')}_{groups}x{middle.shape[1]}d"
    )


def _count(ours: Tensors, pattern: str) -> int:
    return len({found[1] for name in ours if (found := re.fullmatch(pattern, name))})


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
