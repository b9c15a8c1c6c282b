"""The cellpose family's model."""

from somaseg.models.base import Gray, Maps
from somaseg.models.cellpose.config import CellposeConfig
from somaseg.models.cellpose.network import SamFlows, load_weights
from somaseg.models.config import ModelInfo
from somaseg.models.flow.checkpoint import DIAMETER
from somaseg.models.flow.network import MARGIN, FlowNetwork
from somaseg.models.flow.tiling import resize_bilinear, run_tiled


class CellposeModel(FlowNetwork):
    """Cellpose 4: its network, its way over an image, its losses; our targets and decoding.

    The last two give the package's own flows and masks, faster (``benchmarks/flows.py``).
    """

    config: CellposeConfig
    net: SamFlows
    label_stride = 1
    label_margin = MARGIN
    multiple = SamFlows.side
    diameter = DIAMETER

    def __init__(self, config: CellposeConfig, info: ModelInfo) -> None:
        super().__init__(config, info)
        self.net = SamFlows(len(info.names))
        if config.pretrained != "none":
            load_weights(self.net, config.pretrained)

    def maps(self, gray: Gray) -> Maps:
        """Flows in network units, cell logit, class logits: float32 (3 + classes, h, w)."""
        maps = run_tiled(
            self.net,
            gray,
            self.scale,
            tile=SamFlows.side,
            smallest=SamFlows.side,
            flip=self.config.flip_tiles,
            zeros=self.config.zero_padding,
            device=self.device,
        )
        return resize_bilinear(maps, (gray.shape[0], gray.shape[1]))
