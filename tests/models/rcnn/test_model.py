import numpy as np
import pytest
import torch

from somaseg.data.augment import prepare_image
from somaseg.data.synthetic import make_image
from somaseg.models.rcnn.targets import Truth
from somaseg.models.training.info import learn_info
from somaseg.models.training.loop import train_network
from somaseg.models.training.settings import TrainSettings
from tests.models.contract import training_samples
from tests.models.rcnn.make import model

HEADS = [
    {},
    {"box_head": "cascade", "mask_scoring": True},
    {"mask_head": "point", "mask_size": 56, "mask_scoring": True},
]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("heads", HEADS)
def test_no_cells_in_the_whole_batch(heads):
    made = model(**heads).train()
    nothing = Truth.of(make_image("cort", 0, (64, 64))[1][:0].with_classes(-1, made.names))
    batch = {"image": [torch.rand(1, 64, 64), torch.rand(1, 64, 64)], "truth": [nothing] * 2}
    losses = made.losses(batch)
    assert losses["rpn_objectness"] > 0
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(w.grad).all() for w in made.parameters() if w.grad is not None)


@pytest.mark.parametrize("heads", HEADS)
def test_masks_of_the_models_own_boxes_are_its_predictions(heads):
    made = model(score_floor=0.0, detections=20, input_scale=1.5, **heads)
    image = make_image("cort", 4, (90, 110))[0]
    with made._predicting():
        batch, features, enlarged = made._encode([prepare_image(image)])
        proposals, _ = made.rpn(batch, features)
        (found,) = made.box.predict(features, proposals, batch.image_sizes)
    again = made.predict_masks(
        image,
        (found.boxes / enlarged).numpy(),
        (found.labels - 1).numpy(),
        found.scores.numpy(),
    )
    direct = made.predict([image])[0]
    assert len(direct) == 20
    assert np.array_equal(direct.boxes, again.boxes)
    assert np.abs(direct.pixels.astype(int) - again.pixels).max() <= 1
    assert np.allclose(direct.scores, again.scores, atol=1e-5)
    assert np.array_equal(direct.classes, again.classes)


def test_predicting_leaves_the_mode_as_it_was():
    made = model().train()
    made.predict([np.zeros((40, 40), np.uint8)])
    assert made.training


def test_given_boxes_get_masks_in_their_place():
    made = model(input_scale=2.0)
    image = make_image("cort", 4, (90, 110))[0]
    boxes = np.array([[10, 20, 40, 44], [60, 5, 100, 50]], np.float32)
    found = made.predict_masks(image, boxes, np.array([2, 0]), np.array([0.9, 0.1], np.float32))
    assert found.size == (90, 110)
    assert found.classes.tolist() == [2, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.1])
    # Half a mask cell beyond the box at most.
    assert np.abs(found.boxes - boxes).max() <= 2
    none = made.predict_masks(image, boxes[:0], np.zeros(0, int), np.zeros(0, np.float32))
    assert len(none) == 0


def test_interrupted_training_ends_as_an_undisturbed_one(tmp_path):
    # Proposals and points are drawn at random: those of a step must not depend on the sitting.
    settings = TrainSettings(steps=4, batch=1, crop=64, log_every=1, checkpoint_minutes=1e-9)
    samples = training_samples(tmp_path)
    fields = HEADS[2] | {"roi_samples": 16}

    def stop(done, total, loss):
        if done == 2:
            raise Stopped

    whole, parts, resumed = (model(learn_info(samples), **fields) for _ in range(3))
    train_network(whole, samples, settings, tmp_path / "whole")
    with pytest.raises(Stopped):
        train_network(parts, samples, settings, tmp_path / "parts", progress=stop)
    train_network(resumed, samples, settings, tmp_path / "parts")
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name
