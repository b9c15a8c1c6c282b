"""Make a somaseg model of a Cellpose model, so that `somaseg predict` and all else take it."""

from pathlib import Path

from somaseg.models.cellpose.config import CellposeConfig
from somaseg.models.cellpose.model import CellposeModel
from somaseg.models.config import ModelInfo
from somaseg.models.flow.checkpoint import DIAMETER, learned_diameter, read_checkpoint
from somaseg.models.flow.config import CPNET, FlowConfig
from somaseg.models.flow.model import FlowModel
from somaseg.models.flow.network import FlowNetwork

OWN_THRESHOLDS = {"probability": 0.5, "max_flow_error": 0.4, "min_area": 15, "zero_padding": True}
"""Cellpose's defaults: a logit of 0, flow threshold 0.4, 15 pixels."""
SETTLE = {"score": 0.0, "mask_threshold": 0.0, "nms_iou": 1.0, "min_area": 15}
"""With hard thresholds there is nothing left to settle: Cellpose's masks come out."""


def import_cellpose(
    weights: str | Path, diameter: float | None = None, name: str = "cell"
) -> FlowNetwork:
    """Read a Cellpose model of any version; it predicts what the package would.

    Args:
        weights: path, or a name that Cellpose knows (cyto3, livecell_cp3, cpsam, ...), which is
            downloaded the first time.
        diameter: of the cells in the images, in pixels; by default that of the cells that the
            model was trained on.
        name: class of the cells.

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
        card={"weights": f"Cellpose model {path.name}, {'1 to 3' if is_older else '4'}"},
    )
    if is_older:
        model: FlowNetwork = FlowModel(
            FlowConfig(
                encoder=CPNET, pretrained=str(path.resolve()), diameter=learned, **OWN_THRESHOLDS
            ),
            info,
        )
    else:
        model = CellposeModel(
            CellposeConfig(pretrained=str(path.resolve()), **OWN_THRESHOLDS), info
        )
    model.eval()
    return model
