import csv
import json
import subprocess
import sys
from hashlib import sha256

import cv2
import numpy as np
import pytest
import torch
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import ndimage
from torch.nn import functional

from somaseg.data.augment import prepare_image
from somaseg.data.synthetic import make_image, write_dataset
from somaseg.data.types import Sample
from somaseg.decide import SettleSettings
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.models.bundle import load_model
from somaseg.models.config import ModelInfo
from somaseg.models.nn.encoders import Encoder
from somaseg.models.pixel_forest.boosting import boost, count_nodes
from somaseg.models.pixel_forest.features import FILTERS, PixelFeatures, filter_image
from somaseg.models.pixel_forest.pixels import draw_pixels, label_kinds, pieces, shares
from somaseg.models.registry import build_model, parse_config
from somaseg.models.training.fit import fit_estimator, train_model
from somaseg.models.training.info import learn_info
from somaseg.models.training.journal import CHECKPOINT
from somaseg.models.training.settings import TrainSettings
from somaseg.models.trees import check_trees
from somaseg.predict.load import load_segmenter
from somaseg.runs.run import DataConfig, Run, RunConfig
from somaseg.runs.tasks import run_fold
from tests.models.contract import INFO, Contract, training_samples

SMALL = {"family": "pixel_forest", "levels": 2, "sigmas": (1.0, 3.0), "pixels": 4000}
SMALL |= {"class_rounds": 3, "depth": 4}
ROUNDS = TrainSettings(steps=6, log_every=2, checkpoint_minutes=1e-9)


class TestPixelForest(Contract):
    # At twice the usual scale the features' grid is that of the image.
    config = SMALL | {"diameter": 56.0, "depth": 6}
    over_fit = TrainSettings(steps=40)
    settings = SettleSettings(score=0.2, min_area=15)


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return training_samples(tmp_path_factory.mktemp("images"), ("cort", "shsy5y"))


@pytest.fixture(scope="module")
def fitted(samples, tmp_path_factory):
    model = build_model(parse_config(SMALL), learn_info(samples))
    train_model(model, samples, ROUNDS, tmp_path_factory.mktemp("fitted"))
    return model


def rows_of(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# ---- features ----


@pytest.fixture(scope="module")
def texture():
    return prepare_image(make_image("astro", 4, (60, 75))[0])


@pytest.mark.parametrize("sigma", [0.7, 2.0, 5.0])
def test_filters_by_scipy(texture, sigma):
    found = dict(zip(("gray", *FILTERS), filter_image(texture, [sigma]), strict=True))
    assert np.array_equal(found["gray"], texture)
    mean = ndimage.gaussian_filter(texture.astype(float), sigma, mode="nearest")
    inner = (slice(1, -1), slice(1, -1))  # how the outermost pixel is differentiated is a choice
    edge = np.hypot(ndimage.sobel(mean, 0), ndimage.sobel(mean, 1)) / (4 * np.sqrt(2))
    dy, dx = np.gradient(mean)
    (yy, yx), (_, xx) = np.gradient(dy), np.gradient(dx)
    hessian = np.linalg.eigvalsh(np.stack([yy, yx, yx, xx], -1).reshape(*mean.shape, 2, 2))
    sy, sx = (ndimage.sobel(texture.astype(float), k, mode="nearest") for k in (0, 1))
    products = [
        ndimage.gaussian_filter(p, sigma, mode="nearest")
        for p in (sy * sy, sy * sx, sy * sx, sx * sx)
    ]
    structure = np.linalg.eigvalsh(np.stack(products, -1).reshape(*mean.shape, 2, 2))
    expected = {
        "mean": mean,
        "edge": edge,
        "hessian_high": hessian[..., 1],
        "hessian_low": hessian[..., 0],
        "structure_high": structure[..., 1],
        "structure_low": structure[..., 0],
    }
    for name, values in expected.items():
        largest = np.abs(values).max()
        assert np.allclose(found[name][inner], values[inner], atol=1e-4 * largest), name


def test_encoder_levels_lie_on_one_grid(texture):
    encoder = Encoder("tf_efficientnet_lite0", "auto", depth=3)
    features = PixelFeatures(encoder, (1.0,))
    image = torch.from_numpy(texture[:48, :64].copy())[None, None]
    with torch.inference_mode():
        out, levels = features(image), encoder(image)
    assert out.shape == (1, len(features.names), 24, 32)
    assert out.dtype == torch.float32
    at = 1 + len(FILTERS)
    for level, stride in zip(levels, encoder.strides, strict=True):
        expected = functional.interpolate(level, (24, 32), mode="bilinear", align_corners=False)
        count = level.shape[1]
        # The warp keeps five bits of a position between two pixels.
        assert torch.allclose(
            out[:, at : at + count], expected, atol=float(level.abs().max()) / 32
        ), stride
        assert features.names[at : at + 2] == [f"level{stride}_0", f"level{stride}_1"]
        at += count
    assert torch.allclose(out[:, at - 1 :], expected[:, -1:], atol=float(level.abs().max()) / 32)
    assert at == len(features.names)


def test_encoder_stays_as_it_is(fitted):
    assert not any(weights.requires_grad for weights in fitted.net.parameters())
    fresh = Encoder("tf_efficientnet_lite0", "auto", depth=2).state_dict()
    for name, weights in fitted.net.features.encoder.state_dict().items():
        assert torch.equal(weights, fresh[name]), name


# ---- pixels ----


@given(st.integers(0, 10_000))
def test_kinds_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (4, 5)), np.ones((3, 3), int)).astype(np.int32)
    kinds = label_kinds(labels)
    for y, x in np.ndindex(labels.shape):
        around = labels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        own = labels[y, x]
        assert kinds[y, x] == (0 if own == 0 else 2 if (around != own).any() else 1)


