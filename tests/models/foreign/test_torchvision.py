"""torchvision's own detectors, imported: they find what they find there."""

import numpy as np
import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

from somaseg.data.synthetic import make_image
from somaseg.models.foreign.convert import import_model

PEERS = {"v1": maskrcnn_resnet50_fpn, "v2": maskrcnn_resnet50_fpn_v2}


@pytest.fixture(scope="module", params=PEERS)
def peers(request, tmp_path_factory):
    torch.manual_seed(0)
    theirs = PEERS[request.param](
        weights=None,
        weights_backbone=None,
        num_classes=4,
        min_size=240,
        max_size=720,
        rpn_post_nms_top_n_test=60,
        box_detections_per_img=30,
    ).eval()
    with torch.no_grad():
        for module in theirs.modules():
            if hasattr(module, "running_var"):  # as large as what a normalisation is given
                module.running_var.uniform_(0.5, 1.5)
                module.running_mean.uniform_(-0.1, 0.1)
        theirs.backbone.body.bn1.running_var.fill_(8)
        for name, module in theirs.backbone.body.named_modules():
            if name.endswith("bn3"):
                module.weight.uniform_(0.2, 0.4)
        # Fresh weights hardly move a box: make them.
        theirs.roi_heads.box_predictor.bbox_pred.weight *= 20
        theirs.roi_heads.box_predictor.cls_score.weight *= 20
        theirs.roi_heads.mask_predictor.mask_fcn_logits.weight *= 3
        theirs.rpn.head.bbox_pred.weight *= 10
        theirs.rpn.head.cls_logits.weight *= 20
    path = tmp_path_factory.mktemp("weights") / "torchvision.pth"
    torch.save({"model": theirs.state_dict(), "epoch": 3}, path)
    fields = {
        "shortest_side": 240,
        "longest_side": 720,
        "rpn_post_nms": (1000, 60),
        "detections": 30,
    }
    return theirs, import_model(path, names=("a", "b", "c"), fields=fields).model


@pytest.mark.parametrize("size", [(200, 280), (520, 704)])
def test_the_same_detections_and_masks(peers, size):
    theirs, ours = peers
    # Shrunk by the area's mean here, by single samples there: only enlarging is the same.
    side = 240 if size[0] < 240 else 520
    theirs.transform.min_size = (side,)
    ours.config = ours.config.model_copy(update={"shortest_side": side})
    image = make_image("cort", 1, size)[0]
    with torch.no_grad():
        (expected,) = theirs([torch.from_numpy(image / np.float32(255)).expand(3, -1, -1)])
    (found,) = ours.predict([image])
    assert len(found) == len(expected["scores"]) > 20
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-4)
    assert np.array_equal(found.classes, expected["labels"] - 1)
    for i in range(len(found)):
        plane = np.zeros(size, np.int64)
        x0, y0, x1, y1 = found.boxes[i]
        plane[y0:y1, x0:x1] = found.crop(i)
        there = np.rint(255 * expected["masks"][i, 0].numpy())
        assert np.abs(plane - there).max() <= 1, i
