"""Make somaseg models of what other libraries have left in a file."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.models.config import ModelInfo
from somaseg.models.foreign.detector import convert_detector
from somaseg.models.rcnn.model import RCNN
from somaseg.models.registry import parse_config


def build_detector(
    tensors: dict[str, Tensor],
    library: str,
    fields: Mapping[str, Any],
    names: Sequence[str],
    source: str,
    diameter: float = 30.0,
) -> RCNN:
    """Make a two-stage model that computes what the library's own would.

    Args:
        tensors: under the library's names.
        library: torchvision, detectron2 or mmdet.
        fields: see :func:`somaseg.models.foreign.detector.convert_detector`.
        names: of the classes; none counts them: class 1, class 2, ...
        source: the file, which the config names as what the model started from.
        diameter: of the cells, in image pixels.

    Raises:
        SomasegError: tensors that are left over, missing or of another shape; named.
    """
    ours, found, classes = convert_detector(tensors, library, fields)
    if names and len(names) != classes:
        raise SomasegError(f"the file has {classes} classes, not {len(names)} ({', '.join(names)})")
    names = tuple(names) or tuple(f"class {i + 1}" for i in range(classes))
    config: Any = parse_config({**found, "pretrained": source}, "its config")
    return RCNN.build(config, ModelInfo(names=tuple(names), diameter=diameter), ours)
