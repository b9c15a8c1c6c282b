"""Detectors of detectron2 and MMDetection: what they found, from the same weights.

The answers were computed by the libraries themselves; the weights are remade from their names.
"""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from somaseg.models.foreign.convert import build_detector
from somaseg.models.foreign.detector import CAFFE
from somaseg.models.rcnn.paste import paste
from tests.models.foreign.oracle.weights import load

NAMES = ("a", "b", "c")
CAFFE_STYLE = {**CAFFE, "stride_in_1x1": True}
ORACLES = {
    "d2_mask_rcnn_R_50_FPN": {},
    "d2_mask_rcnn_R_101_FPN": {},
    "d2_cascade_mask_rcnn_R_50_FPN": {},
    "d2_pointrend_rcnn_R_50_FPN": {},
    "mm_mask-rcnn_r50": {},
    "mm_ms-rcnn_r50-caffe": CAFFE_STYLE,
    "mm_cascade-mask-rcnn_r50": {},
    "mm_point-rend_r50-caffe": CAFFE_STYLE,
}


@pytest.fixture(scope="module", params=ORACLES)
def peer(request):
    tensors, answer = load(request.param)
    library = "detectron2" if request.param.startswith("d2_") else "mmdet"
    fields = {"shortest_side": None, "longest_side": None, "input_scale": 1.0, "detections": 60}
    model = build_detector(tensors, library, ORACLES[request.param] | fields, NAMES, "theirs")
    gray = torch.from_numpy(answer["image"].astype(np.float32) / 255)
    with torch.inference_mode():
        batch = model.stack([gray[None]])
        features = model.backbone(batch.tensors)
        proposals, _ = model.rpn(batch, features)
        (found,) = model.box.predict(features, proposals, batch.image_sizes)
    return model, answer, features, proposals[0], found


def test_features(peer):
    _, answer, features, _, _ = peer
    for level, feature in zip("23456", features, strict=True):
        seen = feature[0, ::32, ::3, ::3]
        np.testing.assert_allclose(seen, answer[f"feat_p{level}"], atol=1e-4)


def test_proposals(peer):
    _, answer, _, proposals, _ = peer
    overlap = box_iou(torch.from_numpy(answer["proposals"]), proposals)
    assert (overlap.max(1).values > 0.999).all()


def test_detections(peer):
    _, answer, _, _, found = peer
    overlap = box_iou(torch.from_numpy(answer["boxes"]), found.boxes)
    same = torch.from_numpy(answer["classes"])[:, None] == found.labels - 1
    best, row = (overlap * same).max(1)
    assert (best > 0.99).all()
    np.testing.assert_allclose(found.scores[row], answer["scores"], atol=1e-4)


def test_masks_in_their_boxes(peer):
    model, answer, features, _, _ = peer
    boxes = torch.from_numpy(answer["boxes"])
    labels = torch.from_numpy(answer["classes"]) + 1
    with torch.inference_mode():
        pooled = model.mask.pool(features, [boxes])
        masks = model.mask.predict(features, pooled, boxes, labels)
        if model.scoring is not None:
            scores = torch.from_numpy(answer["scores"])
            rescored = model.scoring.rescore(pooled, masks, scores, labels)
            np.testing.assert_allclose(rescored, answer["mask_scores"], atol=1e-4)
    step = masks.shape[-1] // answer["masks"].shape[-1]
    np.testing.assert_allclose(masks[:, ::step, ::step], answer["masks"], atol=1e-4)
    height, width = answer["out_size"]
    places = boxes.numpy() * 0.5  # pasted at half the network's scale
    pasted = paste(masks.numpy(), places, (height, width))
    expected = np.unpackbits(answer["out_masks"], axis=2)[..., :width].astype(bool)
    different = 0
    for i, (x0, y0, x1, y1) in enumerate(pasted.boxes):
        whole = np.zeros((height, width), bool)
        crop = pasted.pixels[pasted.offsets[i] : pasted.offsets[i + 1]]
        whole[y0:y1, x0:x1] = crop.reshape(y1 - y0, x1 - x0) >= 127.5
        different += (whole != expected[i]).sum()
    assert different <= 1
