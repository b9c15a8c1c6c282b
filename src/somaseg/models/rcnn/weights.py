"""Start a detector from another one's weights: torchvision's COCO models, or a file of any."""

import logging

import torch
from torch import Tensor, nn

from somaseg.errors import SomasegError
from somaseg.models.foreign.detector import background_first
from somaseg.models.foreign.names import NETWORK, TABLES, rename
from somaseg.models.nn.encoders import read_weights, widened

log = logging.getLogger(__name__)


def read_pretrained(pretrained: str, backbone: str) -> dict[str, Tensor]:
    """Read the weights of a whole detector, under our names; empty if it is not one that is asked.

    Raises:
        SomasegError: ``coco`` cannot be downloaded or has no such backbone; an unreadable file.
    """
    if pretrained in ("auto", "imagenet", "none"):
        return {}
    weights = _coco(backbone) if pretrained == "coco" else read_weights(pretrained)
    for library, table in TABLES.items():
        ours, _ = rename(weights.items(), table)
        if f"{NETWORK}conv1.weight" in ours or any(n.startswith("backbone.enc") for n in ours):
            return ours if library == "torchvision" else background_first(ours)
    return {}


def fill_detector(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy every tensor that fits by name and shape; say which did not.

    The encoder must fit as a whole. Heads may differ: other classes, anchors or sizes start anew.

    Raises:
        SomasegError: the file is of another encoder.
    """
    wanted = model.state_dict()
    weights = widened(weights, wanted)
    fits = {k: v for k, v in weights.items() if k in wanted and v.shape == wanted[k].shape}
    missing = [k for k in wanted if k not in fits and not k.endswith("num_batches_tracked")]
    encoder = [k for k in missing if k.startswith("backbone.encoder.")]
    if encoder:
        raise SomasegError(
            f"{source}: does not fit this backbone (tensor {encoder[0]} is missing or of another "
            "shape); set `backbone` to the one it was trained with"
        )
    if spare := [k for k in weights if k not in wanted and k.startswith(("backbone.", "rpn."))]:
        raise SomasegError(f"{source}: {leftover(spare)}")
    model.load_state_dict(fits, strict=False)
    if missing:
        log.info("%s: %d tensors start anew, %s", source, len(missing), ", ".join(missing))


def leftover(names: list[str]) -> str:
    """Say what it means that a file has features or proposals of tensors that a model lacks."""
    return (
        f"{len(names)} of its tensors have no place in this model ({names[0]}, …), so its features "
        "would be others; make it a model with `somaseg import`, and train that: --model"
    )


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
