"""What damaged JSON, YAML, arrays and tables raise: one line that names the file."""

import gzip
import zipfile

import numpy as np
import pytest

from somaseg import limits
from somaseg.data.tables import open_csv
from somaseg.errors import SomasegError
from somaseg.files import read_arrays, read_json, read_yaml
from somaseg.models.registry import load_preset
from somaseg.predict.store import load_predictions, save_predictions


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe{}", b"[" * 100_000, b"9" * 5000, b'["\\ud800"]', b"{", b"", b"{'a': 1}"],
    ids=["encoding", "deep", "digits", "surrogate", "cut", "empty", "quotes"],
)
def test_json(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(SomasegError, match=r"a\.json: not (valid JSON|text in UTF-8)") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    ["&a [*a]", BOMB, "a: !!timestamp x", "[" * 5000, "a: 2001-99-99", "? [a]\n: b\n? {}", "a: [",
     "!!python/object/apply:os.system [true]", "9" * 5000],
    ids=["cycle", "bomb", "timestamp", "deep", "date", "unhashable", "cut", "python", "digits"],
)  # fmt: skip
def test_yaml(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SomasegError, match=r"a\.yaml: not valid YAML") as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def test_yaml_aliases_that_are_meant_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {x: [1, 2]}\nb: *a\nc: [*a, *a]")
    assert read_yaml(tmp_path / "a.yaml")["c"] == [{"x": [1, 2]}] * 2


def test_a_preset_based_on_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(SomasegError, match="leads back to itself"):
        load_preset("a.yaml")
    (tmp_path / "c.yaml").write_text("base: flow_lite\ntraining: fast\n")
    with pytest.raises(SomasegError, match=r"c\.yaml: training: give its fields"):
        load_preset("c.yaml")
    (tmp_path / "d.yaml").write_bytes(b"about: caf\xe9")
    with pytest.raises(SomasegError, match=r"d\.yaml: not text in UTF-8 \(byte 11\)"):
        load_preset("d.yaml")


def test_arrays_that_claim_more_than_they_hold(tmp_path):
    np.savez(tmp_path / "sound.npz", a=np.arange(5), b=np.zeros((2, 3)))
    assert read_arrays(tmp_path / "sound.npz")["b"].shape == (2, 3)
    with zipfile.ZipFile(tmp_path / "claim.npz", "w") as archive:
        content = zipfile.ZipFile(tmp_path / "sound.npz").read("a.npy")
        archive.writestr("a.npy", content.replace(b"(5,), ", b"(5000000000,)"[:6] + b" "))
        archive.writestr("b.npy", content.replace(b"(5,)", b"(9,)"))
    with pytest.raises(SomasegError, match=r"claim\.npz: truncated or damaged"):
        read_arrays(tmp_path / "claim.npz")
    np.savez(tmp_path / "object.npz", a=np.array([{}]))  # pickled: never read
    with pytest.raises(SomasegError, match=r"object\.npz: truncated or damaged"):
        read_arrays(tmp_path / "object.npz")


@pytest.mark.parametrize("key", ["header", "counts", "boxes", "pixels", "scores", "classes"])
def test_predictions_with_a_damaged_part(tmp_path, key):
    path = tmp_path / "p.npz"
    save_predictions(path, {})
    with np.load(path) as file:
        arrays = dict(file)
    for value in (np.zeros((3, 3, 3)), np.frombuffer(b"[1]", np.uint8), None):
        changed = {k: v for k, v in arrays.items() if k != key}
        np.savez(path, **changed, **({} if value is None else {key: value}))
        with pytest.raises(SomasegError, match=r"p\.npz: "):
            load_predictions(path)


def test_a_packed_table_is_no_bomb(tmp_path, monkeypatch):
    path = tmp_path / "train.csv.gz"
    path.write_bytes(gzip.compress(b"id,annotation\n" + b"a,1 1\n" * 100_000))
    with open_csv(path) as reader:
        assert sum(1 for _ in reader) == 100_000
    monkeypatch.setenv(limits.VARIABLE, "100000")
    with (
        pytest.raises(SomasegError, match=r"train\.csv\.gz: unpacks to more than 200000 bytes"),
        open_csv(path) as reader,
    ):
        list(reader)
