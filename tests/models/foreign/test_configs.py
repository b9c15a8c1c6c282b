import pytest

from somaseg.errors import SomasegError
from somaseg.models.foreign.configs import UNKNOWN, parse_python, read_config
from somaseg.models.foreign.fields import config_names, detectron2_fields, mmdetection_fields

BASE = """
import os
os.mknod('MADE')
norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
model = dict(
    data_preprocessor=dict(type='P', bgr_to_rgb=True, **norm),
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN'), style='pytorch'),
    neck=dict(type='FPN'),
    rpn_head=dict(type='RPNHead', anchor_generator=dict(
        scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])),
    roi_head=dict(bbox_head=dict(bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2])),
        mask_roi_extractor=dict(roi_layer=dict(output_size=14))),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(iou_threshold=0.7)),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)))
"""
MINE = """
_base_ = ['base.py', 'not_there.py']
classes = ('a', 'b')
side = 4 * 200
model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0]),
    backbone=dict(_delete_=True, type='ResNet', depth=101, style='caffe'),
    rpn_head=dict(anchor_generator=dict(scales=[2, 4])),
    test_cfg=dict(rcnn=dict(max_per_img=500)))
test_pipeline = [dict(type='Load'), dict(type='Resize', scale=(1333, side), keep_ratio=True)]
later = open('x').read()
"""


def test_mmdetection_config_is_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "mine.py").write_text(MINE)
    kind, config, missing = read_config(tmp_path / "mine.py")
    assert (kind, missing) == ("mmdet", ["not_there.py"])
    assert not (tmp_path / "MADE").exists()
    assert config["later"] is UNKNOWN
    assert config["model"]["backbone"] == {"type": "ResNet", "depth": 101, "style": "caffe"}
    assert config_names(config) == ("a", "b")
    fields = mmdetection_fields(config, "mine.py")
    assert fields["stride_in_1x1"] is True
    assert (fields["mean"], fields["std"]) == ([103.53, 116.28, 123.675], [1.0, 1.0, 1.0])
    assert fields["anchor_sizes"][0] == [8, 16]
    assert fields["anchor_sizes"][4] == [128, 256]
    assert (fields["shortest_side"], fields["longest_side"]) == (800, 1333)
    assert (fields["detections"], fields["score_floor"]) == (500, 0.05)
    assert fields["box_weights"] == [[10, 10, 5, 5]]
    assert fields["mask_size"] == 28


def test_what_has_no_place_is_named():
    told = parse_python("model = dict(backbone=dict(type='SwinTransformer'))", "x.py")
    with pytest.raises(SomasegError, match=r"x\.py: model\.backbone\.type is SwinTransformer"):
        mmdetection_fields(told, "x.py")
    with pytest.raises(SomasegError, match=r"y\.yaml: MODEL\.FPN\.NORM is GN, which has no place"):
        detectron2_fields({"MODEL": {"FPN": {"NORM": "GN"}}}, "y.yaml")


def test_detectron2_config(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "MODEL:\n  PIXEL_STD: [1.0, 1.0, 1.0]\n  RPN: {PRE_NMS_TOPK_TEST: 3000}\n"
        "  EVIL: !!python/object/apply:os.system ['touch x']\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "_BASE_: base.yaml\n"
        "MODEL:\n"
        "  PIXEL_STD: [57.375, 57.12, 58.395]\n"
        "  RESNETS: {STRIDE_IN_1X1: false, DEPTH: 101}\n"
        "  ANCHOR_GENERATOR: {SIZES: [[8, 16]], ASPECT_RATIOS: [[0.5, 1.0, 2.0]]}\n"
        "  ROI_HEADS: {SCORE_THRESH_TEST: 0.1}\n"
        "INPUT: {MIN_SIZE_TEST: 640}\n"
        "TEST: {DETECTIONS_PER_IMAGE: 1000}\n"
    )
    kind, config, missing = read_config(tmp_path / "mine.yaml")
    assert (kind, missing) == ("detectron2", [])
    fields = detectron2_fields(config, "mine.yaml")
    assert fields["std"] == [57.375, 57.12, 58.395]
    assert fields["stride_in_1x1"] is False
    assert fields["anchor_sizes"] == [[8, 16]] * 5
    assert fields["rpn_pre_nms"] == (2000, 3000)
    assert (fields["shortest_side"], fields["detections"], fields["score_floor"]) == (
        640,
        1000,
        0.1,
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "model = (", "no Python config"),
        ("a.py", "_base_ = 'a.py'", "builds on itself"),
        ("a.yaml", "_BASE_: a.yaml", "builds on itself"),
        ("a.yaml", "- 1", "no config of detectron2"),
        ("a.json", "{}", "detectron2's .* or MMDetection's"),
    ],
)
def test_wrong_configs_get_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SomasegError, match=message):
        read_config(tmp_path / name)
