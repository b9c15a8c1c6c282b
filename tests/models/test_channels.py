"""Models of several channels: what they see, what they gain, and who cannot."""

import itertools

import cv2
import numpy as np
import pytest
import timm
import torch

import somaseg
from somaseg.data.augment import AugmentSettings, CropSampler, prepare_image
from somaseg.data.axes import Choice
from somaseg.data.load import load_dataset
from somaseg.data.synthetic_stains import STAINS, make_stained, write_stained
from somaseg.errors import SomasegError
from somaseg.models.base import Network
from somaseg.models.bundle import load_model
from somaseg.models.config import ModelInfo
from somaseg.models.nn.encoders import Encoder, widened
from somaseg.models.registry import build_model, parse_config
from somaseg.models.training.fit import train_model
from somaseg.models.training.info import learn_info
from somaseg.models.training.settings import TrainSettings
from somaseg.models.training.transfer import start_from
from somaseg.predict.predictor import Predictor

TINY = {"family": "semantic", "network": "attention_unet", "widths": [8, 16, 32], "diameter": 20.0}
FAMILIES = {
    "attention": TINY,
    "unet": {"family": "semantic", "decoder": [16, 16, 8, 8]},
    "smp": {"family": "semantic", "network": "smp", "encoder": "resnet18", "pretrained": "none"},
    "flow": {"family": "flow", "decoder": [16, 16, 8, 8]},
    "cpnet": {"family": "flow", "encoder": "cpnet", "pretrained": "none", "widths": [8, 16]},
    "rcnn": {
        "family": "rcnn", "backbone": "tf_efficientnet_lite0", "pretrained": "auto",
        "fpn_channels": 16, "box_dim": 16, "mask_dim": 8, "mask_layers": 1,
    },
}  # fmt: skip


def info(channels=STAINS):
    return ModelInfo(names=("cell",), diameter=20.0, channels=channels)


def test_two_channels_find_cells_that_neither_alone_tells_apart(tmp_path):
    folder = write_stained(tmp_path, 8, (96, 96))
    steps = TrainSettings(steps=100, batch=4, crop=64, rate=8e-3, warmup=0.1, average=0.9)
    scores = {}
    for channels in (STAINS, STAINS[:1], STAINS[1:]):
        dataset = load_dataset(folder, choice=Choice(channels=channels))
        learned, held = dataset.samples[:5], dataset.subset(dataset.ids[5:])
        torch.manual_seed(0)
        model = build_model(parse_config(TINY), learn_info(learned, channels))
        train_model(model, learned, steps, tmp_path / "-".join(channels))
        segmenter = somaseg.load(_saved(model, tmp_path / "m.safetensors"))
        scores[channels] = somaseg.score(held, segmenter(held)).competition.map
    alone = max(scores[STAINS[:1]], scores[STAINS[1:]])
    assert scores[STAINS] > alone + 0.1, scores


def _saved(model, path):
    model.save(path)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_families_train_save_and_predict_channels(tmp_path, family):
    model = build_model(parse_config(FAMILIES[family]), info())
    assert isinstance(model, Network)
    samples = load_dataset(write_stained(tmp_path, 2, (96, 96)), choice=Choice(channels=STAINS))
    crop = 64 if family != "rcnn" else 128
    train_model(model, samples.samples, TrainSettings(steps=2, batch=2, crop=crop), tmp_path / "t")
    again = load_model(_saved(model, tmp_path / "m.safetensors"))
    assert again.info.channels == STAINS
    image = samples[0].image()
    one, other = Predictor([model]), Predictor([again], "flips", tile=80, overlap=24)
    assert one(image).size == other(image).size == (96, 96)
    # Either channel counts, and each by itself: brighter is the same, exchanged is not.
    seen = [look(model, image * np.array(k, np.uint16)[..., :]) for k in ([1, 1], [2, 1])]
    assert np.array_equal(*seen)
    for k in range(2):
        changed = image.copy()
        changed[..., k] = changed[::-1, :, k]
        assert not np.array_equal(look(model, changed), seen[0])


def look(model, image):
    """What a network makes of an image."""
    prepared = model.prepare(image)
    if hasattr(model, "maps"):
        return model.maps(prepared)
    with torch.inference_mode():
        return model._encode([prepared])[1][0].numpy()


@pytest.mark.parametrize("count", [2, 4, 6])
def test_the_first_convolution_is_widened_from_the_pretrained_one(count):
    wide, plain = Encoder(in_channels=count).eval(), Encoder(in_channels=3).eval()
    state, of_rgb = wide.network.state_dict(), plain.network.state_dict()
    (first,) = [name for name in state if state[name].shape != of_rgb[name].shape]
    for k in range(count):
        assert torch.allclose(state[first][:, k], of_rgb[first][:, k % 3] * (3 / count))
    assert all(torch.equal(state[n], of_rgb[n]) for n in state if n != first)
    if count == 6:  # colours twice over give what they gave
        image = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            one, other = wide(image.repeat(1, 2, 1, 1))[-1], plain(image)[-1]
        assert torch.allclose(one, other, atol=1e-4)


def test_rgb_as_three_channels_needs_no_widening():
    network = Encoder(in_channels=3).network.state_dict()
    plain = timm.create_model("tf_efficientnet_lite0", features_only=True).state_dict()
    assert {k: v.shape for k, v in network.items()} == {k: v.shape for k, v in plain.items()}


