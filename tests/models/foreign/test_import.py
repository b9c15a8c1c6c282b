"""From a file of another library to a model that predicts, learns and is ensembled."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from somaseg.cli import app
from somaseg.data.synthetic import make_image
from somaseg.decide import Fusion
from somaseg.errors import SomasegError
from somaseg.models.bundle import load_model
from somaseg.models.config import ModelInfo
from somaseg.models.foreign.convert import import_model
from somaseg.models.foreign.detector import anchors_by_ratio
from somaseg.models.rcnn.weights import fill_detector
from somaseg.models.registry import build_model, load_preset, parse_config
from somaseg.models.training.fit import train_model
from somaseg.models.training.info import learn_info
from somaseg.models.training.journal import METRICS, MetricsFile
from somaseg.models.training.settings import TrainSettings
from somaseg.models.training.transfer import start_from
from somaseg.predict.joint import JointPredictor
from somaseg.predict.predictor import Predictor
from tests.models.contract import STILL, Contract, large_cells
from tests.models.foreign.small import detectron2_tensors, small_detector


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("d2") / "model_final.pth"
    torch.save({"model": detectron2_tensors(), "iteration": 9}, path)
    return path


SET = ["--set", "shortest_side=null", "--set", "input_scale=1.0", "--set", "rpn_post_nms=[50, 50]"]


@pytest.fixture(scope="module")
def imported(checkpoint):
    out = checkpoint.parent / "mine.safetensors"
    command = ["import", str(checkpoint), "--out", str(out), "--classes", "astro,cort,shsy5y"]
    done = CliRunner().invoke(app, [*command, *SET], catch_exceptions=False)
    assert "no config: as detectron2's published ones" in done.stdout
    assert "detectron2, " in done.stdout
    assert "classes astro, cort, shsy5y" in done.stdout
    return out


def test_it_predicts_and_names_its_source(imported):
    model = load_model(imported)
    assert model.names == ("astro", "cort", "shsy5y")
    assert model.info.card["weights"] == "detectron2: model_final.pth"
    assert model.predict([make_image("cort", 1, (64, 80))[0]])[0].size == (64, 80)


def test_it_sees_gray_values_as_they_are(imported):
    model = load_model(imported)
    image = np.array([[0, 51], [102, 255]], np.uint8)
    np.testing.assert_allclose(model.prepare(image), image / 255, rtol=1e-6)
    np.testing.assert_allclose(model.prepare(image.astype(np.uint16) * 257), image / 255, rtol=1e-6)
    part = model.prepare(image, (10.0, 20.0))
    np.testing.assert_allclose(part, image / 255, rtol=1e-6)
    assert model.prepare(image.astype(np.float32), (0.0, 51.0))[0, 1] == 1


def test_members_that_see_other_levels_are_joined(imported):
    theirs = load_model(imported)
    ours = build_model(parse_config(small_detector()), theirs.info).eval()
    image = make_image("cort", 1, (64, 80))[0]
    members = [(Predictor([theirs]), 1.0), (Predictor([ours]), 1.0)]
    joint = JointPredictor(members, Fusion())
    prepared = joint.prepare(image)
    assert np.array_equal(prepared[..., 0], theirs.prepare(image))
    assert np.array_equal(prepared[..., 1], ours.prepare(image))
    assert joint(image).size == (64, 80)


@pytest.mark.parametrize("classes", [("astro", "cort", "shsy5y"), ("cell",)])
def test_its_checkpoint_is_a_start(checkpoint, imported, classes):
    model = load_model(imported)
    info = ModelInfo(names=classes, diameter=20)
    fresh = build_model(model.config, info, weights=False)
    note = start_from(fresh, checkpoint)
    assert ("fresh" in note) == (len(classes) == 1)
    assert "detectron2" in note
    ours, theirs = fresh.state_dict(), model.state_dict()
    encoder = [k for k in ours if k.startswith("backbone.")]
    assert all(torch.equal(ours[k], theirs[k]) for k in encoder)


def test_an_encoder_alone_is_a_start(tmp_path):
    config = parse_config(small_detector())
    model = build_model(config, ModelInfo(names=("a",), diameter=20), weights=False)
    theirs = build_model(config, model.info, weights=False)
    prefix = "backbone.encoder.network."
    encoder = {
        k.removeprefix(prefix): v for k, v in theirs.state_dict().items() if k.startswith(prefix)
    }
    torch.save(encoder, tmp_path / "resnet.pth")
    assert "encoder" in start_from(model, tmp_path / "resnet.pth")
    state = model.state_dict()
    assert all(torch.equal(state[prefix + k], v) for k, v in encoder.items())


def test_another_encoder_is_no_start(checkpoint):
    config = parse_config(small_detector(backbone="resnet34"))
    model = build_model(config, ModelInfo(names=("a",), diameter=20), weights=False)
    with pytest.raises(SomasegError, match="encoder"):
        start_from(model, checkpoint)


def test_features_of_which_tensors_are_left_over_are_no_start():
    """torchvision's v2 has normalisation in its pyramid: without it, all would be others."""
    model = build_model(
        parse_config(small_detector()), ModelInfo(names=("a",), diameter=20), weights=False
    )
    weights = model.state_dict() | {"backbone.fpn.inner_blocks.0.1.weight": torch.ones(32)}
    with pytest.raises(SomasegError, match=r"v2\.pth: 1 of its tensors have no place.*import"):
        fill_detector(model, weights, "v2.pth")


