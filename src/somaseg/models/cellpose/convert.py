"""Make a somaseg model of a Cellpose model, so that `somaseg predict` and all else take it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from somaseg.models.cellpose.config import CellposeConfig
from somaseg.models.config import ModelInfo
from somaseg.models.flow.checkpoint import DIAMETER, learned_diameter, read_checkpoint
from somaseg.models.flow.config import CPNET, FlowConfig, FlowDecoding
from somaseg.models.flow.network import FlowNetwork
from somaseg.models.registry import build_model

OWN_THRESHOLDS = {"probability": 0.5, "max_flow_error": 0.4, "min_area": 15, "zero_padding": True}
"""Cellpose's defaults: a logit of 0, flow threshold 0.4, 15 pixels."""
SETTLE = {"score": 0.0, "mask_threshold": 0.0, "nms_iou": 1.0, "min_area": 15}
"""With hard thresholds there is nothing left to settle: Cellpose's masks come out."""


def import_cellpose(
    weights: str | Path,
    diameter: float | None = None,
    name: str = "cell",
    channels: Sequence[str] = (),
) -> FlowNetwork:
    """Read a Cellpose model of any version; it predicts what the package would.

    Args:
        weights: path, or a name that Cellpose knows (cyto3, livecell_cp3, cpsam, ...), which is
            downloaded the first time.
        diameter: of the cells in the images, in pixels; by default that of the cells that the
            model was trained on.
        name: class of the cells.
        channels: of the images, that the model looks at: the cells', then the nuclei's if it has
            learned from both (``--chan``, ``--chan2``); without, images are gray.

    Raises:
        SomasegError: not found, cannot be downloaded, not a Cellpose model, or one of version 4
            without the package.
    """
    path, tensors = read_checkpoint(weights)
    learned = learned_diameter(path, tensors)
    trained_on = float(tensors["diam_labels"]) if "diam_labels" in tensors else learned
    is_older = any(key.startswith("downsample.") for key in tensors)
    info = ModelInfo(
        names=(name,),
        diameter=diameter or (trained_on if is_older else DIAMETER),
        settle={name: dict(SETTLE)},
        channels=tuple(channels),
        card={"weights": f"Cellpose model {path.name}, {'1 to 3' if is_older else '4'}"},
    )
    given: dict[str, Any] = {"pretrained": str(path.resolve()), **OWN_THRESHOLDS}
    if is_older:
        config: FlowDecoding = FlowConfig(encoder=CPNET, diameter=learned, **given)
    else:
        config = CellposeConfig(**given)
    model = build_model(config, info)
    assert isinstance(model, FlowNetwork)
    return model.eval()
