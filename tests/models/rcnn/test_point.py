import pytest
import torch
from torch.nn import functional
from torchvision.ops import roi_align

from somaseg.models.rcnn import point
from somaseg.models.rcnn.box import Matched
from somaseg.models.rcnn.point import PointMask, grid_points, uncertain_points
from tests.models.rcnn.make import config, near, truth


def head(**fields):
    torch.manual_seed(0)
    made = PointMask(config(mask_head="point", class_agnostic_masks=False, **fields), 4)
    # Fresh, the point head says 0 everywhere.
    torch.nn.init.normal_(made.point.predictor.weight)
    return made.eval()


def scene(n=6):
    torch.manual_seed(1)
    cells, _ = truth(n, (64, 64), 2)
    boxes = near(cells.boxes, 2, (64, 64))
    return torch.randn(48, 16, 16), boxes, torch.arange(n) % 3 + 1, cells


def at_all_points(made, coarse, level, boxes, labels, size):
    """The point head at every pixel of a size × size mask, one box after the other."""
    out = []
    for own, box, label in zip(coarse, boxes, labels, strict=True):
        rois = torch.cat([torch.zeros(1), box])[None]
        fine = roi_align(level[None], rois, size, 0.25, sampling_ratio=1, aligned=True)
        centre = (torch.arange(size) + 0.5) / size * 2 - 1
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        grid = torch.stack([x, y], -1)[None]
        seen = functional.grid_sample(own[None], grid, align_corners=False, padding_mode="border")
        logits = made.point(fine.flatten(2), seen.flatten(2))
        out.append(logits[0, label].view(size, size))
    return torch.stack(out)


@torch.no_grad()
def test_subdivision_is_dense_evaluation_where_every_point_is_uncertain():
    made = head(mask_size=28)
    level, boxes, labels, _ = scene()
    coarse = torch.randn(6, 4, 7, 7)
    expected = at_all_points(made, coarse, level, boxes, labels, 28)
    assert torch.allclose(made.subdivide(coarse, level, boxes, labels), expected, atol=1e-4)


@torch.no_grad()
def test_subdivision_mends_the_most_uncertain_points_only():
    made = head(mask_size=56)
    level, boxes, labels, _ = scene()
    coarse = torch.randn(6, 4, 7, 7)
    half = at_all_points(made, coarse, level, boxes, labels, 28)
    dense = at_all_points(made, coarse, level, boxes, labels, 56)
    enlarged = functional.interpolate(
        half[:, None], scale_factor=2, mode="bilinear", align_corners=False
    )[:, 0]
    for found, new, old in zip(
        made.subdivide(coarse, level, boxes, labels), dense, enlarged, strict=True
    ):
        order = old.abs().flatten().argsort()
        mended, kept = order[: point.STEP_POINTS], order[point.STEP_POINTS :]
        assert torch.allclose(found.flatten()[mended], new.flatten()[mended], atol=1e-4)
        assert torch.allclose(found.flatten()[kept], old.flatten()[kept], atol=1e-4)


def test_training_points_gather_where_the_mask_is_undecided():
    # A ramp from left to right that is zero in the middle: the most uncertain quarter of evenly
    # drawn points is the middle quarter of the map.
    ramp = torch.linspace(-1, 1, 32).expand(5, 32, 32)
    torch.manual_seed(0)
    points = uncertain_points(ramp, 400)
    assert points.shape == (5, 400, 2)
    distance = (points[..., 0] - 0.5).abs()
    assert (distance[:, :300] < 0.16).all()
    assert distance[:, :300].mean().item() == pytest.approx(0.0625, abs=0.01)
    assert distance[:, 300:].mean().item() == pytest.approx(0.25, abs=0.03)
    assert points[..., 1].mean().item() == pytest.approx(0.5, abs=0.03)


def test_losses_by_hand(monkeypatch):
    made = head()
    level, boxes, labels, cells = scene()
    centre = grid_points(5, level.device)
    monkeypatch.setattr(point, "uncertain_points", lambda x, n, _: centre.expand(len(x), 25, 2))
    matched = [Matched(boxes, labels, torch.arange(6))]
    pooled = torch.randn(6, 48, 14, 14)
    losses, _ = made.losses([level[None]], pooled, matched, [cells])
    planes = torch.stack([torch.from_numpy(cells.instances.mask(i)).float() for i in range(6)])
    rois = torch.cat([torch.arange(6.0)[:, None], boxes], 1)
    coarse = made(pooled)
    rows = torch.arange(6)
    goal = roi_align(planes[:, None], rois, 7, aligned=True)[:, 0]
    probability = coarse[rows, labels].sigmoid()
    entropy = -(goal * probability.log() + (1 - goal) * (1 - probability).log())
    assert losses["mask"].item() == pytest.approx(entropy.mean().item(), rel=1e-4)
    # At the centres of a 5 × 5 grid, RoIAlign with one sample a cell reads the same places.
    goal = roi_align(planes[:, None], rois, 5, sampling_ratio=1, aligned=True)[:, 0]
    probability = at_all_points(made, coarse, level, boxes, labels, 5).sigmoid()
    entropy = -(goal * probability.log() + (1 - goal) * (1 - probability).log())
    assert losses["mask_point"].item() == pytest.approx(entropy.mean().item(), rel=1e-3)


def test_no_cells_cost_nothing_and_still_reach_every_weight():
    made = head()
    nothing = torch.zeros(0, dtype=torch.long)
    matched = [Matched(torch.zeros(0, 4), nothing, nothing)]
    losses, _ = made.losses([], torch.zeros(0, 48, 14, 14), matched, [truth(0, (9, 9))[0]])
    total = sum(losses.values())
    assert total.item() == 0
    total.backward()
    assert all(weights.grad is not None for weights in made.parameters())
