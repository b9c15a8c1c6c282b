"""The flow family's model: a U-Net on a pretrained encoder, or Cellpose's own network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from somaseg.errors import SomasegError
from somaseg.models.base import Batch, Gray, Maps
from somaseg.models.config import ModelInfo
from somaseg.models.dense import run_scaled_each
from somaseg.models.flow.checkpoint import load_cellpose
from somaseg.models.flow.config import CPNET, FlowConfig
from somaseg.models.flow.network import MARGIN, FlowNetwork
from somaseg.models.flow.tiling import resize_bilinear, run_tiled
from somaseg.models.nn.cpnet import CPNet
from somaseg.models.nn.encoders import Encoder
from somaseg.models.nn.unet import UNet


class FlowModel(FlowNetwork):
    """Flows by a U-Net on a timm encoder at half resolution, or by Cellpose's network at full."""

    config: FlowConfig
    net: UNet | CPNet

    def __init__(self, config: FlowConfig, info: ModelInfo) -> None:
        super().__init__(config, info)
        if config.encoder == CPNET:
            self.net = CPNet(len(info.names), config.widths)
            if config.pretrained not in ("auto", "none"):
                self._start_from_cellpose(self.net)
        else:
            encoder = Encoder(config.encoder, config.pretrained, info.inputs)
            self.net = UNet(encoder, config.decoder, 3 + len(info.names))
        self.diameter = config.diameter
        self.label_stride = self.net.stride
        self.label_margin = MARGIN // self.net.stride
        self.multiple = self.net.multiple
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, mode: bool = True) -> "FlowModel":
        """Switch to training; a timm encoder's batch statistics may stay as they were."""
        super().train(mode)
        if isinstance(self.net, UNet) and self.config.freeze_norm and mode:
            for module in self.net.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """½·MSE of the flows, binary cross-entropy of the foreground, cross-entropy of classes."""
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        return super().losses({**batch, "image": image})

    def core(self) -> tuple[nn.Module, tuple[int, int, int, int]]:
        """The whole network."""
        side = max(2 * self.multiple, 16)
        return self.net, (1, self.info.inputs, side, side)

    def maps(self, gray: Gray) -> Maps:
        """Flows in network units, cell logit, class logits: float32 (3 + classes, h, w)."""
        if isinstance(self.net, UNet):
            return self.maps_each([gray])[0]
        maps = run_tiled(
            self.run,
            gray,
            self.scale,
            tile=self.config.tile,
            flip=self.config.flip_tiles,
            zeros=self.config.zero_padding,
            device=self.device,
        )
        return resize_bilinear(maps, (gray.shape[0], gray.shape[1]))

    def maps_each(self, grays: Sequence[Gray]) -> list[Maps]:
        """Maps of images of one shape; a U-Net takes them at once."""
        if isinstance(self.net, UNet):
            return run_scaled_each(self.net, grays, self.scale, self.multiple, self.run)
        return super().maps_each(grays)

    def _start_from_cellpose(self, net: CPNet) -> None:
        learned = load_cellpose(net, self.config.pretrained)
        if abs(learned - self.config.diameter) > 0.5:
            raise SomasegError(
                f"{self.config.pretrained}: has learned cells of {learned:g} pixels, but "
                f"model.diameter is {self.config.diameter:g}; set it to {learned:g}"
            )
