import json
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from somaseg.errors import SomasegError
from somaseg.models.bundle import Bundle, BundleMember, load_model, read_bundle, write_bundle
from somaseg.models.config import ModelInfo
from somaseg.models.registry import build_model, parse_config
from somaseg.predict.load import describe_model, load_segmenter, shipped_model

TINY = {"family": "flow", "encoder": "cpnet", "widths": (2, 4), "diameter": 20.0}
INFO = ModelInfo(
    names=("astro", "cort"),
    diameter=14.0,
    settle={name: {"score": 0.3, "min_area": 20} for name in ("astro", "cort")},
    card={"data": "here"},
)


def tiny(seed=0, config=TINY, info=INFO):
    torch.manual_seed(seed)
    return build_model(parse_config(config), info).eval()


@pytest.fixture
def path(tmp_path):
    tiny().save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def state(bundle):
    """All that predictions depend on, as plain values."""
    models = [
        (
            model.config.model_dump(mode="json"),
            model.info.model_dump(mode="json"),
            {name: tensor.numpy().tobytes() for name, tensor in model.tensors().items()},
        )
        for member in bundle.members
        for model in member.models
    ]
    about = [(member.name, member.weight, member.views) for member in bundle.members]
    return models, about, bundle.method, bundle.settings, bundle.rescorer, bundle.card


def older(path, fields, tensors, key="somaseg"):
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, {key: json.dumps(fields)})
    return path


def older_fields(**changes):
    model = tiny()
    config = {**model.config.model_dump(mode="json"), **changes.pop("config", {})}
    info = {**model.info.model_dump(mode="json"), **changes.pop("info", {})}
    return {"format": 1, "config": config, "info": info, "parts": {}, **changes}


# ---- what a file holds ----


def test_an_ensemble_with_all_that_belongs_to_it(tmp_path):
    path = tmp_path / "e.safetensors"
    members = (
        BundleMember("one", 2.0, "flips", (tiny(1), tiny(2))),
        BundleMember("two", 1.0, "none", (tiny(3, TINY | {"tile": 128}),)),
    )
    bundle = Bundle(members, "nmw", {"astro": {}, "cort": {}}, {"trees": [1]}, {"data": "x"})
    write_bundle(path, bundle)
    assert state(read_bundle(path)) == state(bundle)


def test_a_model_is_a_bundle_of_one(path):
    bundle = read_bundle(path)
    (member,) = bundle.members
    assert (member.weight, member.views, bundle.method, bundle.rescorer) == (1, "none", None, None)
    assert bundle.settings == INFO.settle
    assert bundle.card == {"data": "here"}
    assert load_model(path).info == INFO


def test_half_the_size_but_for_what_float16_cannot_hold(path, tmp_path):
    model = tiny()
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    model.save(tmp_path / "h.safetensors", half=True)
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "h.safetensors").values()}
    assert kinds == {torch.float16, torch.float32, torch.int64}
    again = load_model(tmp_path / "h.safetensors")
    assert float(next(again.parameters()).detach().max()) == 1e6


def test_one_model_of_several_is_not_guessed(tmp_path):
    members = (BundleMember("folds", 1.0, "none", (tiny(1), tiny(2))),)
    write_bundle(tmp_path / "e.safetensors", Bundle(members))
    with pytest.raises(SomasegError, match=r"e\.safetensors: holds 2 models, of folds"):
        load_model(tmp_path / "e.safetensors")


# ---- files of before ----


def test_single_model_of_format_1(tmp_path):
    path = older(tmp_path / "m.safetensors", older_fields(), tiny().tensors())
    bundle = read_bundle(path)
    assert state(bundle) == state(Bundle.of_model(tiny()))


def test_ensemble_of_format_1(tmp_path):
    model = tiny()
    one = {key: older_fields()[key] for key in ("config", "info")}
    member = {"name": "a", "weight": 1.0, "views": "flips", "models": [one]}
    fields = {"format": 1, "members": [member], "method": None, "settle": INFO.settle, "card": {}}
    tensors = {f"0.0.{name}": t for name, t in model.tensors().items()}
    bundle = read_bundle(older(tmp_path / "b.safetensors", fields, tensors, "somaseg-bundle"))
    assert bundle.members[0].views == "flips"
    assert bundle.settings == INFO.settle
    assert state(bundle)[0] == state(Bundle.of_model(model))[0]


def test_the_shipped_model_loads():
    bundle = read_bundle(shipped_model())
    assert [member.name for member in bundle.members]
    assert bundle.settings is not None


# ---- damage ----