def disc_kinds():
    y, x = np.mgrid[:200, :240]
    return label_kinds(((y - 90) ** 2 + (x - 90) ** 2 < 40**2).astype(np.int32))


def test_kinds_are_drawn_in_balance():
    kinds = disc_kinds()
    chosen, weights = draw_pixels(kinds, 600, 0.0, np.random.default_rng(0))
    assert len(np.unique(chosen)) == len(chosen) == 600
    assert np.bincount(kinds.ravel()[chosen]).tolist() == [200, 200, 200]
    assert (weights == 1).all()
    y, x = np.divmod(chosen[kinds.ravel()[chosen] == 0], 240)
    near = np.hypot(y - 90, x - 90) < 40 + 7
    assert 90 <= near.sum() <= 110


def test_weights_bring_back_the_true_shares():
    kinds = disc_kinds()
    chosen, weights = draw_pixels(kinds, 600, 1.0, np.random.default_rng(0))
    drawn = np.bincount(kinds.ravel()[chosen], weights)
    assert drawn / drawn.sum() == pytest.approx(np.bincount(kinds.ravel()) / kinds.size, rel=1e-4)
    half = draw_pixels(kinds, 600, 0.5, np.random.default_rng(0))[1]
    assert 1 < half.max() / half.min() < weights.max() / weights.min()


def test_a_kind_that_is_rare_or_missing_gives_what_it_has():
    kinds = np.zeros((40, 40), np.uint8)
    assert set(kinds.ravel()[draw_pixels(kinds, 300, 0.5, np.random.default_rng(0))[0]]) == {0}
    kinds[5, 5] = 2
    chosen, weights = draw_pixels(kinds, 300, 0.5, np.random.default_rng(0))
    assert (kinds.ravel()[chosen] == 2).sum() == 1
    assert weights.mean() == pytest.approx(1, rel=1e-5)


def test_cell_types_share_the_pixels():
    kinds = ["a", "b", "a", "a", None]
    images = [Sample(str(i), (8, 8), image_class=kind) for i, kind in enumerate(kinds)]
    assert shares(images, 900) == [100, 300, 100, 100, 300]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_pieces_cover_each_pixel_once(height, width, side):
    seen = np.zeros((height, width), int)
    for piece in pieces((height, width), side):
        seen[piece] += 1
        assert max(seen[piece].shape) <= side
    assert (seen == 1).all()


@pytest.mark.parametrize("diameter", [20.0, 37.0])
def test_labels_lie_on_their_features(tmp_path, diameter):
    # Cells are white on black: the gray feature must tell the kind, on any grid.
    y, x = np.mgrid[:90, :110]
    masks = np.array([(y - cy) ** 2 + (x - cx) ** 2 < 14**2 for cy, cx in ((25, 30), (60, 80))])
    cv2.imwrite(str(tmp_path / "0.png"), masks.any(0).astype(np.uint8) * 255)
    cells = Instances.from_masks(masks, classes=[0, 2], names=INFO.names)
    sample = Sample("0", (90, 110), tmp_path / "0.png", cells)
    model = build_model(parse_config(SMALL | {"diameter": diameter}), learn_info([sample]))
    (table,) = model.draw([sample], 0)
    gray = table["features"][:, 0]
    assert gray[table["kinds"] == 1].min() > 0.9
    assert np.median(gray[table["kinds"] == 2]) > 0.5
    assert (gray[table["kinds"] == 0] < 0.5).mean() > 0.97
    assert set(table["classes"][table["kinds"] > 0]) == {0, 2}
    assert (table["classes"][table["kinds"] == 0] == -1).all()


