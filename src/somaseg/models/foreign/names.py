"""What other libraries call the tensors of a detector, and what we do: tables, nothing else.

A row is a pattern of their name and what replaces it; the first that matches the whole name counts.
``{s-1}`` in a replacement is a group of the pattern, less one.
"""

import re
from collections.abc import Iterable

from torch import Tensor

Table = tuple[tuple[str, str], ...]

NETWORK = "backbone.encoder.network."

TORCHVISION: Table = (
    (r"backbone\.body\.(.+)", NETWORK + r"\1"),
    # Older files lack the index of the convolution among its norm and activation.
    (r"(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.box_head\.(.+)", r"box.stages.0.head.\1"),
    (r"roi_heads\.box_predictor\.(.+)", r"box.stages.0.predictor.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(?P<s>\d)\.(.+)", r"mask.head.{s-1}.0.\2"),
    (r"roi_heads\.mask_head\.(.+)", r"mask.head.\1"),
    (r"roi_heads\.mask_predictor\.(.+)", r"mask.predictor.\1"),
    (r"(?:0\.0\.)?((?:backbone|rpn|box|mask|scoring)\..+)", r"\1"),
)
"""torchvision's detectors, of older and newer versions; and our own names, also as in our files."""

_STAGE = r"(?:\.(?P<i>\d))?"
_D2 = r"roi_heads\.mask_head\."
_D2_COARSE = r"roi_heads\.(?:mask_head\.coarse_head|mask_coarse_head)\."
_D2_POINT = r"roi_heads\.(?:mask_head\.point_head|mask_point_head)\."

DETECTRON2: Table = (
    (r"pixel_(?:mean|std)", ""),  # repeated from the config
    (r".*\.anchor_generator\.cell_anchors\.\d", ""),
    (r"backbone\.bottom_up\.stem\.conv1\.weight", NETWORK + "conv1.weight"),
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.(\w+)", NETWORK + r"bn1.\1"),
    (
        r"backbone\.bottom_up\.res(?P<s>\d)\.(\d+)\.shortcut\.norm\.(\w+)",
        NETWORK + r"layer{s-1}.\2.downsample.1.\3",
    ),
    (
        r"backbone\.bottom_up\.res(?P<s>\d)\.(\d+)\.shortcut\.(\w+)",
        NETWORK + r"layer{s-1}.\2.downsample.0.\3",
    ),
    (
        r"backbone\.bottom_up\.res(?P<s>\d)\.(\d+)\.conv(\d)\.norm\.(\w+)",
        NETWORK + r"layer{s-1}.\2.bn\3.\4",
    ),
    (
        r"backbone\.bottom_up\.res(?P<s>\d)\.(\d+)\.conv(\d)\.(\w+)",
        NETWORK + r"layer{s-1}.\2.conv\3.\4",
    ),
    (r"backbone\.fpn_lateral(?P<s>\d)\.(weight|bias)", r"backbone.fpn.inner_blocks.{s-2}.0.\2"),
    (r"backbone\.fpn_output(?P<s>\d)\.(weight|bias)", r"backbone.fpn.layer_blocks.{s-2}.0.\2"),
    (r"proposal_generator\.rpn_head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (
        r"proposal_generator\.rpn_head\.conv\.conv(\d)\.(weight|bias)",
        r"rpn.head.conv.\1.0.\2",
    ),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(\w+)", r"rpn.head.cls_logits.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(\w+)", r"rpn.head.bbox_pred.\1"),
    (rf"roi_heads\.box_head{_STAGE}\.fc(?P<s>[12])\.(\w+)", r"box.stages.{i}.head.fc{s+5}.\3"),
    (rf"roi_heads\.box_predictor{_STAGE}\.(\w+\.\w+)", r"box.stages.{i}.predictor.\2"),
    (_D2 + r"mask_fcn(?P<s>\d)\.(weight|bias)", r"mask.head.{s-1}.0.\2"),
    (_D2 + r"deconv\.(\w+)", r"mask.predictor.conv5_mask.\1"),
    (_D2 + r"predictor\.(\w+)", r"mask.predictor.mask_fcn_logits.\1"),
    (_D2_COARSE + r"reduce_spatial_dim_conv\.(\w+)", r"mask.coarse.0.\1"),
    (_D2_COARSE + r"(?:coarse_mask_)?fc1\.(\w+)", r"mask.coarse.3.\1"),
    (_D2_COARSE + r"(?:coarse_mask_)?fc2\.(\w+)", r"mask.coarse.5.\1"),
    (_D2_COARSE + r"prediction\.(\w+)", r"mask.coarse.7.\1"),
    (_D2_POINT + r"fc(?P<s>\d)\.(\w+)", r"mask.point.layers.{s-1}.\2"),
    (_D2_POINT + r"predictor\.(\w+)", r"mask.point.predictor.\1"),
)
"""detectron2's R-CNNs on ResNet-FPN, and its PointRend of both layouts."""

