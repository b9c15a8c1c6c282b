import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from somaseg.models.rcnn.rpn import match_anchors


def random_boxes(count, seed, extent=60):
    draw = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, extent, (count, 2), generator=draw)
    return torch.cat([corner, corner + torch.randint(1, 25, (count, 2), generator=draw)], 1).float()


@given(st.integers(1, 8), st.integers(1, 60), st.integers(0, 2**31))
def test_anchors_are_matched_as_torchvision_does(cells, anchors, seed):
    boxes, places = random_boxes(cells, seed), random_boxes(anchors, seed + 1)
    overlap = box_iou(boxes, places)
    assume((overlap.max(1)[0] > 0).all())
    expected = Matcher(0.6, 0.3, allow_low_quality_matches=True)(overlap)
    assert torch.equal(match_anchors(boxes, places, 0.3, 0.6), expected)


def test_cell_that_no_anchor_touches_takes_none():
    boxes = torch.tensor([[100.0, 100, 110, 110]])
    assert match_anchors(boxes, random_boxes(5, 0), 0.3, 0.7).tolist() == [-1] * 5


def test_no_cells_make_all_anchors_background():
    assert match_anchors(torch.zeros(0, 4), random_boxes(5, 0), 0.3, 0.7).tolist() == [-1] * 5