def test_large_images_are_drawn_from_in_pieces(samples, monkeypatch):
    model = build_model(parse_config(SMALL), learn_info(samples))
    monkeypatch.setattr("somaseg.models.pixel_forest.model.PIECE", 50)
    tables = list(model.draw(samples, 0))
    assert len(tables) == 2 * 4
    sizes = [len(table["weights"]) for table in tables]
    assert 0.5 * 4000 < sum(sizes) <= 4000


# ---- fitting ----


def test_interrupted_fitting_ends_as_an_undisturbed_one(samples, fitted, tmp_path):
    def stop(done, total, loss):
        if done == 5:
            raise Stopped

    def fresh():
        return build_model(parse_config(SMALL), learn_info(samples))

    with pytest.raises(Stopped):
        fit_estimator(fresh(), samples, ROUNDS, tmp_path, progress=stop)
    seen = []
    resumed = fresh()
    resumed.draw = None  # what was drawn is not drawn again
    trained = fit_estimator(
        resumed, samples, ROUNDS, tmp_path, progress=lambda done, *_: seen.append(done)
    )
    assert seen == [5, 6]
    assert resumed.parts() == fitted.parts()
    assert [row["step"] for row in rows_of(tmp_path)] == ["2", "4", "6"]
    # Nor does a finished one fit anything.
    again = fresh()
    repeated = fit_estimator(
        again, samples, ROUNDS, tmp_path, progress=lambda *_: pytest.fail("did a round again")
    )
    assert again.parts() == fitted.parts()
    assert repeated.losses == pytest.approx(trained.losses, abs=1e-5)
    assert repeated.seconds >= trained.seconds


def test_loss_is_the_weighted_cross_entropy():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 4)).astype(np.float32)
    labels = (rows[:, 0] > 0).astype(int) + (rows[:, 1] > 1)
    weights = rng.uniform(0.2, 2, 500).astype(np.float32)
    settings = {"kinds": 3, "rounds": 5, "depth": 3, "rate": 0.3}
    settings["names"] = list("abcd")
    losses = []
    for booster, loss in boost(None, rows, labels, weights, **settings):
        losses.append(loss)
        p = booster.predict(xgboost.DMatrix(rows, feature_names=list("abcd")))
        assert loss == pytest.approx(
            -(weights * np.log(p[np.arange(500), labels])).sum() / weights.sum(), rel=1e-4
        )
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    assert count_nodes(booster) == sum(len(tree["left_children"]) for tree in trees)


def test_probabilities_are_those_of_xgboost_alone(fitted):
    image = torch.from_numpy(prepare_image(make_image("cort", 7, (64, 96))[0]))[None, None]
    with torch.inference_mode():
        out = fitted.net(image)[0].numpy()
        features = fitted.net.features(image)[0].numpy()
    rows = xgboost.DMatrix(
        features.reshape(len(features), -1).T, feature_names=fitted.net.features.names
    )
    for part, channels in (("pixels", slice(0, 3)), ("classes", slice(3, 6))):
        booster = xgboost.Booster(model_file=bytearray(fitted.parts()[f"{part}.json"]))
        expected = booster.predict(rows).T.reshape(3, 32, 48)
        assert np.allclose(out[channels], expected, atol=1e-6)


def test_settings_of_gradient_descent_are_refused(samples, tmp_path):
    model = build_model(parse_config(SMALL), learn_info(samples))
    settings = TrainSettings(steps=2, batch=8)
    with pytest.raises(SomasegError, match=r"training\.batch: family 'pixel_forest'"):
        fit_estimator(model, samples, settings, tmp_path)


