"""Masks as COCO writes them: polygons, compressed and plain run lengths."""

from pathlib import Path
from typing import Any

import numpy as np

from somaseg.data.faults import Faults
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.flat import Boxes, Pixels
from somaseg.masks.rle import coco_counts_to_crop, crops_to_counts, polygon_to_crop

NO_SEGMENTATION = "no segmentation; a box is not enough"
_SLACK = 1.0  # pixels a polygon may leave the image by: annotation tools snap to the border


def decode_segmentation(
    segmentation: Any, size: tuple[int, int], row: str, name: str, path: Path, faults: Faults
) -> tuple[Boxes, Pixels] | None:
    """Decode polygons or run lengths.

    Args:
        segmentation: what the JSON holds.
        size: ``(height, width)`` of the image.
        row: of the fault, if there is one.
        name: id of the image.
        path: file of the fault.
        faults: takes what is wrong.

    Returns:
        box int32 (4,) and crop uint8; none if the segmentation is not sound.
    """
    if isinstance(segmentation, list) and segmentation and not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # a polygon by itself, as some tools write it
    if isinstance(segmentation, dict):
        kind = "bad counts"
        rle_size = segmentation.get("size")
        if rle_size is not None and rle_size != list(size):
            message = f"its counts are for size {rle_size}, the image's is {list(size)}"
            faults.add("size mismatch", message, path, row, name)
            return None
    elif isinstance(segmentation, list) and segmentation:
        kind = "bad polygon"
    else:
        faults.add("empty mask", NO_SEGMENTATION, path, row, name)
        return None
    try:
        if isinstance(segmentation, dict):
            return coco_counts_to_crop(segmentation.get("counts", ()), size)
        found = polygon_to_crop(segmentation, size)
    except SomasegError as error:
        empty = "is empty" in str(error) or "covers no pixel" in str(error)
        faults.add("empty mask" if empty else kind, str(error), path, row, name)
        return None
    points = np.concatenate([np.asarray(polygon, float).reshape(-1, 2) for polygon in segmentation])
    beyond = max(float(-points.min()), float((points - (size[1], size[0])).max()))
    if beyond > _SLACK:
        message = f"reaches {beyond:.1f} pixels beyond the image: cut off"
        faults.add("polygon outside", message, path, row, name)
    return found


def coco_masks(instances: Instances) -> list[dict[str, Any]]:
    """COCO's ``segmentation`` and ``bbox`` (x, y, width, height) of each instance."""
    if instances.soft:
        raise SomasegError("soft masks cannot be written as run lengths; use binary() first")
    tight, rows = instances.tightened()
    if len(rows) != len(instances):
        raise SomasegError("an instance without a pixel cannot be written; drop it first")
    size = list(instances.size)
    return [
        {
            "segmentation": {"size": size, "counts": counts},
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }
        for counts, (x0, y0, x1, y1) in zip(
            crops_to_counts(*tight.flat, instances.size), tight.boxes.tolist(), strict=True
        )
    ]
