"""What a config of detectron2 or MMDetection says, as fields of ours."""

from collections.abc import Mapping
from typing import Any

from somaseg.errors import SomasegError
from somaseg.models.foreign.configs import Unknown

_DETECTRON2 = {
    # ours: theirs, taken as it is
    "mean": "MODEL.PIXEL_MEAN",
    "std": "MODEL.PIXEL_STD",
    "stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
    "shortest_side": "INPUT.MIN_SIZE_TEST",
    "longest_side": "INPUT.MAX_SIZE_TEST",
    "rpn_nms": "MODEL.RPN.NMS_THRESH",
    "roi_sampling": "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
    "score_floor": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "box_nms": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "detections": "TEST.DETECTIONS_PER_IMAGE",
}
_MMDETECTION = {
    "mean": ("model.data_preprocessor.mean", "img_norm_cfg.mean"),
    "std": ("model.data_preprocessor.std", "img_norm_cfg.std"),
    "rpn_nms": (
        "model.test_cfg.rpn.nms.iou_threshold",
        "model.test_cfg.rpn.nms_thr",
        "test_cfg.rpn.nms_thr",
    ),
    "score_floor": ("model.test_cfg.rcnn.score_thr", "test_cfg.rcnn.score_thr"),
    "box_nms": (
        "model.test_cfg.rcnn.nms.iou_threshold",
        "model.test_cfg.rcnn.nms.iou_thr",
        "test_cfg.rcnn.nms.iou_thr",
    ),
    "detections": ("model.test_cfg.rcnn.max_per_img", "test_cfg.rcnn.max_per_img"),
    "roi_sampling": ("model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio",),
}


