"""The package's network with one head more, and its weights.

Source: Pachitariu, Rariden, Stringer, "Cellpose-SAM: superhuman generalization for cellular
segmentation" (2025): the image encoder of SAM's ViT-L on 8×8 pixels a token, global attention in
each layer, and one linear layer that gives each token's pixels their flows and cell logit.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from somaseg.errors import SomasegError
from somaseg.models.flow.checkpoint import read_checkpoint

FIELDS = 3
"""Outputs of the package's own models: flow dy, dx and the cell logit."""


class SamFlows(nn.Module):
    """Cellpose 4's network: images (b, 1 to 3, 256, 256) to maps (b, 3 + classes, 256, 256).

    The package puts logits of classes before the flows; here they come after, as in all networks
    of flows.

    Args:
        classes: logits besides Cellpose's three outputs.

    Raises:
        SomasegError: the cellpose package is not installed, or another version than 4.
    """

    side = 256
    """The only size of images: each token's position is learned."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = _network_class()(nout=FIELDS + classes)
        # The package's forward pass leaves this layer out of the gradient.
        self.net.encoder.patch_embed.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Images (b, 1 to 3, 256, 256) to maps (b, 3 + classes, 256, 256)."""
        if image.shape[-2:] != (self.side, self.side):
            raise SomasegError(
                f"Cellpose 4 takes images of {self.side}×{self.side} pixels, not "
                f"{image.shape[-1]}×{image.shape[-2]}; set training.crop to {self.side}"
            )
        empty = torch.zeros_like(image[:, :1]).expand(-1, 3 - image.shape[1], -1, -1)
        out: Tensor = self.net(torch.cat([image, empty], 1))[0]
        return torch.cat([out[:, -FIELDS:], out[:, :-FIELDS]], 1)


def load_weights(network: SamFlows, name: str) -> None:
    """Copy the weights of a Cellpose 4 model into a network, in place.

    Classes that the model has are left out, those of the network stay as they are.

    Raises:
        SomasegError: not found, or not such a model.
    """
    path, tensors = read_checkpoint(name)
    if any(key.startswith("downsample.") for key in tensors):
        raise SomasegError(
            f"{path}: a model of Cellpose 1 to 3; use `family: flow` with `encoder: cpnet` and "
            "`pretrained: PATH`, which is the same network"
        )
    if "encoder.cls_token" in tensors:
        raise SomasegError(f"{path}: a Cellpose-DINO model; only those on SAM are supported")
    state = network.net.state_dict()
    for key, ours in state.items():
        if key == "W2" or key.startswith("diam_"):
            continue  # constants
        theirs = tensors.get(key)
        if theirs is not None and key.startswith("out."):
            # The rows of the last three outputs, and before them ours.
            rows = FIELDS * network.net.ps**2
            theirs = torch.cat([ours[:-rows], theirs[-rows:].to(ours.dtype)])
        if theirs is None or theirs.shape != ours.shape:
            found = "missing" if theirs is None else f"of shape {tuple(theirs.shape)}"
            raise SomasegError(
                f"{path}: not a Cellpose 4 model: {key} is {found}, not {tuple(ours.shape)}"
            )
        state[key] = theirs
    network.net.load_state_dict(state)


def _network_class() -> Any:
    # The package warns of every further network that it could have.
    logger = logging.getLogger("cellpose")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        try:
            from cellpose.vit import CPSAM
        except ModuleNotFoundError as error:
            if error.name != "cellpose.vit":
                raise
            # The first releases of version 4 call it so.
            from cellpose.vit_sam import Transformer as CPSAM
    except ImportError as error:
        raise SomasegError(
            f"family 'cellpose' needs the cellpose package, version 4 ({error}); "
            "run `pip install 'somaseg[cellpose]'`"
        ) from error
    finally:
        logger.setLevel(level)
    return CPSAM
