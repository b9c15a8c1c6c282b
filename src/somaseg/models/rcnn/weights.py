"""Start a detector from another one's weights: torchvision's COCO models, or our own files."""

import logging

import torch
from torch import Tensor, nn

from somaseg.errors import SomasegError
from somaseg.models.nn.encoders import read_weights

log = logging.getLogger(__name__)

TORCHVISION = (
    ("backbone.body.", "backbone.encoder.network."),
    ("roi_heads.box_head.", "box.stages.0.head."),
    ("roi_heads.box_predictor.", "box.stages.0.predictor."),
    ("roi_heads.mask_head.", "mask.head."),
    ("roi_heads.mask_predictor.", "mask.predictor."),
)
"""Beginnings of names in torchvision's detectors, and in ours; all others are the same."""


def read_pretrained(pretrained: str, backbone: str) -> dict[str, Tensor]:
    """Read the weights of a whole detector, under our names; empty if it is not one that is asked.

    Raises:
        SomasegError: ``coco`` cannot be downloaded or has no such backbone; an unreadable file.
    """
    if pretrained in ("auto", "imagenet", "none"):
        return {}
    weights = _coco(backbone) if pretrained == "coco" else read_weights(pretrained)
    ours = {_our_name(name): value for name, value in weights.items()}
    return ours if any(name.startswith("backbone.") for name in ours) else {}


def fill_detector(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy every tensor that fits by name and shape; say which did not.

    The encoder must fit as a whole. Heads may differ: other classes, anchors or sizes start anew.

    Raises:
        SomasegError: the file is of another encoder.
    """
    wanted = model.state_dict()
    fits = {k: v for k, v in weights.items() if k in wanted and v.shape == wanted[k].shape}
    missing = [k for k in wanted if k not in fits and not k.endswith("num_batches_tracked")]
    encoder = [k for k in missing if k.startswith("backbone.encoder.")]
    if encoder:
        raise SomasegError(
            f"{source}: does not fit this backbone (tensor {encoder[0]} is missing or of another "
            "shape); set `backbone` to the one it was trained with"
        )
    model.load_state_dict(fits, strict=False)
    if missing:
        log.info("%s: %d tensors start anew, %s", source, len(missing), ", ".join(missing))


def _our_name(name: str) -> str:
    for theirs, ours in TORCHVISION:
        if name.startswith(theirs):
            return _version_2(ours + name[len(theirs) :])
    return _version_2(name)


def _version_2(name: str) -> str:
    """Rename the convolutions of torchvision's older checkpoints as it does itself on loading."""
    parts = name.split(".")
    tail = parts[-1]
    if name.startswith("backbone.fpn.") and len(parts) == 5:
        return ".".join([*parts[:4], "0", tail])
    if name in (f"rpn.head.conv.{tail}",):
        return f"rpn.head.conv.0.0.{tail}"
    if name.startswith("mask.head.mask_fcn"):
        return f"mask.head.{int(parts[2][len('mask_fcn') :]) - 1}.0.{tail}"
    return name


def _coco(backbone: str) -> dict[str, Tensor]:
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    if backbone != "resnet50":
        raise SomasegError(
            f"backbone {backbone!r}: torchvision has COCO weights for resnet50 only; choose it, "
            "or `pretrained: imagenet`"
        )
    url = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.url
    try:
        weights: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", weights_only=True
        )
    except Exception as error:  # no network, a broken download, a full disk
        raise SomasegError(
            f"the COCO weights could not be downloaded ({type(error).__name__}); fetch {url} where "
            "there is a network and give the file as `pretrained: PATH`"
        ) from error
    return weights