def detectron2_fields(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of our config that a config of detectron2 gives.

    Raises:
        SomasegError: it asks for what has no place here; named.
    """
    for path, allowed in (
        ("MODEL.META_ARCHITECTURE", ("GeneralizedRCNN",)),
        ("MODEL.RESNETS.RES5_DILATION", (1,)),
        ("MODEL.RESNETS.NORM", ("FrozenBN", "BN", "SyncBN")),
        ("MODEL.FPN.NORM", ("",)),
        ("MODEL.FPN.FUSE_TYPE", ("sum",)),
        ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", (7,)),
        ("MODEL.ROI_BOX_HEAD.NORM", ("",)),
        ("MODEL.ROI_MASK_HEAD.NORM", ("",)),
    ):
        _only(config, path, allowed, where)
    fields = {
        ours: value
        for ours, path in _DETECTRON2.items()
        if (value := _at(config, path)) is not None
    }
    pre, post = (
        tuple(
            _at(config, f"MODEL.RPN.{when}_NMS_TOPK_{phase}") or default for phase, default in both
        )
        for when, both in (
            ("PRE", (("TRAIN", 2000), ("TEST", 1000))),
            ("POST", (("TRAIN", 1000), ("TEST", 1000))),
        )
    )
    fields |= {"rpn_pre_nms": pre, "rpn_post_nms": post}
    kind = _at(config, "MODEL.ROI_BOX_HEAD.POOLER_TYPE")
    if kind in ("ROIAlign", "ROIAlignV2"):
        fields["aligned"] = kind == "ROIAlignV2"
    sizes = _at(config, "MODEL.ANCHOR_GENERATOR.SIZES")
    if sizes:
        fields["anchor_sizes"] = sizes * (5 if len(sizes) == 1 else 1)
    ratios = _at(config, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    if ratios:
        if any(other != ratios[0] for other in ratios):
            raise SomasegError(f"{where}: other ASPECT_RATIOS by level have no place here")
        fields["anchor_ratios"] = ratios[0]
    if _at(config, "MODEL.ROI_HEADS.NAME") == "CascadeROIHeads":
        fields["box_weights"] = _at(config, "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS")
    elif weights := _at(config, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"):
        fields["box_weights"] = (weights,)
    side = _at(config, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION")
    if side and _at(config, "MODEL.ROI_MASK_HEAD.NAME") in (None, "MaskRCNNConvUpsampleHead"):
        fields["mask_size"] = 2 * side
    return {name: value for name, value in fields.items() if value is not None}


def mmdetection_fields(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of our config that a config of MMDetection gives.

    Raises:
        SomasegError: it asks for what has no place here; named.
    """
    for path, allowed in (
        ("model.backbone.type", ("ResNet", "ResNeXt")),
        ("model.backbone.norm_cfg.type", ("BN", "SyncBN")),
        ("model.neck.type", ("FPN",)),
        ("model.neck.norm_cfg.type", ()),
        ("model.rpn_head.type", ("RPNHead",)),
        ("model.roi_head.bbox_roi_extractor.roi_layer.output_size", (7,)),
        ("model.rpn_head.anchor_generator.octave_base_scale", ()),
    ):
        _only(config, path, allowed, where)
    fields: dict[str, Any] = {}
    for ours, paths in _MMDETECTION.items():
        values = [value for path in paths if (value := _at(config, path)) is not None]
        fields |= {ours: values[0]} if values else {}
    if style := _at(config, "model.backbone.style"):
        fields["stride_in_1x1"] = style == "caffe"
    anchors = "model.rpn_head.anchor_generator"
    scales, ratios = _at(config, f"{anchors}.scales"), _at(config, f"{anchors}.ratios")
    strides = _at(config, f"{anchors}.strides")
    if scales and strides:
        fields["anchor_sizes"] = [[scale * stride for scale in scales] for stride in strides]
    if ratios:
        fields["anchor_ratios"] = ratios
    heads = _at(config, "model.roi_head.bbox_head") or {}
    stds = [
        _at(head, "bbox_coder.target_stds")
        for head in (heads if isinstance(heads, list) else [heads])
    ]
    if all(stds):
        fields["box_weights"] = [[1 / std for std in stage] for stage in stds]
    side = _at(config, "model.roi_head.mask_roi_extractor.roi_layer.output_size")
    if side and _at(config, "model.roi_head.point_head") is None:
        fields["mask_size"] = 2 * side
    if size := _resized(_at(config, "test_pipeline")):
        fields |= {"shortest_side": min(size), "longest_side": max(size)}
    for ours, when in (
        ("rpn_pre_nms", ("nms_pre",)),
        ("rpn_post_nms", ("max_per_img", "nms_post")),
    ):
        pair = tuple(
            next(
                (value for name in when if (value := _at(config, f"model.{path}.{name}"))), default
            )
            for path, default in (
                ("train_cfg.rpn_proposal", 2000 if ours == "rpn_pre_nms" else 1000),
                ("test_cfg.rpn", 1000),
            )
        )
        fields[ours] = pair
    return fields


def config_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names that a config of MMDetection gives; none if it does not."""
    for path in ("metainfo.classes", "metainfo.CLASSES", "classes", "CLASSES", "class_names"):
        names = _at(config, path)
        if isinstance(names, str):
            return (names,)
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


def _resized(pipeline: Any) -> list[int] | None:
    """Size that images are brought to in a test pipeline."""
    if isinstance(pipeline, list):
        return next((size for part in pipeline if (size := _resized(part))), None)
    if not isinstance(pipeline, dict):
        return None
    sides: Any = pipeline.get("scale" if pipeline.get("type") == "Resize" else "img_scale")
    if isinstance(sides, list) and len(sides) == 2 and all(isinstance(s, int) for s in sides):
        return sides
    return _resized(pipeline.get("transforms"))


def _at(config: Any, path: str) -> Any:
    """The value at a path, none where there is no such or it is not data."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return None if isinstance(config, Unknown) else config


def _only(config: Mapping[str, Any], path: str, allowed: tuple[Any, ...], where: str) -> None:
    value = _at(config, path)
    if value is not None and value not in allowed:
        places = f"; it can be {', '.join(map(str, allowed))}" if any(allowed) else ""
        raise SomasegError(
            f"{where}: {path} is {value}, which has no place here{places}; predict there, and join "
            "its COCO results here (docs/model_files.md)"
        )
