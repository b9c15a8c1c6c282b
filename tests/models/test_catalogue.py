import json

import pytest
from pydantic import BaseModel

from somaseg.errors import SomasegError
from somaseg.models import catalogue
from somaseg.models.catalogue import Measured, describe_preset, list_families, list_presets
from somaseg.models.registry import families, load_preset, parse_config, preset_names
from somaseg.models.training.settings import TrainSettings

ONE = Measured(
    parameters=12_345_678,
    pretrained="auto",
    steps=3,
    step_seconds=1.5,
    train_bytes=3 * 2**30,
    first_loss=2.0,
    last_loss=1.0,
    predict_seconds=0.5,
)


@pytest.mark.parametrize("name", preset_names())
def test_described_preset_is_the_preset(name, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(describe_preset(name), encoding="utf-8")
    mine, theirs = load_preset(path), load_preset(name)
    assert mine.about == theirs.about
    assert parse_config(mine.model) == parse_config(theirs.model)
    assert TrainSettings(**mine.training) == TrainSettings(**theirs.training)


@pytest.mark.parametrize("name", preset_names())
def test_every_field_stands_there_and_is_explained(name):
    text = describe_preset(name)
    config = parse_config(load_preset(name).model)

    def check(part: BaseModel):
        for field, info in type(part).model_fields.items():
            line = next(x for x in text.splitlines() if x.strip().startswith(f"{field}:"))
            if info.description:
                assert line.endswith(f"# {info.description}")

    check(config)
    if config.family == "pixel_forest":
        assert "batch:" not in text  # what is fitted has no batches
    else:
        check(TrainSettings(**load_preset(name).training))
        assert "  # adamw or sgd" in text


def test_unknown_preset_is_told():
    with pytest.raises(SomasegError, match="neither a YAML file nor a preset"):
        describe_preset("unet_9000")


def test_every_preset_is_of_a_family_and_says_what_it_is_for():
    assert set(list_families()) == set(families())
    assert all(about.endswith(".") for about in list_families().values())
    found = list_presets()
    assert {preset.name for preset in found} == set(preset_names())
    assert all(preset.about and preset.family in families() for preset in found)


def test_what_was_measured_is_told(tmp_path, monkeypatch):
    path = tmp_path / "measured.json"
    monkeypatch.setattr(catalogue, "measured_file", lambda: path)
    assert all(preset.measured is None for preset in list_presets())
    path.write_text(json.dumps({"flow_lite": ONE.model_dump(), "of_old": {}}))
    assert {p.name: p.measured for p in list_presets() if p.measured} == {"flow_lite": ONE}
    path.write_text(json.dumps({"flow_lite": {"parameters": 3}}))
    with pytest.raises(SomasegError, match=r"measured\.json: flow_lite"):
        list_presets()


def test_shipped_measurements_bear_the_limit():
    measured = catalogue.read_measured()
    assert measured
    for name, one in measured.items():
        assert one.train_bytes < 12 * 2**30, name
        assert one.step_seconds > 0, name