def test_checkpoint_of_other_settings_is_refused(samples, tmp_path):
    model = build_model(parse_config(SMALL), learn_info(samples))
    settings = TrainSettings(steps=1)
    fit_estimator(model, samples, settings, tmp_path)
    assert (tmp_path / CHECKPOINT).exists()
    with pytest.raises(SomasegError, match="other training settings"):
        fit_estimator(model, samples, TrainSettings(steps=2), tmp_path)


def test_without_any_class_there_is_none_to_learn(samples, tmp_path):
    nameless = [Sample(s.id, s.size, s.image_path, s.instances.with_classes(-1)) for s in samples]
    model = build_model(parse_config(SMALL), INFO)
    with pytest.raises(SomasegError, match="no cell is of a known class"):
        fit_estimator(model, nameless, ROUNDS, tmp_path)


def test_one_class_needs_no_forest_for_it(samples, tmp_path):
    alike = [
        Sample(s.id, s.size, s.image_path, s.instances.with_classes(0, ("cell",))) for s in samples
    ]
    model = build_model(parse_config(SMALL), learn_info(alike))
    fit_estimator(model, alike, ROUNDS, tmp_path)
    assert set(model.parts()) == {"pixels.json"}
    assert set(model.predict([samples[1].image()])[0].classes) <= {0}


