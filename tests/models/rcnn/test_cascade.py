import pytest
import torch
from torchvision.ops import box_iou

from somaseg.models.rcnn.cascade import IOUS, BoxStages, scale_gradient
from tests.models.rcnn.make import config, near, truth

SIZE = (96, 96)


def learn(stage, truths):
    """Make a stage move each box half the way to its cell, and keep what it was trained on."""
    losses = stage.losses

    def decode(deltas, boxes):
        moved = []
        for own, cells in zip(boxes, truths, strict=True):
            goal = cells.boxes[box_iou(own, cells.boxes).argmax(1)]
            moved.append(((own + goal) / 2)[:, None])
        return moved

    def keep(logits, deltas, matched, truths):
        stage.seen = matched
        return losses(logits, deltas, matched, truths)

    stage.decode, stage.losses = decode, keep


def stages_and_scene(seed=0):
    torch.manual_seed(seed)
    stages = BoxStages(config(box_head="cascade"), 4)
    cells, _ = truth(12, SIZE, seed)
    features = [torch.randn(2, 48, 96 // s, 96 // s) for s in (4, 8, 16)]
    proposals = [near(cells.boxes.repeat(6, 1), seed + i, SIZE, 8.0) for i in range(2)]
    return stages, [cells, cells], features, proposals


def test_each_stage_is_trained_on_better_boxes_at_a_higher_overlap():
    stages, truths, features, proposals = stages_and_scene()
    for stage in stages.stages:
        learn(stage, truths)
    losses, _ = stages.losses(features, stages.sample(proposals, truths), truths, [SIZE] * 2)
    assert list(losses) == ["class_1", "box_1", "class_2", "box_2", "class_3", "box_3"]
    means = []
    for stage, threshold in zip(stages.stages, IOUS, strict=True):
        overlaps = []
        for matched, cells in zip(stage.seen, truths, strict=True):
            best, row = box_iou(matched.boxes, cells.boxes).max(1)
            assert torch.equal(matched.labels > 0, best >= threshold)
            assert torch.equal(matched.truth, row)
            assert torch.equal(matched.labels, torch.where(best < threshold, 0, cells.labels[row]))
            overlaps.append(best)
        means.append(torch.cat(overlaps).mean().item())
    assert means[0] < means[1] - 0.05 < means[2] - 0.1


def test_scores_are_averaged_and_boxes_come_from_the_last_stage():
    stages, _, features, proposals = stages_and_scene(1)
    features = [level[:1] for level in features]
    boxes, scores = proposals[0], []
    for stage in stages.stages:
        logits, deltas = stage(stages.pool(features, [boxes]))
        scores.append(logits.softmax(1))
        boxes = stage.coder.decode(deltas, [boxes])[:, 0].clamp(0, 96)
    (found,) = stages.predict(features, proposals[:1], [SIZE])
    best = torch.stack(scores).mean(0)[:, 1:].max()
    assert found.scores[0].item() == pytest.approx(best.item())
    distance = (found.boxes[:, None] - boxes[None]).abs().amax(2).min(1)[0]
    assert distance.max() < 1e-3


def test_a_plain_head_starts_every_stage_so_that_it_moves_boxes_alike():
    stages, _, features, proposals = stages_and_scene(2)
    first = {k: v for k, v in stages.state_dict().items() if k.startswith("stages.0.")}
    stages.load_state_dict(stages.spread(first, ""))
    pooled = stages.pool(features, proposals)
    moved = [stage.decode(stage(pooled)[1], proposals)[0] for stage in stages.stages]
    assert not torch.allclose(moved[0][:, 0], proposals[0])
    assert torch.allclose(moved[0], moved[1], atol=1e-3)
    assert torch.allclose(moved[0], moved[2], atol=1e-3)


def test_spreading_keeps_what_is_there():
    stages, *_ = stages_and_scene(3)
    state = stages.state_dict()
    spread = stages.spread(state, "")
    assert all(torch.equal(spread[k], v) for k, v in state.items())


def test_gradient_is_scaled_and_the_value_stays():
    x = torch.tensor([3.0], requires_grad=True)
    y = scale_gradient(x, 1 / 3)
    y.backward()
    assert y.item() == 3
    assert x.grad.item() == pytest.approx(1 / 3)
