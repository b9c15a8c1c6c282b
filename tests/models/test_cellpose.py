"""The cellpose family: against the package where it is installed, and what holds without it."""

import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from somaseg.cli import app
from somaseg.data.augment import prepare_image
from somaseg.errors import SomasegError
from somaseg.models.bundle import load_model
from somaseg.models.cellpose.convert import import_cellpose
from somaseg.models.config import ModelInfo
from somaseg.models.flow.decode import decode_flows
from somaseg.models.flow.targets import label_flows
from somaseg.models.registry import build_model, load_preset, parse_config
from somaseg.models.training.fit import train_model
from somaseg.models.training.info import learn_info
from somaseg.models.training.journal import METRICS, MetricsFile
from somaseg.models.training.settings import TrainSettings
from somaseg.predict.load import load_segmenter
from tests.models.contract import STILL, Contract, large_cells
from tests.models.data import make_cpnet_fixture as fixture
from tests.models.test_cpnet import their_tensors

RANDOM = {"family": "cellpose", "pretrained": "none"}
MIRRORED = {**RANDOM, "zero_padding": False}
ONE = ModelInfo(names=("cell",), diameter=30.0)


@pytest.fixture
def small_vit(monkeypatch):
    """Let the package build its network on a transformer of two small layers."""
    vit = pytest.importorskip("cellpose.vit", reason="needs cellpose 4")
    from segment_anything.build_sam import _build_sam

    def build(checkpoint):
        return _build_sam(64, 2, 2, [1], checkpoint)

    monkeypatch.setattr(vit, "sam_model_registry", {"vit_l": build})
    return vit


@pytest.mark.usefixtures("small_vit")
class TestCellpose(Contract):
    config = MIRRORED
    over_fit = TrainSettings(
        steps=30, batch=2, crop=256, rate=3e-3, average=0, log_every=5, augment=STILL
    )

    def test_over_fits_two_images(self, tmp_path):
        # Two layers of 64 channels cannot learn shapes by heart; that they learn is enough.
        samples = large_cells(tmp_path)
        train_model(self.fresh(learn_info(samples)), samples, self.over_fit, tmp_path / "run")
        totals = [row["total"] for _, row in MetricsFile(tmp_path / "run" / METRICS).rows()]
        assert totals[-1] < 0.7 * totals[0]


def package_model(vit, path, outputs=3):
    """A network of the package with noise for weights, saved as the package does."""
    torch.manual_seed(1)
    net = vit.CPSAM(nout=outputs).eval()
    with torch.no_grad():
        net.encoder.pos_embed.normal_(0, 0.5)
        net.out.weight.mul_(20)
    net.save_model(path)
    return net


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("diameter", [22.0, 80.0])
def test_same_flows_as_the_package(small_vit, tmp_path, flip, diameter):
    from cellpose import models

    package_model(small_vit, tmp_path / "mine")
    theirs = models.CellposeModel(
        pretrained_model=str(tmp_path / "mine"), use_bfloat16=False, device=torch.device("cpu")
    )
    _, found, _ = theirs.eval(fixture.image(), diameter=diameter, augment=flip, compute_masks=False)
    fields = {"family": "cellpose", "pretrained": str(tmp_path / "mine"), "flip_tiles": flip}
    config = parse_config({**fields, "image_diameter": diameter})
    maps = build_model(config, ONE).eval().maps(prepare_image(fixture.image()))
    expected = np.concatenate([found[1], found[2][None]])
    assert np.abs(expected).mean() > 0.1
    np.testing.assert_allclose(maps[:3], expected, atol=1e-4)


def test_outputs_of_classes_come_last_and_start_fresh(small_vit, tmp_path):
    plain = package_model(small_vit, tmp_path / "mine")
    image = torch.rand(1, 1, 256, 256)
    fields = {"family": "cellpose", "pretrained": str(tmp_path / "mine")}
    model = build_model(parse_config(fields), ModelInfo(names=("a", "b"), diameter=30)).eval()
    with torch.inference_mode():
        out = model.net(image)
        expected = plain(image)[0]
    assert out.shape == (1, 5, 256, 256)
    torch.testing.assert_close(out[:, :3], expected)