def test_xgboost_that_is_not_installed_is_told(samples, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    model = build_model(parse_config(SMALL), learn_info(samples))
    with pytest.raises(SomasegError, match=r"pip install 'somaseg\[xgboost\]'"):
        fit_estimator(model, samples, ROUNDS, tmp_path)


def test_unfitted_model_says_so():
    model = build_model(parse_config(SMALL), INFO)
    with pytest.raises(SomasegError, match="not fitted"):
        model.predict([np.zeros((40, 40), np.uint8)])


# ---- files ----


@pytest.fixture
def saved(fitted, tmp_path):
    path = tmp_path / "m.safetensors"
    fitted.save(path)
    return path


def save_as_before(model, path):
    """A file of format 1, and the forests beside it."""
    parts = {ending: sha256(data).hexdigest() for ending, data in model.parts().items()}
    fields = {"format": 1, "config": model.config.model_dump(mode="json")}
    fields |= {"info": model.info.model_dump(mode="json"), "parts": parts}
    tensors = {name: tensor.contiguous() for name, tensor in model.tensors().items()}
    save_file(tensors, path, {"somaseg": json.dumps(fields)})
    for ending, data in model.parts().items():
        path.with_suffix(f".{ending}").write_bytes(data)


@pytest.fixture
def older(fitted, tmp_path):
    path = tmp_path / "m.safetensors"
    save_as_before(fitted, path)
    return path


def test_forests_lie_in_the_model_file(saved):
    assert [p.name for p in saved.parent.iterdir()] == ["m.safetensors"]


def test_older_file_with_forests_beside_it(fitted, older):
    again = load_model(older)
    assert again.parts() == fitted.parts()
    assert again.info == fitted.info


def test_missing_part_is_named(older):
    (older.parent / "m.classes.json").unlink()
    with pytest.raises(SomasegError, match=r"m\.classes\.json: No such file.*m\.safetensors"):
        load_model(older)


def test_truncated_part_is_named(older):
    part = older.parent / "m.pixels.json"
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(SomasegError, match=r"m\.pixels\.json: truncated, or of another model"):
        load_model(older)


def test_part_of_another_model_is_refused(older, samples, tmp_path):
    other = build_model(parse_config(SMALL | {"depth": 2}), learn_info(samples))
    train_model(other, samples, TrainSettings(steps=1), tmp_path / "other")
    (tmp_path / "m.pixels.json").write_bytes(other.parts()["pixels.json"])
    with pytest.raises(SomasegError, match=r"m\.pixels\.json: truncated, or of another model"):
        load_model(older)


def test_part_that_xgboost_cannot_read_is_named(fitted):
    other = json.loads(fitted.parts()["pixels.json"])
    del other["learner"]["objective"]["softmax_multiclass_param"]
    with pytest.raises(SomasegError, match=r"pixels\.json: XGBoost .* cannot read"):
        build_model(fitted.config, fitted.info).take_parts(
            {"pixels.json": json.dumps(other).encode()}
        )


@pytest.mark.parametrize("name", ["other.json", "features.json"])
def test_part_that_no_forest_has(fitted, name):
    with pytest.raises(SomasegError, match="has no part"):
        build_model(fitted.config, fitted.info).take_parts({name: b"{}"})


def test_half_halves_the_encoder_alone(fitted, saved, tmp_path):
    fitted.save(tmp_path / "h.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("h", "m")]
    assert sizes[0] < 0.7 * sizes[1]
    image = make_image("cort", 3, (80, 96))[0]
    one, other = (load_model(tmp_path / f"{x}.safetensors") for x in ("h", "m"))
    gray = prepare_image(image)
    assert np.abs(one.maps(gray) - other.maps(gray)).mean() < 0.02


DAMAGED_FORESTS = """
import json, random, sys
import numpy as np
from somaseg.errors import SomasegError
from somaseg.models.pixel_forest.boosting import probabilities, read_forest

whole = open(sys.argv[1]).read()
features, kinds = map(int, sys.argv[2:])
rng = random.Random(0)
rows = np.random.default_rng(0).normal(size=(50, features)).astype(np.float32)
values = [-1, 0, 1, 7, 2**31 - 1, -(2**31), 2**40, 1e30, None, "x", "-3", "99999999", [], {}, True]
refused = used = 0
for number in range(600):
    forest = json.loads(whole)
    place = forest["learner"]
    if number % 3:  # half of all numbers are in the trees
        place = rng.choice(place["gradient_booster"]["model"]["trees"])
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not (isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.9):
            break
        place = place[key]
    if number % 7 == 0:
        del place[key]
    else:
        place[key] = rng.choice(values)
    data = json.dumps(forest).encode()
    try:
        out = probabilities(read_forest(data, "forest", features, kinds), rows)
        assert out.shape == (50, kinds), out.shape
        used += 1
    except SomasegError as error:
        assert "forest: " in str(error)
        refused += 1
print(refused, used)
"""


def test_damaged_forests_are_refused_before_xgboost_crashes(fitted, tmp_path):
    path = tmp_path / "pixels.json"
    path.write_bytes(fitted.parts()["pixels.json"])
    features = len(fitted.net.features.names)
    check_trees(path.read_bytes(), "whole", features, 3)
    told = subprocess.run(
        [sys.executable, "-c", DAMAGED_FORESTS, str(path), str(features), "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    refused, used = map(int, told.stdout.split())
    assert refused > 300
    assert used > 0


# ---- decoding ----


def test_true_maps_decode_to_the_cells():
    cells = make_image("cort", 3, (120, 160))[1].disjoint(largest_piece=True, min_area=30)[0]
    labels = cells.to_labels()
    kinds = label_kinds(labels)
    maps = np.zeros((6, *labels.shape), np.float32)
    for kind in range(3):
        maps[kind] = np.where(kinds == kind, 0.9, 0.05)
    maps[4] = 1
    model = build_model(parse_config(SMALL), INFO)
    found = model.decode(maps)
    # A cell of border alone has no seed of its own.
    assert len(cells) - 3 <= len(found) <= len(cells) + 3
    assert (found.classes == 1).all()
    assert np.array_equal(found.binary(0.5).to_labels() > 0, labels > 0)


def test_scale_follows_the_cells():
    model = build_model(parse_config(SMALL), ModelInfo(names=("a",), diameter=8.0))
    assert model.scale == 3.5


# ---- a run ----


def test_run_from_data_to_masks(tmp_path):
    write_dataset(tmp_path / "data", n_per_class=2, size=(96, 96), n_test=1)
    fields = {
        "data": DataConfig(path=str(tmp_path / "data")),
        "folds": 2,
        "model": SMALL,
        "training": ROUNDS,
    }
    run = Run.create(tmp_path / "run", RunConfig.model_validate(fields))
    events = []
    for fold in range(2):
        run_fold(run, fold, events.append)
        note = json.loads((run.part(fold) / "training.json").read_text())
        assert set(note) == {"seconds", "cpu_seconds", "steps", "losses", "images", "parameters"}
        assert note["steps"] == 6
        assert note["parameters"] > 1000
        assert not (run.part(fold) / CHECKPOINT).exists()
    assert {event["stage"] for event in events} == {"train", "predict"}
    trained = len(events)
    run_fold(run, 0, events.append)
    assert len(events) == trained
    cells = load_segmenter(tmp_path / "run")(make_image("cort", 9, (70, 64))[0])
    assert cells.size == (70, 64)
    other = RunConfig.model_validate(fields | {"start_from": "some.safetensors"})
    with pytest.raises(SomasegError, match="has no weights to start from"):
        run_fold(Run.create(tmp_path / "other", other), 0, events.append)
