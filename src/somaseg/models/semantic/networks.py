"""The networks that the semantic family can use."""

from typing import Any

from torch import Tensor, nn

from somaseg.errors import SomasegError
from somaseg.models.config import BUNDLED
from somaseg.models.nn.attention_unet import AttentionUNet
from somaseg.models.nn.encoders import Encoder, fill, load_pretrained, read_weights, widen
from somaseg.models.nn.unet import UNet
from somaseg.models.semantic.config import SemanticConfig

TIMM = "tu-"
"""What smp puts before the name of a timm encoder."""


class SmpNetwork(nn.Module):
    """An architecture of segmentation-models-pytorch on one of its encoders.

    Args:
        architecture: ``Unet``, ``UnetPlusPlus``, ``FPN``, ...
        encoder: one of smp's own (``resnet34``), or ``tu-`` and the name of a timm network.
        pretrained: ``auto``, ``imagenet``, ``none`` or a weights file, as for our own encoders.
        outputs: channels of the output map, which has the image's resolution.
        in_channels: of the image, as for our own encoders.

    Raises:
        SomasegError: unknown names, or weights that cannot be had.
    """

    stride = 1
    multiple = 32

    def __init__(
        self, architecture: str, encoder: str, pretrained: str, outputs: int, in_channels: int = 1
    ) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        if encoder.startswith("timm-tf_efficientnet_lite"):
            raise SomasegError(
                f"encoder {encoder!r}: pads and normalises otherwise than the weights expect; "
                f"use {TIMM}{encoder.removeprefix('timm-')}"
            )
        # smp knows the weights of its own encoders only; timm's are loaded by our rules.
        download = "imagenet" if pretrained == "imagenet" and encoder[:3] != TIMM else None
        try:
            self.net = smp.create_model(
                architecture, encoder, encoder_weights=download, in_channels=3, classes=outputs
            )
        except (KeyError, RuntimeError, ValueError) as error:
            if download and encoder in smp.encoders.get_encoder_names():
                raise _no_download(encoder, error) from error
            raise SomasegError(
                f"architecture {architecture!r} on encoder {encoder!r}: "
                f"segmentation-models-pytorch has none ({str(error.args[0])[:120]})"
            ) from error
        except OSError as error:
            raise _no_download(encoder, error) from error
        if encoder.startswith(TIMM):
            load_pretrained(self.net.encoder.model, encoder.removeprefix(TIMM), pretrained)
        elif pretrained == "auto":
            load_pretrained(self.net.encoder, encoder, pretrained)
        elif pretrained not in ("imagenet", "none"):
            fill(self.net.encoder, read_weights(pretrained), pretrained)
        widen(self.net.encoder, in_channels)

    @property
    def encoder(self) -> nn.Module:
        """The encoder."""
        encoder: nn.Module = self.net.encoder
        return encoder

    @property
    def head(self) -> nn.Conv2d:
        """The last convolution."""
        head: nn.Conv2d = self.net.segmentation_head[0]
        return head

    def forward(self, image: Tensor) -> Tensor:
        """Images (b, in_channels, h, w) to maps (b, outputs, h, w)."""
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        out: Tensor = self.net(image)
        return out


def build_network(config: SemanticConfig, outputs: int, in_channels: int = 1) -> Any:
    """Make the network: it has ``stride``, ``multiple``, a last convolution ``head``, and
    ``encoder`` unless it is from scratch.
    """
    if config.network == "attention_unet":
        return AttentionUNet(config.widths, outputs, in_channels)
    if config.network == "smp":
        encoder = config.encoder, config.pretrained
        return SmpNetwork(config.architecture, *encoder, outputs, in_channels)
    return UNet(Encoder(config.encoder, config.pretrained, in_channels), config.decoder, outputs)


def is_pretrained(config: SemanticConfig) -> bool:
    """Whether the encoder starts from weights: ``auto`` has them for the bundled encoder only."""
    if config.network == "attention_unet" or config.pretrained == "none":
        return False
    return config.pretrained != "auto" or config.encoder in (BUNDLED, TIMM + BUNDLED)


def _no_download(encoder: str, error: Exception) -> SomasegError:
    return SomasegError(
        f"encoder {encoder!r}: its ImageNet weights could not be downloaded "
        f"({type(error).__name__}); give a local file as `pretrained: PATH`, choose "
        f"`pretrained: none`, or use {TIMM}{BUNDLED}, whose weights are installed"
    )