def test_training_starts_from_a_model_of_gray_images(tmp_path):
    for name in ("unet", "attention"):
        gray = build_model(parse_config(FAMILIES[name]), info(()))
        fresh = build_model(parse_config(FAMILIES[name]), info())
        start_from(fresh, _saved(gray, tmp_path / f"{name}.safetensors"))
        fresh.eval(), gray.eval()
        # Of two channels alike, an attention U-Net finds what it found in gray.
        image = make_stained(0)[0][..., :1]
        if name == "attention":
            one = fresh.maps(fresh.prepare(np.repeat(image, 2, -1)))
            assert np.allclose(one, gray.maps(gray.prepare(image[..., 0])), atol=1e-4)
    assert widened({"a": torch.ones(2, 2)}, {"a": torch.ones(3, 2)})["a"].shape == (2, 2)


def test_one_channel_is_gray_to_the_bit(tmp_path):
    """Images of one channel of a stack are those of its plane, saved alone."""
    image, cells = make_stained(0, (64, 64))
    stack = load_dataset(write_stained(tmp_path / "a", 1, (64, 64)), choice=Choice("dapi"))
    cv2.imwrite(str(tmp_path / "plane.png"), image[..., 1])
    (plane,) = load_dataset(tmp_path / "plane.png")
    assert stack[0].image().ndim == 2
    samples = [stack[0], plane.__class__("b", plane.size, plane.image_path, cells)]
    crops = [
        CropSampler([sample], lambda c: c.to_labels()[None], size=32, scale=1).draw(0)
        for sample in samples
    ]
    assert crops[0].image.shape == (32, 32)
    assert np.array_equal(crops[0].image, crops[1].image)


def test_crops_of_channels_share_a_warp_and_have_a_light_each(tmp_path):
    dataset = load_dataset(write_stained(tmp_path, 1), choice=Choice(channels=STAINS))
    still = {"brightness": 0, "contrast": 0, "gamma": 0, "blur": 0, "noise": 0}

    def draw(settings, choice, count):
        (sample,) = load_dataset(tmp_path, choice=choice)
        options = {"size": 48, "scale": 1.0, "settings": AugmentSettings(**settings)}
        prepare = lambda image: prepare_image(image, None, count)  # noqa: E731
        planes = lambda c: c.to_labels()[None]  # noqa: E731
        return CropSampler([sample], planes, prepare=prepare, channels=count, **options).draw(3)

    both = draw(still, Choice(channels=STAINS), 2)
    assert both.channels.shape == (2, 48, 48)
    for k, name in enumerate(STAINS):
        alone = draw(still, Choice(name), 1)
        assert np.array_equal(both.image[k], alone.image)
        assert np.array_equal(both.planes, alone.planes)
    lit = draw({**still, "brightness": 0.5}, Choice(channels=STAINS), 2)
    shifts = [np.ptp(lit.image[k] - both.image[k]) for k in range(2)]
    assert max(shifts) < 1e-5
    assert abs((lit.image[0] - both.image[0]).mean() - (lit.image[1] - both.image[1]).mean()) > 0.01
    assert len(dataset) == 1


def test_arrays_of_either_order_go_into_a_model(tmp_path):
    torch.manual_seed(0)
    model = build_model(parse_config(TINY), info())
    segmenter = somaseg.load(_saved(model, tmp_path / "m.safetensors"))
    image = make_stained(1, (64, 80))[0]
    found = [segmenter(one) for one in (image, np.moveaxis(image, -1, 0), [image][0])]
    for one, other in itertools.pairwise(found):
        assert np.array_equal(one.pixels, other.pixels)
    with pytest.raises(
        SomasegError, match=r"shape \(64, 80\): must be \(2, h, w\) or .*actin, dapi"
    ):
        segmenter(image[..., 0])
    folder = write_stained(tmp_path / "d", 1, (64, 64))
    path = folder / "images/stained-000.tif"
    assert np.array_equal(segmenter(path).pixels, segmenter(make_stained(0, (64, 64))[0]).pixels)


def test_large_images_go_by_strips_with_the_levels_of_each_channel(tmp_path):
    torch.manual_seed(0)
    predictor = Predictor([build_model(parse_config(TINY), info())], tile=64, overlap=16)
    (sample,) = load_dataset(
        write_stained(tmp_path / "d", 1, (96, 128)), choice=Choice(channels=STAINS)
    )
    image, mapped = sample.image(), sample.image(mapped=True)
    assert not isinstance(mapped, np.ndarray)
    assert np.array_equal(mapped[5:9, 3:7], image[5:9, 3:7])
    levels = predictor.levels(mapped)
    assert np.allclose(levels, np.percentile(image, (1, 99), axis=(0, 1)).T)
    whole = predictor.prepare(image)
    assert np.allclose(predictor.prepare(mapped[:50], levels), whole[:50], atol=1e-5)


def test_families_that_cannot_are_refused():
    for fields, count in (({"family": "pixel_forest"}, 2), (FAMILIES["cpnet"], 3)):
        config = parse_config(fields)
        with pytest.raises(SomasegError, match=rf"looks at {count - 1} channel.*not at {count}"):
            build_model(config, info(tuple("abc"[:count])))
