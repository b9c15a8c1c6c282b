"""Config of the cellpose family."""

from typing import Literal

from pydantic import Field

from somaseg.models.flow.config import FlowDecoding


class CellposeConfig(FlowDecoding):
    """Cellpose 4's vision transformer (cpsam), to predict with or to train further.

    It has learned cells of many sizes, around 30 pixels. Images are scaled so that the cells of the
    training data become as large; ``image_diameter: 30`` leaves images as they are.
    """

    family: Literal["cellpose"] = "cellpose"
    pretrained: str = Field(
        "cpsam", description="a Cellpose 4 model, by path or name (cpsam, cpsam_v2), or none"
    )
    zero_padding: bool = Field(True, description="pad images with zeros, as Cellpose")

    @property
    def most_channels(self) -> int:
        """The network looks at three, in any order."""
        return 3