def test_no_damaged_file_loads_with_other_contents(path):
    whole, expected = path.read_bytes(), state(read_bundle(path))
    rng = random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    told = []
    for number in range(500):
        data = bytearray(whole)
        # Half of the damage in the header, where it is rarer by size and worse in effect.
        place = rng.randrange(header) if number % 2 else rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                data[place] = rng.randrange(256)
            case 2:
                data = data[:place]
            case 3:
                del data[place : place + rng.randrange(1, 9)]
            case 4:
                data[place:place] = rng.randbytes(rng.randrange(1, 9))
            case 5:
                end = min(place + 64, len(data))
                data[place:end] = bytes(end - place)
        path.write_bytes(data)
        try:
            found = read_bundle(path)
        except SomasegError as error:
            told.append(str(error))
        else:
            assert state(found) == expected
    assert len(told) > 450
    assert all(line.startswith(f"{path}: ") for line in told)


def test_damaged_metadata_of_before_give_one_line(tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in tiny().tensors().items()}
    text = json.dumps(older_fields())
    rng = random.Random(1)
    told = []
    for _ in range(300):
        data = list(text)
        for _ in range(rng.randrange(1, 3)):
            place = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[place] = chr(rng.randrange(32, 127))
                case 1:
                    del data[place : place + rng.randrange(1, 5)]
                case 2:
                    data[place] = rng.choice(["null", "[]", "{}", "-1", "1e999", "NaN", '"'])
        save_file(tensors, path, {"somaseg": "".join(data)})
        try:
            read_bundle(path)
        except SomasegError as error:
            told.append(str(error))
    assert len(told) > 200
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"info": {"diameter": "wide"}}, "info.diameter"),
        ({"info": {"diameter": float("inf")}}, "info.diameter"),
        ({"info": None}, "info"),
        ({"config": {"widths": "wide"}}, "widths"),
        ({"config": {"family": ["flow"]}}, "family"),
        ({"config": {"family": "stardust"}}, "family 'stardust'"),
        ({"parts": {"../x": "0"}}, "parts"),
        ({"format": 3}, "format 3.*install the somaseg that wrote it"),
        ({"format": "1"}, "format 1"),
        ({"more": 1}, "more"),
    ],
)
def test_each_field_is_checked(tmp_path, changes, told):
    fields = older_fields()
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(fields.get(key), dict)
        fields[key] = {**fields[key], **value} if both else value
    path = older(tmp_path / "m.safetensors", fields, tiny().tensors())
    with pytest.raises(SomasegError, match=rf"m\.safetensors: .*{told}"):
        read_bundle(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path, path, value):
    model = tiny()
    before = path.read_bytes()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = value
    with pytest.raises(SomasegError, match=r"m\.safetensors: weights .* are not finite"):
        model.save(path)
    assert path.read_bytes() == before
    other = older(tmp_path / "old.safetensors", older_fields(), model.tensors())
    with pytest.raises(SomasegError, match=r"old\.safetensors: weights .* are not finite"):
        read_bundle(other)


def test_integers_in_the_place_of_weights(tmp_path):
    tensors = dict(tiny().tensors())
    name = next(key for key, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name] = tensors[name].to(torch.int32)
    path = older(tmp_path / "m.safetensors", older_fields(), tensors)
    with pytest.raises(SomasegError, match=rf"do not fit its config \({name} is of torch.int32"):
        read_bundle(path)


def test_a_file_of_today_without_its_checksum(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["checksum"]
    save_file(load_file(path), path, metadata)
    with pytest.raises(SomasegError, match="damaged: its checksum"):
        read_bundle(path)


def test_what_is_no_model(tmp_path):
    plain = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, plain)
    with pytest.raises(SomasegError, match="not a somaseg model; use it as `pretrained:`"):
        read_bundle(plain)
    with pytest.raises(SomasegError, match=r"none\.safetensors: no such file"):
        read_bundle(tmp_path / "none.safetensors")
    with pytest.raises(SomasegError, match="a folder, not a file"):
        read_bundle(tmp_path)


# ---- use ----


def test_settings_of_the_file_are_used(path):
    assert load_segmenter(path).settings["cort"].min_area == 20
    assert describe_model(path)["settings"] == INFO.settle
    assert describe_model(path)["data"] == "here"


def test_unknown_way_of_joining(tmp_path):
    members = tuple(BundleMember(name, 1.0, "none", (tiny(),)) for name in "ab")
    write_bundle(tmp_path / "e.safetensors", Bundle(members, "glue", INFO.settle))
    with pytest.raises(SomasegError, match="how members are joined: method"):
        load_segmenter(tmp_path / "e.safetensors")


def test_predicts_the_same_from_the_file(path):
    image = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    one, other = tiny().predict([image])[0], load_model(path).predict([image])[0]
    assert np.array_equal(one.pixels, other.pixels)