def test_a_model_file_is_a_preset(imported):
    preset = load_preset(imported)
    assert preset.model["backbone"] == "resnet18"
    assert preset.model["input_levels"] == "full"


def test_leftover_and_missing_tensors_are_named(tmp_path):
    tensors = detectron2_tensors()
    torch.save(tensors | {"roi_heads.extra.weight": torch.ones(1)}, tmp_path / "more.pth")
    with pytest.raises(SomasegError, match=r"more\.pth: 1 tensors have no place .*extra\.weight"):
        import_model(tmp_path / "more.pth")
    del tensors["roi_heads.mask_head.mask_fcn1.bias"]
    torch.save(tensors, tmp_path / "less.pth")
    with pytest.raises(SomasegError, match=r"less\.pth: 1 tensors are missing.*mask\.head\.0\.0"):
        import_model(tmp_path / "less.pth")


def test_classes_must_be_as_many(checkpoint):
    with pytest.raises(SomasegError, match=r"3 classes, not 2 \(a, b\)"):
        import_model(checkpoint, names=("a", "b"))


def test_wrong_library_and_setting(checkpoint):
    with pytest.raises(SomasegError, match="--from keras: not one of"):
        import_model(checkpoint, "keras")
    with pytest.raises(SomasegError, match="detection: Extra inputs"):
        import_model(checkpoint, fields={"detection": 3})


def test_anchors_by_size_first_are_put_by_ratio():
    rows = torch.arange(6.0)  # sizes s0 s1, ratios r0 r1 r2: s0r0 s0r1 s0r2 s1r0 ...
    ours = {
        "rpn.head.cls_logits.weight": rows[:, None],
        "rpn.head.cls_logits.bias": rows,
        "rpn.head.bbox_pred.weight": rows.repeat_interleave(4)[:, None],
        "rpn.head.bbox_pred.bias": rows.repeat_interleave(4),
    }
    found = anchors_by_ratio(ours, 2, 3)
    assert found["rpn.head.cls_logits.bias"].tolist() == [0, 3, 1, 4, 2, 5]
    assert found["rpn.head.bbox_pred.bias"][4:8].tolist() == [3] * 4


@pytest.mark.parametrize("inputs", [1, 3])
def test_a_unet_of_smp_gives_its_foreground(tmp_path, inputs):
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    net = smp.Unet("resnet18", encoder_weights=None, in_channels=inputs, classes=1).eval()
    lightning = {f"model.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": lightning, "epoch": 1}, tmp_path / "last.ckpt")
    model, library, notes = import_model(tmp_path / "last.ckpt")
    assert library == "smp"
    assert "foreground" in notes[0]
    gray = np.random.default_rng(0).random((64, 96), np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(gray).expand(1, inputs, -1, -1))[0, 0]
    np.testing.assert_allclose(model.maps(gray)[0], expected, atol=1e-4)
    model.save(tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").config == model.config


def test_a_unet_of_several_outputs_is_a_start(tmp_path):
    import segmentation_models_pytorch as smp

    net = smp.Unet("resnet18", encoder_weights=None, classes=3)
    torch.save(net.state_dict(), tmp_path / "u.pth")
    model, _, notes = import_model(tmp_path / "u.pth")
    assert "the head is fresh" in notes[0]
    fresh = build_model(model.config, model.info, weights=False)
    assert "segmentation_head" in start_from(fresh, tmp_path / "u.pth")
    key = "net.net.decoder.blocks.0.conv1.0.weight"
    assert torch.equal(fresh.state_dict()[key], net.state_dict()[key.removeprefix("net.net.")])


class TestImportedDetector(Contract):
    """What was imported is a model as all others."""

    over_fit = TrainSettings(
        steps=30,
        batch=2,
        crop=64,
        rate=1e-3,
        encoder_rate=1.0,
        average=0,
        log_every=5,
        augment=STILL,
    )

    def test_over_fits_two_images(self, tmp_path):
        # Weights of noise learn no shapes in seconds; that they learn is enough.
        samples = large_cells(tmp_path)
        model = self.fresh(learn_info(samples))
        train_model(model, samples, self.over_fit, tmp_path / "run")
        totals = [row["total"] for _, row in MetricsFile(tmp_path / "run" / METRICS).rows()]
        assert totals[-1] < 0.7 * totals[0]

    @pytest.fixture(autouse=True)
    def _config(self, imported):
        self.file = imported

    def fresh(self, info=None):
        model = load_model(self.file)
        if info is None or info.names == model.names:
            return model
        fresh = build_model(model.config, info, weights=False)
        start_from(fresh, self.file)
        return fresh
