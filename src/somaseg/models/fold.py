"""Batch normalisation folded into the convolutions before it: the same maps by fewer steps."""

import copy
from typing import Any

import torch
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

# timm's BatchNormAct2d, which has an activation behind it, is an nn.BatchNorm2d.
_NORMS = (nn.BatchNorm2d, FrozenBatchNormAct2d, FrozenBatchNorm2d)
_TOLERANCE = 1e-4
"""Share of the largest output by which a folded network may differ: float32, many layers deep."""


def folded(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Return a copy for prediction with each normalisation in its convolution, or the network.

    Which convolution feeds which normalisation is seen in a run, not told from names, so it holds
    for networks of any library; each pair is joined by PyTorch's ``fuse_conv_bn_eval``. A network
    that has no such pair, or that gives other outputs on noise without them (as when a
    convolution's result is used elsewhere, too), is returned as it is.

    Args:
        network: on any device; not changed.
        shape: (b, c, h, w) of images that it takes.
    """
    if not any(isinstance(module, _NORMS) for module in network.modules()):
        return network
    training = {name: module.training for name, module in network.named_modules()}
    network.eval()
    try:
        weights = next(network.parameters())
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(weights)
        with torch.no_grad():  # weights made in inference mode could not be exported
            before, pairs = _watch(network, noise)
            made = copy.deepcopy(network)
            for conv, norm in pairs:
                _join(made, conv, norm)
            same = all(map(_close, before, _list(made(noise)))) if pairs else False
    finally:
        for name, module in network.named_modules():
            module.training = training[name]
    return made if same else network


def _watch(network: nn.Module, image: Tensor) -> tuple[list[Tensor], list[tuple[str, str]]]:
    """Outputs of a run, and the names of convolutions and normalisations that took their result."""
    made: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no id comes twice
    pairs: list[tuple[str, str]] = []
    hooks = []
    counts: dict[str, int] = {}

    def of_conv(name: str) -> object:
        def hook(_: nn.Module, __: object, out: Tensor) -> None:
            made[id(out)] = (name, out)
            counts[name] = counts.get(name, 0) + 1

        return hook

    def of_norm(name: str) -> object:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            counts[name] = counts.get(name, 0) + 1
            if id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][0], name))

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(of_conv(name)))  # type: ignore[arg-type]
        elif isinstance(module, _NORMS):
            hooks.append(module.register_forward_pre_hook(of_norm(name)))  # type: ignore[arg-type]
    try:
        out = [tensor.clone() for tensor in _list(network(image))]
    finally:
        for hook in hooks:
            hook.remove()
    # What runs more than once, as a head that levels share, is left alone.
    return out, [pair for pair in pairs if counts[pair[0]] == counts[pair[1]] == 1]


def _join(network: nn.Module, conv: str, norm: str) -> None:
    # Frozen ones, too, have what the function reads.
    old: Any = network.get_submodule(norm)
    fused: Any = fuse_conv_bn_eval(network.get_submodule(conv), old)  # type: ignore[type-var]
    network.set_submodule(conv, fused)
    # timm's normalisations carry their activation; one alone leaves nothing.
    rest = [getattr(old, part) for part in ("drop", "act") if hasattr(old, part)]
    network.set_submodule(norm, nn.Sequential(*rest))


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= _TOLERANCE * one.abs().max().clamp(min=1))


def _list(out: Tensor | list[Tensor]) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)
