"""Networks of segmentation-models-pytorch: their encoder and decoder in the semantic family."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.models.config import ModelInfo
from somaseg.models.registry import parse_config
from somaseg.models.semantic.model import SemanticModel

OURS = "net.net."
"""What comes before smp's names in a model of the semantic family."""

_DECODERS = (
    ("UnetPlusPlus", r"decoder\.blocks\.x_\d_\d\..+"),
    ("Unet", r"decoder\.blocks\.\d\.conv1\.0\.weight"),
    ("FPN", r"decoder\.seg_blocks\..+"),
    ("Linknet", r"decoder\.blocks\.\d\.block\..+"),
    ("DeepLabV3Plus", r"decoder\.aspp\..+"),
    ("MAnet", r"decoder\.center\.top_conv\..+"),
)
_RESNETS = {(2, False): "resnet18", (6, False): "resnet34", (6, True): "resnet50"}
_RESNETS |= {(23, True): "resnet101", (36, True): "resnet152"}


def build_semantic(
    tensors: Mapping[str, Tensor],
    fields: Mapping[str, Any],
    names: Sequence[str],
    source: str,
    diameter: float | None,
) -> tuple[SemanticModel, list[str]]:
    """Make a semantic model of a network of smp.

    One output is taken as the logit of the foreground, and cells are its connected parts. Of
    several outputs no file says what they are: encoder and decoder are taken, the head is fresh.

    Args:
        tensors: ``encoder.*``, ``decoder.*`` and ``segmentation_head.*``.
        fields: of our config; encoder and architecture where they cannot be told from the names.
        names: of the classes.
        source: the file.
        diameter: of the cells, in image pixels.

    Returns:
        the model, and what there is to say about it.

    Raises:
        SomasegError: an encoder or architecture that is not known, or tensors that do not fit.
    """
    names = tuple(names) or ("cell",)
    outputs = len(tensors["segmentation_head.0.bias"])
    whole = outputs == 1
    size = {} if diameter is None else {"diameter": diameter}
    found = {
        "family": "semantic",
        "network": "smp",
        "architecture": _architecture(tensors),
        "pretrained": source,
        **({"border": False, "seeds": False, "probability": 0.5} if whole else {}),
        **size,
        **fields,
    }
    found.setdefault("encoder", _encoder(tensors))
    config: Any = parse_config(found, "its config")
    # One network pixel per image pixel: the file has learned the images as they are.
    info = ModelInfo(names=names, diameter=config.diameter)
    blank = config.model_copy(update={"pretrained": "none"})
    model = SemanticModel(blank, info)
    model.config = config
    state = model.state_dict()
    theirs = {f"{OURS}{name}": t for name, t in tensors.items()}
    theirs = {name: _three_channels(t, state.get(name)) for name, t in theirs.items()}
    for name in [n for n in theirs if n.startswith(f"{OURS}segmentation_head.0.")]:
        rows = theirs.pop(name)
        if whole:  # the classes' logits, which the file lacks, are zero: none is preferred
            state[name] = torch.cat([rows, torch.zeros_like(state[name][1:])])
    missing = [n for n in state if n not in theirs and "segmentation_head" not in n]
    wrong = [n for n, t in theirs.items() if n not in state or state[n].shape != t.shape]
    if missing or wrong:
        one = (wrong or missing)[0].removeprefix(OURS)
        raise SomasegError(
            f"{len(wrong)} tensors do not fit {config.architecture} on {config.encoder}, "
            f"{len(missing)} are missing ({one}); say what it is with "
            "--set encoder=NAME --set architecture=NAME"
        )
    model.load_state_dict(state | theirs)
    note = (
        "one output: taken as the foreground's logit"
        if whole
        else f"{outputs} outputs, of which the file does not say what they are: the head is fresh, "
        "train it (`somaseg train DATA --from`)"
    )
    return model.eval(), [note, "input: gray, 0 and 1 at the image's 1st and 99th percentile"]


def _three_channels(theirs: Tensor, ours: Tensor | None) -> Tensor:
    """A first convolution on gray images, for the same image in three channels."""
    if ours is None or theirs.dim() != 4 or theirs.shape[1] != 1 or ours.shape[1] != 3:
        return theirs
    return theirs.expand(-1, 3, -1, -1) / 3 if theirs.shape[0] == ours.shape[0] else theirs


def _architecture(tensors: Mapping[str, Tensor]) -> str:
    for architecture, pattern in _DECODERS:
        if any(re.fullmatch(pattern, name) for name in tensors):
            return architecture
    return "Unet"


def _encoder(tensors: Mapping[str, Tensor]) -> str:
    blocks = len({n.split(".")[2] for n in tensors if n.startswith("encoder.layer3.")})
    name = _RESNETS.get((blocks, "encoder.layer1.0.conv3.weight" in tensors))
    if name is None:
        raise SomasegError("its encoder is no ResNet; say which it is with --set encoder=NAME")
    return name