_MM = r"roi_head\.mask_head\."
_MM_STAGE = r"roi_head\.mask_head\.(\d)\."
_MM_IOU = r"roi_head\.mask_iou_head\."

MMDETECTION: Table = (
    (r"data_preprocessor\.\w+", ""),  # repeated from the config
    (r"backbone\.((?:conv1|bn1|layer\d)\..+)", NETWORK + r"\1"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", r"backbone.fpn.inner_blocks.\1.0.\2"),
    (r"neck\.fpn_convs\.([0-3])\.conv\.(\w+)", r"backbone.fpn.layer_blocks.\1.0.\2"),
    (r"rpn_head\.rpn_conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"rpn_head\.rpn_cls\.(\w+)", r"rpn.head.cls_logits.\1"),
    (r"rpn_head\.rpn_reg\.(\w+)", r"rpn.head.bbox_pred.\1"),
    (
        rf"roi_head\.bbox_head{_STAGE}\.shared_fcs\.(?P<s>[01])\.(\w+)",
        r"box.stages.{i}.head.fc{s+6}.\3",
    ),
    (rf"roi_head\.bbox_head{_STAGE}\.fc_cls\.(\w+)", r"box.stages.{i}.predictor.cls_score.\2"),
    (rf"roi_head\.bbox_head{_STAGE}\.fc_reg\.(\w+)", r"box.stages.{i}.predictor.bbox_pred.\2"),
    (_MM + r"convs\.(\d)\.conv\.(weight|bias)", r"mask.head.\1.0.\2"),
    (_MM + r"upsample\.(\w+)", r"mask.predictor.conv5_mask.\1"),
    (_MM + r"conv_logits\.(\w+)", r"mask.predictor.mask_fcn_logits.\1"),
    (_MM_STAGE + r"convs\.(\d)\.conv\.(weight|bias)", r"mask.stages.\1.head.\2.0.\3"),
    (_MM_STAGE + r"upsample\.(\w+)", r"mask.stages.\1.predictor.conv5_mask.\2"),
    (_MM_STAGE + r"conv_logits\.(\w+)", r"mask.stages.\1.predictor.mask_fcn_logits.\2"),
    (_MM_IOU + r"convs\.(?P<s>\d)\.(\w+)", r"scoring.layers.{s*2}.\2"),
    (_MM_IOU + r"fcs\.0\.(\w+)", r"scoring.layers.9.\1"),
    (_MM_IOU + r"fcs\.1\.(\w+)", r"scoring.layers.11.\1"),
    (_MM_IOU + r"fc_mask_iou\.(\w+)", r"scoring.layers.13.\1"),
    (_MM + r"downsample_conv\.conv\.(\w+)", r"mask.coarse.0.\1"),
    (_MM + r"fcs\.0\.(\w+)", r"mask.coarse.3.\1"),
    (_MM + r"fcs\.1\.(\w+)", r"mask.coarse.5.\1"),
    (_MM + r"fc_logits\.(\w+)", r"mask.coarse.7.\1"),
    (r"roi_head\.point_head\.fcs\.(\d)\.conv\.(\w+)", r"mask.point.layers.\1.\2"),
    (r"roi_head\.point_head\.fc_logits\.(\w+)", r"mask.point.predictor.\1"),
)
"""MMDetection's Mask, Mask Scoring, Cascade and PointRend R-CNNs on ResNet-FPN."""

TABLES = {"torchvision": TORCHVISION, "detectron2": DETECTRON2, "mmdet": MMDETECTION}
"""By what `somaseg import --from` calls the library."""


def rename(
    tensors: Iterable[tuple[str, Tensor]], table: Table
) -> tuple[dict[str, Tensor], list[str]]:
    """Give tensors our names.

    Returns:
        the tensors, without those that a table drops and the counts of batches seen; and their
        names of those that no row of the table knows.
    """
    ours: dict[str, Tensor] = {}
    unknown = []
    rows = [(re.compile(pattern), name) for pattern, name in table]
    for theirs, tensor in tensors:
        if theirs.endswith("num_batches_tracked"):
            continue
        for pattern, name in rows:
            if found := pattern.fullmatch(theirs):
                if name:
                    ours[_filled(found, name)] = tensor
                break
        else:
            unknown.append(theirs)
    return ours, unknown


def _filled(found: re.Match[str], name: str) -> str:
    """Fill groups into a replacement, and into ``{s-1}`` or ``{s*2}`` a group with a sum."""

    def number(match: re.Match[str]) -> str:
        value = int(found[match["group"]] or 0)  # a lone stage has no number
        by = int(match["by"] or 0)
        return str({"-": value - by, "+": value + by, "*": value * by, None: value}[match["sign"]])

    text = re.sub(r"\{(?P<group>\w)(?:(?P<sign>[-+*])(?P<by>\d))?\}", number, name)
    return found.expand(text)
