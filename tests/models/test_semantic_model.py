import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

from somaseg.data.augment import Crop
from somaseg.data.synthetic import make_image
from somaseg.decide import SettleSettings, settle
from somaseg.errors import SomasegError
from somaseg.models.bundle import load_model
from somaseg.models.config import ModelInfo
from somaseg.models.nn.encoders import BUNDLED, Encoder
from somaseg.models.registry import build_model, load_preset, parse_config, preset_names
from somaseg.models.semantic.model import soft_dice
from somaseg.models.semantic.targets import semantic_targets
from somaseg.models.training.settings import TrainSettings
from somaseg.predict.views import VIEWS
from tests.models.contract import INFO, STILL, Contract

UNET = {"family": "semantic", "decoder": (48, 32, 24, 16), "diameter": 24.0}
ATTENTION = {
    "family": "semantic",
    "network": "attention_unet",
    "widths": (8, 16, 32),
    "diameter": 16.0,
}
SMP = {"family": "semantic", "network": "smp", "encoder": "resnet18", "pretrained": "none"}


class TestUNet(Contract):
    config = UNET
    over_fit = TrainSettings(
        steps=80, batch=2, crop=64, rate=3e-3, encoder_rate=1.0, average=0.9, augment=STILL
    )


class TestAttentionUNet(Contract):
    config = ATTENTION
    over_fit = TrainSettings(steps=120, batch=2, crop=64, rate=1e-2, average=0.9, augment=STILL)


class Fixed(torch.nn.Module):
    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, image):
        return self.out


def true_maps(model, labels, kind=1):
    """The logits of a network that knows everything."""
    targets = semantic_targets(labels)
    shares = np.stack([getattr(targets, name) for name in model.channels])
    logits = np.log((shares + 1e-4) / (1 - shares + 1e-4))
    classes = np.zeros((len(model.names), *labels.shape))
    classes[kind] = 4
    return np.concatenate([logits, classes]).astype(np.float32)


def cells_apart(kind="shsy5y", seed=3):
    return make_image(kind, seed, (120, 160))[1].disjoint(largest_piece=True, min_area=30)[0]


def test_true_maps_decode_to_the_cells():
    cells = cells_apart("cort")
    model = build_model(parse_config(ATTENTION), INFO)
    found = model.decode(true_maps(model, cells.to_labels()))
    assert len(found) == len(cells)
    assert (found.classes == 1).all()
    assert (found.scores > 0.9).all()
    assert np.array_equal(found.binary().to_labels() > 0, cells.to_labels() > 0)


def test_without_border_and_seeds_touching_cells_are_one():
    labels = np.zeros((40, 60), np.int32)
    labels[10:30, 10:30], labels[10:30, 30:50] = 1, 2
    together = build_model(parse_config({**ATTENTION, "border": False, "seeds": False}), INFO)
    assert together.channels == ("foreground",)
    assert len(together.decode(true_maps(together, labels))) == 1
    apart = build_model(parse_config(ATTENTION), INFO)
    assert len(apart.decode(true_maps(apart, labels))) == 2


def test_foreground_alone_settles_to_connected_components():
    from scipy.ndimage import gaussian_filter, label

    config = {**ATTENTION, "border": False, "seeds": False}
    model = build_model(parse_config(config), ModelInfo(names=("a",), diameter=16.0))
    logit = 60 * gaussian_filter(np.random.default_rng(0).normal(size=(120, 140)), 3)
    maps = np.stack([logit, np.zeros_like(logit)]).astype(np.float32)
    plain = SettleSettings(score=0, mask_threshold=0.5, min_area=1)
    found = settle(model.decode(maps), {"a": plain}).to_labels()
    expected, count = label(np.rint(255 / (1 + np.exp(-logit))) > 127)
    large = np.bincount(expected.ravel()) >= 15
    pairs = np.unique(np.stack([found, expected])[:, large[expected]], axis=1)
    # Holes are filled when settling; each component of some size is one cell, and no cell is two.
    pairs = pairs[:, pairs[1] > 0]
    assert pairs.shape[1] == len(set(pairs[0])) == len(set(pairs[1])) > 5
    assert count > 5


def test_views_turn_back_and_average():
    labels = cells_apart().to_labels()
    model = build_model(parse_config(ATTENTION), INFO)
    straight = true_maps(model, labels)
    turned = []
    for view in VIEWS["all"]:
        seen = view.image(labels.astype(np.float32)).astype(np.int32)
        turned.append(view.undo_maps(true_maps(model, seen), labels.shape, model.vectors))
    mean = np.mean(turned, axis=0)
    assert np.allclose(mean, straight, atol=1e-3)
    assert np.array_equal(
        model.decode(mean).binary().to_labels() > 0, model.decode(straight).binary().to_labels() > 0
    )


def test_an_example_is_the_crops_inside():
    model = build_model(parse_config(ATTENTION), INFO)
    labels = make_image("shsy5y", 1, (80, 80))[1].to_labels()
    classes = np.arange(labels.max(), dtype=np.int16) % 3
    crop = Crop(np.zeros((32, 32), np.float32), labels[None], 24, classes)
    example = model.example(crop)
    inner = (slice(24, 56), slice(24, 56))
    whole = semantic_targets(labels)
    for target, name in zip(example["targets"], model.channels, strict=True):
        assert np.array_equal(target, getattr(whole, name)[inner])
    assert np.array_equal(example["weights"], 1 + 4 * whole.touching[inner])
    inside = labels[inner] > 0
    assert np.array_equal(example["classes"][inside], (labels[inner][inside] - 1) % 3)
    assert (example["classes"][~inside] == -1).all()


