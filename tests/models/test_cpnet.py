"""Cellpose's network, its weights and its way over an image, against the package's own answers."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from somaseg.data.augment import prepare_image
from somaseg.errors import SomasegError
from somaseg.models.cellpose.convert import import_cellpose
from somaseg.models.config import ModelInfo
from somaseg.models.flow import checkpoint
from somaseg.models.flow.checkpoint import cellpose_name, find_checkpoint, load_cellpose
from somaseg.models.flow.tiling import run_tiled
from somaseg.models.nn.cpnet import WIDTHS, CPNet
from somaseg.models.registry import build_model, load_preset, parse_config
from somaseg.models.training.settings import TrainSettings
from somaseg.predict.load import load_segmenter
from tests.cli.run import somaseg
from tests.models.contract import INFO, STILL, Contract
from tests.models.data import make_cpnet_fixture as fixture

THEIRS = np.load(Path(fixture.__file__).parent / "cpnet.npz")
SMALL = {
    "family": "flow",
    "encoder": "cpnet",
    "pretrained": "none",
    "widths": (16, 24, 32),
    "diameter": 20.0,
}


class TestFlowCPNet(Contract):
    config = SMALL
    over_fit = TrainSettings(steps=100, batch=2, crop=64, rate=5e-3, average=0.9, augment=STILL)


def their_tensors():
    shapes = json.loads(str(THEIRS["shapes"]))
    return {name: torch.from_numpy(value) for name, value in fixture.weights(shapes).items()}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "my_cellpose_model"
    torch.save(their_tensors(), path)
    return path


def test_same_weights_same_output(model_file):
    net = CPNet(classes=2).eval()
    assert load_cellpose(net, model_file) == 30
    # Cellpose's 6,600,845 parameters count its two diameters; ours have a head of 2 classes.
    assert sum(p.numel() for p in net.parameters()) == 6_600_845 - 2 + (2 * 32 + 2 * 32 + 2)
    plain = torch.from_numpy(fixture.image()[:64, :96].astype(np.float32) / 255)
    with torch.inference_mode():
        output = net(plain[None, None])[0].numpy()
    assert output.shape == (5, 64, 96)
    assert np.abs(THEIRS["output"]).mean() > 0.3
    np.testing.assert_allclose(output[:3], THEIRS["output"], atol=1e-4)


@pytest.mark.parametrize("diameter", fixture.DIAMETERS)
@pytest.mark.parametrize("flip", [False, True])
def test_same_flows_of_an_image(model_file, diameter, flip):
    config = {
        "family": "flow",
        "encoder": "cpnet",
        "pretrained": str(model_file),
        "diameter": 30,
        "image_diameter": diameter,
        "flip_tiles": flip,
        "zero_padding": True,
    }
    model = build_model(parse_config(config), INFO).eval()
    maps = model.maps(prepare_image(fixture.image()))
    expected = THEIRS[f"maps_{diameter:g}_{flip}"]
    np.testing.assert_allclose(maps[:3, :: fixture.EVERY, :: fixture.EVERY], expected, atol=5e-4)


def test_same_flows_of_two_stains(model_file):
    """``channels=[2, 1]`` in Cellpose: cells green, nuclei red."""
    model = import_cellpose(model_file, fixture.DIAMETERS[0], channels=["1", "0"])
    model.config.flip_tiles = True
    maps = model.maps(model.prepare(fixture.stained()[..., [1, 0]]))
    expected = THEIRS["stained"]
    np.testing.assert_allclose(maps[:3, :: fixture.EVERY, :: fixture.EVERY], expected, atol=5e-4)


def test_channels_of_an_import(model_file, tmp_path):
    path = tmp_path / "m.safetensors"
    somaseg("import", model_file, "--chan", 2, "--chan2", 1, "--diameter", 18, "--out", path)
    segmenter = load_segmenter(path)
    assert segmenter.channels == ("1", "0")
    cv2.imwrite(str(tmp_path / "a.png"), fixture.stained()[..., ::-1])
    found = segmenter(tmp_path / "a.png")
    assert np.array_equal(found.pixels, segmenter(fixture.stained()[..., [1, 0]]).pixels)
    for words, told in (
        (("--chan2", 1), "--chan2: of gray images there are no nuclei"),
        (("--chan", 1, "--chan2", 1), "--chan2 1: the channel of the cells"),
    ):
        done = somaseg("import", model_file, *words, "--out", path, check=False)
        assert done.returncode == 2
        assert told in done.stderr


def test_safetensors_and_parallel_prefix(model_file, tmp_path):
    from safetensors.torch import save_file

    save_file({f"module.{k}": v for k, v in their_tensors().items()}, tmp_path / "m.safetensors")
    one, other = CPNet(0), CPNet(0)
    load_cellpose(one, model_file)
    load_cellpose(other, tmp_path / "m.safetensors")
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_every_tensor_has_its_name():
    ours = {cellpose_name(key) for key in CPNet(0).state_dict() if "num_batches" not in key}
    assert ours == set(their_tensors())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"W2": torch.zeros(1)}, "family: cellpose"),
        ({"net.encoder.x": torch.zeros(1)}, "transformers"),
        ({"fc.weight": torch.zeros(1)}, "tensors are called fc.weight"),
    ],
)
def test_other_models_are_named(tmp_path, tensors, message):
    torch.save(tensors, tmp_path / "model")
    with pytest.raises(SomasegError, match=message):
        load_cellpose(CPNet(0), tmp_path / "model")


def test_missing_misshapen_and_extra_tensors(tmp_path):
    key = "output.2.weight"
    for change, message in (
        (lambda t: t.pop(key), "output.2.weight is missing"),
        (lambda t: t.update({key: t[key][:2]}), r"\(2, 32, 1, 1\), but \(3, 32, 1, 1\)"),
        (lambda t: t.update({"downsample.more": t[key]}), "layers that this network lacks"),
    ):
        tensors = their_tensors()
        change(tensors)
        torch.save(tensors, tmp_path / "model")
        with pytest.raises(SomasegError, match=message):
            load_cellpose(CPNet(0), tmp_path / "model")


def test_a_pickle_with_code_is_refused(tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "model").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(SomasegError, match="tensors only"):
        load_cellpose(CPNet(0), tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_models_by_name(tmp_path, monkeypatch):
    theirs, kept = tmp_path / "theirs", tmp_path / "kept"
    theirs.mkdir()
    (theirs / "cyto2torch_0").write_bytes(b"weights")
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(kept))
    monkeypatch.setattr(checkpoint, "URL", theirs.as_uri())
    assert find_checkpoint("cyto2").read_bytes() == b"weights"
    (theirs / "cyto2torch_0").unlink()
    assert find_checkpoint("cyto2") == kept / "cyto2torch_0"
    with pytest.raises(SomasegError, match=r"'cyto3'.*cannot be downloaded.*put it into"):
        find_checkpoint("cyto3")
    assert [path.name for path in kept.iterdir()] == ["cyto2torch_0"]
    with pytest.raises(SomasegError, match="cyto33: no such weights file"):
        find_checkpoint("cyto33")


def test_what_a_model_has_learned(tmp_path):
    for name, tensors, expected in (
        ("mine", {"diam_mean": torch.tensor([22.0])}, 22),
        ("mine", {}, 30),
        ("cyto3", {"diam_mean": torch.tensor([22.0])}, 30),
        ("nucleitorch_0", {}, 17),
    ):
        assert checkpoint.learned_diameter(tmp_path / name, tensors) == expected


def test_another_diameter_than_learned(tmp_path):
    torch.save({**their_tensors(), "diam_mean": torch.tensor([17.0])}, tmp_path / "mine")
    fields = {"family": "flow", "encoder": "cpnet", "pretrained": str(tmp_path / "mine")}
    with pytest.raises(SomasegError, match=r"learned cells of 17 pixels.*set it to 17"):
        build_model(parse_config({**fields, "diameter": 30}), INFO)
    build_model(parse_config({**fields, "diameter": 17}), INFO)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pretrained": "imagenet"}, "no ImageNet weights"),
        ({"tile": 99}, "tile 99"),
        ({"encoder": "resnet18", "flip_tiles": True}, "flip_tiles"),
    ],
)
def test_settings_that_do_not_go_together(fields, message):
    with pytest.raises(SomasegError, match=message):
        parse_config({**SMALL, **fields})


def test_tiles_that_do_nothing_give_the_image_back():
    gray = np.random.default_rng(0).random((130, 301)).astype(np.float32)
    maps = run_tiled(lambda x: torch.cat([x, 2 * x, x + 1], 1), gray, 1.0, tile=64)
    np.testing.assert_allclose(maps, [gray, 2 * gray, gray + 1], atol=1e-5)


def test_flipped_tiles_turn_their_flows_back():
    gray = np.random.default_rng(0).random((100, 90)).astype(np.float32)

    def gradient(x):
        dy, dx = torch.gradient(x[:, 0], dim=(1, 2))
        return torch.stack([dy, dx, x[:, 0]], 1)

    plain = run_tiled(gradient, gray, 1.0, tile=256)
    flipped = run_tiled(gradient, gray, 1.0, tile=256, flip=True)
    np.testing.assert_allclose(flipped[:, 2:-2, 2:-2], plain[:, 2:-2, 2:-2], atol=1e-5)


def test_resampled_or_not_are_nearly_the_same_cells():
    truth = fixture.labels()
    from somaseg.models.flow.targets import label_flows

    logit = np.where(truth > 0, 6.0, -6.0).astype(np.float32)
    maps = np.concatenate([5 * label_flows(truth), logit[None], logit[None]])
    info = ModelInfo(names=("cell",), diameter=20.0)
    found = [
        build_model(parse_config({**SMALL, "diameter": 30.0, "resample": on}), info).decode(maps)
        for on in (True, False)
    ]
    assert len(found[0]) == len(found[1]) == truth.max()
    shared = [np.bincount(truth.ravel()[f.to_labels().ravel() > 0]).sum() for f in found]
    assert abs(shared[0] - shared[1]) < 0.02 * shared[0]


def test_presets_are_what_the_paper_and_the_teams_say():
    modified = load_preset("cellpose_modified")
    config = parse_config(modified.model)
    assert (config.encoder, config.image_diameter, config.flip_tiles, config.resample) == (
        "cpnet",
        19,
        True,
        True,
    )
    assert modified.training["optimizer"] == "sgd"
    model = build_model(config, INFO)
    assert model.scale == 30 / 19
    assert (model.label_stride, model.label_margin, model.multiple) == (1, 48, 8)
    lite = load_preset("cellpose_modified_lite")
    assert lite.model == {**modified.model, "widths": [width // 2 for width in WIDTHS]}
    assert lite.training["optimizer"] == "sgd"
    assert parse_config(load_preset("flow_cpnet").model).pretrained == "none"
    assert parse_config(load_preset("cellpose_cyto3").model).pretrained == "cyto3"