def test_a_model_with_classes_gives_its_flows(small_vit, tmp_path):
    package_model(small_vit, tmp_path / "classes", outputs=5)
    fields = {"family": "cellpose", "pretrained": str(tmp_path / "classes")}
    model = build_model(parse_config(fields), ONE)
    theirs = torch.load(tmp_path / "classes", weights_only=True)["out.weight"]
    torch.testing.assert_close(model.net.net.out.weight.data[-3 * 64 :], theirs[-3 * 64 :])


def test_crops_of_another_size_are_refused(small_vit):
    model = build_model(parse_config(RANDOM), ONE)
    with pytest.raises(SomasegError, match=r"256×256 pixels, not 512×512.*training\.crop"):
        model.net(torch.zeros(1, 1, 512, 512))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"downsample.down.x": torch.zeros(1)}, "encoder: cpnet"),
        ({"encoder.cls_token": torch.zeros(1)}, "Cellpose-DINO"),
        ({"fc.weight": torch.zeros(1)}, "not a Cellpose 4 model: .* is missing"),
    ],
)
def test_weights_of_other_models(small_vit, tmp_path, tensors, message):
    torch.save(tensors, tmp_path / "mine")
    with pytest.raises(SomasegError, match=message):
        build_model(parse_config({"family": "cellpose", "pretrained": str(tmp_path / "mine")}), ONE)


def test_import_of_cellpose_4(small_vit, tmp_path):
    package_model(small_vit, tmp_path / "mine")
    model = import_cellpose(tmp_path / "mine", diameter=20, name="neuron")
    assert (model.names, model.scale) == (("neuron",), 1.5)
    model.save(tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").config == model.config


# From here on without the package.


def test_import_of_cellpose_3(tmp_path):
    torch.save({**their_tensors(), "diam_labels": torch.tensor([24.0])}, tmp_path / "mine")
    model = import_cellpose(tmp_path / "mine")
    assert model.scale == 30 / 24
    assert import_cellpose(tmp_path / "mine", diameter=15).scale == 2
    config = model.config
    assert (config.probability, config.max_flow_error, config.zero_padding) == (0.5, 0.4, True)
    model.save(tmp_path / "m.safetensors")
    # Random weights see no cells: true maps stand in for what they say.
    truth = fixture.labels()
    logit = np.where(truth > 0, 0.1, -6.0).astype(np.float32)
    maps = np.concatenate([5 * label_flows(truth), logit[None], logit[None]])
    segmenter = load_segmenter(tmp_path / "m.safetensors")
    segmenter.predictor.models[0].maps = lambda gray: maps
    found = segmenter(fixture.image())
    # Even cells of low probability and score stay: Cellpose has no threshold but its own.
    expected = decode_flows(label_flows(truth), truth > 0, max_error=0.4, min_area=15).labels
    assert len(found) == expected.max() > 35
    assert np.mean((found.to_labels() > 0) == (expected > 0)) > 0.999


def test_command(tmp_path):
    torch.save(their_tensors(), tmp_path / "mine")
    out = tmp_path / "m.safetensors"
    command = ["import", str(tmp_path / "mine"), "--out"]
    done = CliRunner().invoke(app, [*command, str(out)], catch_exceptions=False)
    assert "6.6 M parameters, for cells of 30 pixels" in done.stdout
    assert load_model(out).names == ("cell",)
    with pytest.raises(SomasegError, match=r"must end in \.safetensors"):
        CliRunner().invoke(app, [*command, "m.pt"], catch_exceptions=False)


def test_without_the_package(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "cellpose"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cellpose", None)
    with pytest.raises(SomasegError, match=r"pip install 'somaseg\[cellpose\]'"):
        build_model(parse_config(RANDOM), ONE)


def test_preset_and_wrong_fields():
    preset = load_preset("cellpose_sam")
    assert parse_config(preset.model).pretrained == "cpsam"
    assert preset.training["crop"] == 256
    with pytest.raises(SomasegError, match="diametre"):
        parse_config({**RANDOM, "diametre": 3})
