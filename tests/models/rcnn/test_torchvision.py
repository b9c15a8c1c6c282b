"""The whole model against torchvision's own Mask R-CNN, from the same weights."""

import numpy as np
import pytest
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from somaseg.data.augment import prepare_image
from somaseg.data.synthetic import make_image
from somaseg.models.rcnn.targets import Truth
from somaseg.models.rcnn.weights import read_pretrained
from somaseg.models.registry import build_model, parse_config
from tests.models.contract import INFO

SIZES = ((16,), (24,), (32,), (48,), (64,))
RATIOS = (0.5, 1.0, 2.0)
CONFIG = {
    "family": "rcnn",
    "backbone": "resnet18",
    "input_scale": 1.0,
    "anchor_sizes": SIZES,
    "anchor_ratios": RATIOS,
    "rpn_pre_nms": (200, 150),
    "rpn_post_nms": (120, 90),
    "aligned": False,
    "roi_sampling": 2,
    "roi_samples": 64,
    "box_dim": 64,
    "mask_dim": 32,
    "score_floor": 0.05,
    "nms_across_classes": False,
    "detections": 40,
}


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    torch.manual_seed(0)
    theirs = MaskRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5),
        rpn_anchor_generator=AnchorGenerator(SIZES, (RATIOS,) * 5),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=150,
        rpn_post_nms_top_n_train=120,
        rpn_post_nms_top_n_test=90,
        box_batch_size_per_image=64,
        box_score_thresh=0.05,
        box_detections_per_img=40,
        box_head=TwoMLPHead(256 * 49, 64),
        box_predictor=FastRCNNPredictor(64, 4),
        mask_head=MaskRCNNHeads(256, (32,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(32, 32, 4),
        min_size=128,
        max_size=128,
        _skip_resize=True,  # or it would draw a size in training, from the same generator
    )
    with torch.no_grad():
        # Fresh weights hardly move a box: make them.
        theirs.roi_heads.box_predictor.bbox_pred.weight *= 20
        theirs.roi_heads.box_predictor.cls_score.weight *= 20
        theirs.rpn.head.bbox_pred.weight *= 10
        theirs.rpn.head.cls_logits.weight *= 20
    path = tmp_path_factory.mktemp("weights") / "torchvision.pth"
    torch.save(theirs.state_dict(), path)
    ours = build_model(parse_config(CONFIG | {"pretrained": str(path)}), INFO)
    return theirs, ours, path


def example(seed):
    image, cells = make_image("cort", seed, (128, 128))
    return prepare_image(image), cells[cells.areas >= 16].with_classes(
        np.arange((cells.areas >= 16).sum()) % 3, INFO.names
    )


def test_every_tensor_of_torchvisions_is_taken(peers):
    theirs, ours, path = peers
    weights, state = read_pretrained(str(path), "resnet18"), ours.state_dict()
    assert len(weights) == len(theirs.state_dict())
    for name, value in weights.items():
        assert torch.equal(state[name], value), name


def test_losses_are_torchvisions(peers):
    theirs, ours, _ = peers
    examples = [example(seed) for seed in (1, 2)]
    images = [torch.from_numpy(gray).expand(3, -1, -1) for gray, _ in examples]
    truths = [Truth.of(cells) for _, cells in examples]
    targets = [
        {
            "boxes": t.boxes,
            "labels": t.labels,
            "masks": torch.from_numpy(
                np.stack([t.instances.mask(i) for i in range(len(t))]).astype(np.uint8)
            ),
        }
        for t in truths
    ]
    theirs.train()
    torch.manual_seed(3)
    expected = theirs(images, targets)
    torch.manual_seed(3)
    ours.train()
    found = ours.losses({"image": [image[:1] for image in images], "truth": truths})
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
        "mask": "loss_mask",
    }
    assert set(found) == set(names)
    for mine, other in names.items():
        assert found[mine].item() == pytest.approx(expected[other].item(), rel=1e-4), mine


def test_predictions_are_torchvisions(peers):
    theirs, ours, _ = peers
    gray, _ = example(3)
    with torch.no_grad():
        (expected,) = theirs.eval()([torch.from_numpy(gray).expand(3, -1, -1)])
    found = ours.eval().find(gray)
    assert len(found) == len(expected["scores"]) == 40
    assert np.allclose(found.scores, expected["scores"], atol=1e-4)
    assert np.array_equal(found.classes, expected["labels"] - 1)
    planes = np.zeros((len(found), 128, 128), np.int64)
    for plane, (x0, y0, x1, y1), i in zip(planes, found.boxes, range(len(found)), strict=True):
        plane[y0:y1, x0:x1] = found.crop(i)
    difference = np.abs(planes - np.rint(255 * expected["masks"][:, 0].numpy()))
    assert difference.max() <= 1
