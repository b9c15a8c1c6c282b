import pytest

from somaseg.data.synthetic import write_dataset
from somaseg.data.types import Dataset
from somaseg.errors import SomasegError
from somaseg.models.bundle import Bundle, read_bundle
from somaseg.runs import calibrating
from somaseg.runs.calibrating import calibrate
from tests.cli.run import somaseg
from tests.models.test_engine import model_of
from tests.runs.test_checking import drawn


@pytest.fixture
def data():
    samples = tuple(drawn(str(i)) for i in range(5))
    return Dataset(samples, samples[0].instances.names, "discs")


def test_a_file_that_predicts_in_int8_and_its_scores(tmp_path):
    for package in ("openvino", "onnx", "nncf"):
        pytest.importorskip(package)
    write_dataset(tmp_path / "data", n_per_class=1, size=(64, 64), n_test=1)
    model = model_of("small")
    model.save(tmp_path / "m.safetensors")
    made = tmp_path / "int8.safetensors"
    told = somaseg(
        "calibrate", tmp_path / "data", "--model", tmp_path / "m.safetensors", "--out", made
    )
    rows = [line.split() for line in told.stdout.splitlines() if "openvino" in line]
    assert [row[0] for row in rows] == ["float32", "int8"]
    assert all(0 <= float(number) <= 1 for row in rows for number in row[3:])
    (member,) = read_bundle(made).members
    checked = member.models[0].info.checked
    assert checked.images == 3
    assert {"float32", "int8"} <= set(checked.scores)
    out = tmp_path / "masks"
    test = tmp_path / "data" / "test"
    options = ("--engine", "openvino", "--precision", "int8", "--out", out)
    somaseg("predict", test, "--model", made, *options)
    assert (out / "predictions.json").exists()
    again = somaseg("calibrate", test, "--model", made, "--out", made, check=False)
    assert again.returncode == 2
    assert "would be written over" in again.stderr or "int8.safetensors" in again.stderr


def test_without_annotations_the_file_says_nothing_of_scores(data, monkeypatch):
    monkeypatch.setattr(calibrating, "has_bfloat16", lambda _: True)
    monkeypatch.setattr("somaseg.models.precision.has_bfloat16", lambda _: True)
    bare = Dataset(tuple(type(s)(s.id, s.size) for s in data), (), "bare")
    made, rows = calibrate(Bundle.of_model(model_of("small")), bare, int8=False)
    assert [row.precision for row in rows] == ["float32", "bfloat16"]
    assert rows[0].agreement == 1
    assert [row.score for row in rows] == [None, None]
    assert made.members[0].models[0].info.checked is None
    made, rows = calibrate(made, data, int8=False)
    assert made.members[0].models[0].info.checked.scores["bfloat16"] == rows[1].score


def test_what_cannot_be_calibrated(data, monkeypatch):
    with pytest.raises(SomasegError, match="no image to calibrate with"):
        calibrate(Bundle.of_model(model_of("small")), Dataset((), (), "none"))
    with pytest.raises(SomasegError, match="int8: family pixel_forest has no network"):
        calibrate(Bundle.of_model(model_of("pixel_forest")), data)
    monkeypatch.setattr(calibrating, "has_bfloat16", lambda _: False)
    with pytest.raises(SomasegError, match="nothing to try"):
        calibrate(Bundle.of_model(model_of("small")), data, int8=False)
