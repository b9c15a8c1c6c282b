import numpy as np
import pytest

from somaseg.data.synthetic import make_image
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.predict.store import load_predictions, save_predictions


def soft(seed):
    hard = make_image("cort", seed, (96, 128))[1]
    return hard.replace(
        pixels=(hard.pixels * 200).astype(np.uint8),
        scores=np.linspace(0.1, 0.9, len(hard), dtype=np.float32),
        soft=True,
    )


def test_round_trip(tmp_path):
    names = soft(0).names
    empty = Instances.empty((30, 40), names=names, soft=True)
    written = {"a": soft(0), "none": empty, "b": soft(1)}
    save_predictions(tmp_path / "p.npz", written)
    read = load_predictions(tmp_path / "p.npz")
    assert list(read) == list(written)
    for name, instances in written.items():
        for field in ("boxes", "pixels", "offsets", "scores", "classes"):
            ours, theirs = getattr(read[name], field), getattr(instances, field)
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)
        assert read[name].size == instances.size
        assert read[name].names == names
    assert read["a"].soft


def test_nothing_at_all(tmp_path):
    save_predictions(tmp_path / "p.npz", {})
    assert load_predictions(tmp_path / "p.npz") == {}


def test_missing_and_truncated(tmp_path):
    path = tmp_path / "p.npz"
    with pytest.raises(SomasegError, match=r"p\.npz: no such predictions"):
        load_predictions(path)
    save_predictions(path, {"a": soft(0)})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SomasegError, match=r"p\.npz: not whole raw predictions"):
        load_predictions(path)


def test_kinds_do_not_mix(tmp_path):
    with pytest.raises(SomasegError, match="do not go together"):
        save_predictions(tmp_path / "p.npz", {"a": soft(0), "b": soft(1).binary()})
    assert not list(tmp_path.iterdir())
