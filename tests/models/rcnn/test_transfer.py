import pytest
import torch

from somaseg.errors import SomasegError
from somaseg.models.config import ModelInfo
from somaseg.models.training.transfer import start_from
from tests.models.rcnn.make import model

LITE = {"class_agnostic_boxes": True}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "mask_rcnn.safetensors"
    made = model(**LITE)
    made.save(path)
    return made, path


@pytest.mark.parametrize(
    ("fields", "fresh"),
    [
        ({"mask_scoring": True}, "fresh: scoring"),
        ({"box_head": "cascade", "mask_scoring": True}, "fresh: scoring"),
        ({"mask_head": "point"}, "fresh: mask"),
        ({"class_agnostic_masks": False}, "fresh: mask.predictor.mask_fcn_logits"),
    ],
)
def test_further_heads_start_fresh_and_the_rest_from_the_plain_model(plain, fields, fresh):
    teacher, path = plain
    student = model(**LITE, **fields)
    torch.nn.init.zeros_(student.box.stages[0].predictor.cls_score.weight)
    note = start_from(student, path)
    assert note.endswith(f"; {fresh}")
    ours, theirs = student.state_dict(), teacher.state_dict()
    same = [k for k in theirs if k in ours and ours[k].shape == theirs[k].shape]
    assert len(same) > 200
    assert all(torch.equal(ours[k], theirs[k]) for k in same)


def test_every_stage_of_a_cascade_starts_from_the_plain_head(plain):
    teacher, path = plain
    student = model(**LITE, box_head="cascade")
    assert "fresh" not in start_from(student, path)
    first = teacher.box.stages[0]
    for i, stage in enumerate(student.box.stages):
        assert torch.equal(stage.head.fc6.weight, first.head.fc6.weight)
        assert torch.equal(stage.predictor.cls_score.weight, first.predictor.cls_score.weight)
        weight = first.predictor.bbox_pred.weight
        assert torch.allclose(stage.predictor.bbox_pred.weight, (i + 1) * weight)


def test_boxes_by_class_cannot_start_those_of_a_cascade(tmp_path):
    model().save(tmp_path / "m.safetensors")
    note = start_from(model(box_head="cascade"), tmp_path / "m.safetensors")
    layers = ", ".join(f"box.stages.{i}.predictor.bbox_pred" for i in range(3))
    assert note.endswith(f"; fresh: {layers}")


def test_other_classes(plain):
    _, path = plain
    student = model(ModelInfo(names=("nucleus",), diameter=20), **LITE)
    assert start_from(student, path).endswith("; fresh: box.stages.0.predictor.cls_score")


def test_plain_model_starts_from_a_cascade(tmp_path):
    teacher = model(box_head="cascade")
    teacher.save(tmp_path / "cascade.safetensors")
    student = model(**LITE)
    assert "fresh" not in start_from(student, tmp_path / "cascade.safetensors")
    assert torch.equal(
        student.box.stages[0].predictor.bbox_pred.weight,
        teacher.box.stages[0].predictor.bbox_pred.weight,
    )


def test_another_encoder_is_refused(plain):
    _, path = plain
    student = model(backbone="resnet18", pretrained="none", norm="batch", **LITE)
    with pytest.raises(SomasegError, match=r"mask_rcnn\.safetensors: only \d+ of \d+ tensors fit"):
        start_from(student, path)