def test_losses_by_hand():
    model = build_model(parse_config(ATTENTION), INFO)
    torch.manual_seed(0)
    out, targets = torch.randn(2, 7, 8, 8), torch.rand(2, 4, 8, 8)
    model.net = Fixed(out)
    weights = 1 + 4 * (torch.rand(2, 8, 8) < 0.2).float()
    classes = torch.where(torch.rand(2, 8, 8) < 0.5, 2, -1)
    batch = {
        "image": torch.zeros(2, 1, 8, 8),
        "targets": targets,
        "weights": weights,
        "classes": classes,
    }
    losses = {k: v.item() for k, v in model.losses(batch).items()}
    z, t, w = (a.numpy().astype(float) for a in (out, targets, weights))
    expected = {}
    for i, name in enumerate(("foreground", "touching", "outline", "depth")):
        p = 1 / (1 + np.exp(-z[:, i]))
        error = -(t[:, i] * np.log(p) + (1 - t[:, i]) * np.log(1 - p))
        expected[name] = (w * error).sum() / w.sum()
        if name != "depth":
            dice = (2 * (p * t[:, i]).sum() + 1) / (p.sum() + t[:, i].sum() + 1)
            expected[f"{name}_dice"] = 0.5 * (1 - dice)
    soft = np.exp(z[:, 4:]) / np.exp(z[:, 4:]).sum(1, keepdims=True)
    expected["class"] = -0.2 * np.log(soft[:, 2][classes.numpy() == 2]).mean()
    assert losses == pytest.approx(expected, rel=1e-4)


def test_dice_of_nothing_is_one():
    nothing = torch.zeros(1, 2, 4, 4)
    assert soft_dice(nothing, nothing).tolist() == [1, 1]
    assert soft_dice(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).item() == pytest.approx(
        1 / 17
    )


@pytest.mark.parametrize("architecture", ["Unet", "FPN", "UnetPlusPlus"])
def test_architectures_of_smp(tmp_path, architecture):
    model = build_model(parse_config({**SMP, "architecture": architecture}), INFO).eval()
    image = make_image("cort", 2, (60, 70))[0]
    maps = model.maps(image / np.float32(255))
    assert maps.shape == (4 + 3, 60, 70)
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert np.array_equal(again.maps(image / np.float32(255)), maps)


def test_smp_gets_the_bundled_weights():
    model = build_model(
        parse_config({**SMP, "encoder": f"tu-{BUNDLED}", "pretrained": "auto"}), INFO
    )
    ours = Encoder(BUNDLED, "imagenet").network.state_dict()
    theirs = model.net.encoder.model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_smp_encoder_from_a_file(tmp_path):
    full = timm.create_model("resnet18", pretrained=False)
    save_file(full.state_dict(), tmp_path / "w.safetensors")
    config = {**SMP, "pretrained": str(tmp_path / "w.safetensors")}
    model = build_model(parse_config(config), INFO)
    assert torch.equal(model.net.encoder.conv1.weight, full.conv1.weight)


def test_no_download_is_told(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(smp, "create_model", offline)
    with pytest.raises(SomasegError, match=r"could not be downloaded .* `pretrained: none`"):
        build_model(parse_config({**SMP, "pretrained": "imagenet"}), INFO)


def test_random_start_is_said(caplog):
    build_model(parse_config({**SMP, "pretrained": "auto"}), INFO)
    assert "starting from random weights" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": "resnet999"}, "encoder 'resnet999'"),
        ({"architecture": "Unnet"}, "architecture 'Unnet'"),
        ({"encoder": "timm-tf_efficientnet_lite0"}, "use tu-tf_efficientnet_lite0"),
        ({"pretrained": "no/such.pt"}, "no such weights file"),
    ],
)
def test_what_smp_has_not(fields, message):
    with pytest.raises(SomasegError, match=message):
        build_model(parse_config({**SMP, **fields}), INFO)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**ATTENTION, "encoder": "resnet18"}, "attention_unet has no encoder"),
        ({**UNET, "architecture": "FPN"}, "unet has no architecture"),
        ({**SMP, "widths": (4, 8)}, "smp has no widths"),
    ],
)
def test_a_field_that_the_network_ignores_is_refused(fields, message):
    with pytest.raises(SomasegError, match=message):
        parse_config(fields)


def test_only_a_pretrained_encoder_keeps_its_statistics():
    def frozen(config):
        model = build_model(parse_config(config), INFO).train()
        return {
            "encoder" in name: not module.training
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.BatchNorm2d)
        }

    assert frozen(UNET) == {True: True, False: False}
    assert frozen({**UNET, "pretrained": "none"}) == {True: False, False: False}
    assert frozen({**UNET, "freeze_norm": False}) == {True: False, False: False}
    assert frozen(ATTENTION) == {False: False}


def test_the_two_attention_presets_differ_in_border_and_seeds_alone():
    one, other = (
        load_preset(f"attention_unet{middle}_lite").model_dump(exclude={"about"})
        for middle in ("", "_border")
    )
    assert (one["model"].pop("border"), one["model"].pop("seeds")) == (False, False)
    assert (other["model"].pop("border"), other["model"].pop("seeds")) == (True, True)
    assert one == other


@pytest.mark.parametrize("name", [n for n in preset_names() if "unet" in n])
def test_presets_fit(name):
    preset = load_preset(name)
    config = parse_config(preset.model)
    settings = TrainSettings.model_validate(preset.training)
    if config.pretrained == "imagenet":
        config = config.model_copy(update={"pretrained": "none"})
    assert settings.crop % build_model(config, INFO).multiple == 0
