import numpy as np
import pytest
import torch
from torch import nn

from somaseg.decide import SettleSettings, settle
from somaseg.errors import SomasegError
from somaseg.models import precision
from somaseg.models.bundle import load_model
from somaseg.models.config import Checked
from somaseg.models.device import BATCH_VARIABLE, choose_batch
from somaseg.models.engine import VARIABLE as ENGINE
from somaseg.models.precision import VARIABLE, choose_precision, has_bfloat16, precision_of
from somaseg.models.quantise import quantise
from somaseg.models.registry import build_model, parse_config
from somaseg.predict.bands import segment
from somaseg.predict.predictor import Predictor
from tests.models.test_engine import CONFIGS, INFO, model_of
from tests.predict.fakes import FakeRegion, discs

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
KEPT = Checked(images=4, scores={"float32": 0.31, "bfloat16": 0.308})
LOST = Checked(images=4, scores={"float32": 0.31, "bfloat16": 0.306})


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    for name in (VARIABLE, BATCH_VARIABLE, ENGINE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def capable(monkeypatch):
    """As on a processor with bfloat16; elsewhere PyTorch imitates it."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)


def checked(name, found):
    model = model_of(name)
    model.info = model.info.model_copy(update={"checked": found})
    return model


# ---- the choice ----


def test_the_environment_chooses_where_nobody_else_does(monkeypatch):
    assert choose_precision() == "auto"
    monkeypatch.setenv(VARIABLE, "bfloat16")
    assert choose_precision() == "bfloat16"
    assert choose_precision("float32") == "float32"
    with pytest.raises(SomasegError, match="precision 'half': give one of auto, float32, bfl"):
        choose_precision("half")


def test_auto_is_bfloat16_where_it_kept_the_score_and_the_hardware_has_it(monkeypatch):
    for can in (True, False):
        monkeypatch.setattr(precision, "has_bfloat16", lambda _, can=can: can)
        chosen = [precision_of(checked("small", c), "auto", "torch", CPU) for c in (KEPT, LOST)]
        assert chosen == ["bfloat16" if can else "float32", "float32"]
        assert precision_of(checked("small", None), "auto", "torch", CPU) == "float32"
        # Other engines: OpenVINO can, ONNX Runtime cannot.
        wanted = "bfloat16" if can else "float32"
        assert precision_of(checked("small", KEPT), "auto", "openvino", CPU) == wanted
        assert precision_of(checked("small", KEPT), "auto", "onnxruntime", CPU) == "float32"
        assert precision_of(checked("small", KEPT), "float32", "torch", CPU) == "float32"


def test_a_gpu_computes_in_half_precision_as_in_training(monkeypatch):
    model = model_of("small")
    for can, half in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr(precision, "has_bfloat16", lambda _, can=can: can)
        assert precision_of(model, "auto", "torch", GPU) == half
        assert precision_of(model, "float32", "torch", GPU) == "float32"


def test_what_cannot_be_had(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: False)
    with pytest.raises(SomasegError, match="this processor does not compute in it"):
        Predictor([model_of("small")], precision="bfloat16")
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)
    with pytest.raises(SomasegError, match="ONNX Runtime computes in float32"):
        Predictor([model_of("small")], precision="bfloat16", engine="onnxruntime")


def test_the_hardware_is_asked(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert has_bfloat16(CPU) is has
    assert not has_bfloat16(torch.device("mps"))


def test_forests_stay_in_float32(capable):
    assert precision_of(model_of("pixel_forest"), "bfloat16", "torch", CPU) == "float32"


# ---- what is computed ----


@pytest.mark.parametrize("name", ["flow", "rcnn", "small"])
def test_networks_compute_in_it_and_maps_stay_close(name, capable):
    model = model_of(name)
    gray = np.random.default_rng(0).random((64, 96), np.float32)
    seen = []
    for wanted in ("float32", "bfloat16"):
        predictor = Predictor([model], precision=wanted)
        core = model.engine.__self__ if model.engine else model.core()[0]
        convs = [module for module in core.modules() if isinstance(module, nn.Conv2d)]
        kinds = set()
        hooks = [
            conv.register_forward_hook(lambda _, __, out, kinds=kinds: kinds.add(out.dtype))
            for conv in convs
        ]
        if name == "rcnn":
            predictor.find(gray)
            with torch.inference_mode(), torch.autocast("cpu", enabled=wanted == "bfloat16"):
                out = model.run(torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0)))[0]
            seen.append(out.float().numpy())
        else:
            seen.append(predictor._maps([gray])[0])
        for hook in hooks:
            hook.remove()
        assert kinds == {precision.HALVES.get(wanted, torch.float32)}
        assert not torch.is_autocast_enabled("cpu")
    wide = np.abs(seen[0]).max()
    assert 0 < np.abs(seen[0] - seen[1]).max() < 0.15 * wide
    assert np.abs(seen[0] - seen[1]).mean() < 0.02 * wide


def test_results_of_another_precision_are_told_apart(capable):
    model = model_of("small")
    one, other = (Predictor([model], precision=p).fingerprint() for p in ("float32", "bfloat16"))
    assert one != other
    assert Predictor([model]).fingerprint() == one


def test_openvino_computes_in_bfloat16():
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    if not has_bfloat16(CPU):
        pytest.skip("this processor has no bfloat16")
    model = model_of("flow")
    gray = np.random.default_rng(0).random((64, 96), np.float32)
    maps = [
        Predictor([model], engine="openvino", precision=p)._maps([gray])[0]
        for p in ("float32", "bfloat16")
    ]
    assert 0 < np.abs(maps[0] - maps[1]).max() < 0.1 * np.abs(maps[0]).max()


def test_the_file_keeps_what_was_checked(tmp_path):
    checked("small", KEPT).save(tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").info.checked == KEPT


# ---- int8 ----


def test_int8_needs_openvino_and_a_calibrated_model():
    with pytest.raises(SomasegError, match="precision int8: OpenVINO computes in it; give --eng"):
        Predictor([model_of("small")], precision="int8")
    with pytest.raises(SomasegError, match="make them on images of yours with `somaseg calibrate"):
        Predictor([model_of("small")], precision="int8", engine="openvino")


def test_quantised_networks_give_nearly_the_same_in_every_shape(tmp_path):
    for package in ("openvino", "onnx", "nncf"):
        pytest.importorskip(package)
    threads = torch.get_num_threads()
    model = model_of("small")
    gray = discs((96, 80), 12)[0] + 0.1
    quantise(model, [gray])
    assert torch.get_num_threads() == threads
    assert model.engine is None
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.int8 == model.int8
    plain = Predictor([model])
    for shape in ((96, 80), (64, 64), (80, 96)):  # each is compiled by itself
        part = np.ascontiguousarray(np.resize(gray, shape))
        wanted = plain._maps([part])[0]
        found = Predictor([again], engine="openvino", precision="int8")._maps([part])[0]
        assert np.abs(found - wanted).max() > 1e-4
        assert np.abs(found - wanted).mean() < 0.03 * np.ptp(wanted)
    # Weights that learn on are no longer those of the copy.
    assert again.train().int8 is None


# ---- batches ----


def test_batches_by_device_and_environment(monkeypatch):
    assert choose_batch(None, CPU) == 1
    assert choose_batch(None, GPU) == 8
    monkeypatch.setenv(BATCH_VARIABLE, "3")
    assert choose_batch(None, GPU) == 3
    assert choose_batch(2, GPU) == 2
    for wrong in ("0", "x", "-1", "1.5"):
        monkeypatch.setenv(BATCH_VARIABLE, wrong)
        with pytest.raises(SomasegError, match="give how many views or tiles"):
            choose_batch()


@pytest.mark.parametrize("name", ["flow", "small"])
@pytest.mark.parametrize("views", ["flips", "all"])
def test_views_and_tiles_in_batches_give_the_same_maps(name, views):
    grays = list(np.random.default_rng(0).random((2, 64, 96), np.float32))
    model, maps = model_of(name), []
    for batch in (1, 3):
        predictor = Predictor([model], views, batch=batch)
        core = model.engine.__self__ if model.engine else model.core()[0]
        sizes = []
        hook = core.register_forward_pre_hook(
            lambda _, given, sizes=sizes: sizes.append(len(given[0]))
        )
        maps.append(predictor._maps(grays))
        hook.remove()
        assert max(sizes) == batch
        assert sum(sizes) == 2 * len(predictor.views)
    for one, other in zip(*maps, strict=True):
        assert np.abs(one - other).max() < 1e-5 * max(1, np.abs(one).max())


def test_detectors_find_the_same_in_batches():
    torch.manual_seed(0)
    config = {**CONFIGS["rcnn"], "detections": 5, "rpn_post_nms": [20, 20]}
    model = build_model(parse_config(config), INFO).eval()
    grays = list(np.random.default_rng(0).random((3, 64, 64), np.float32))
    alone = [Predictor([model], "none", batch=1).find(gray) for gray in grays]
    together = Predictor([model], "none", batch=2).find_each(grays)
    assert all(len(one) for one in alone)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.abs(one.scores - other.scores).max() < 1e-5
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1


def test_tiles_of_an_image_go_in_batches():
    gray, _ = discs((100, 300), 30)
    wanted = Predictor([FakeRegion()], tile=96, overlap=24)(gray)
    model = FakeRegion()
    sizes = []
    model.find_each = lambda grays: sizes.append(len(grays)) or [model.find(g) for g in grays]
    found = Predictor([model], tile=96, overlap=24, batch=3)(gray)
    assert max(sizes) == 3
    assert np.array_equal(found.boxes, wanted.boxes)
    settings = {name: SettleSettings(score=0.2, min_area=3) for name in found.names}
    told = []
    predictor = Predictor([model], tile=96, overlap=24, batch=3)
    bands = segment(predictor, settings, False, gray, progress=lambda *x: told.append(x))
    assert len(bands) == len(settle(wanted, settings))
    assert told[-1][0] == told[-1][1] == len(predictor.grid(gray.shape))
