import json

import numpy as np
import pytest
import torch

from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.files import write_json
from somaseg.instances import Instances
from somaseg.models import precision
from somaseg.models.base import Dense
from somaseg.models.bundle import load_model
from somaseg.models.config import Checked
from somaseg.predict.load import describe_model
from somaseg.runs import checking
from somaseg.runs.checking import FILE, check_precision, middle, pooled
from tests.models.test_engine import model_of
from tests.predict.fakes import FakeDense, discs


@pytest.fixture(autouse=True)
def capable(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)
    monkeypatch.setattr(checking, "has_bfloat16", lambda _: True)


class Drawn(Sample):
    """Discs, in memory."""

    def image(self, mapped=False):
        return discs(self.size, 12, int(self.id))[0]


def drawn(name):
    cells = Instances.from_labels(discs((64, 80), 12, int(name))[1])
    return Drawn(name, cells.size, None, cells.with_classes(0, ("small", "large")))


def test_both_precisions_are_scored_on_some_images(monkeypatch):
    """A stand-in that finds nothing in bfloat16: the check must say so."""
    monkeypatch.setattr(checking, "Network", FakeDense)
    monkeypatch.setattr(precision, "Network", FakeDense)
    seen = []

    class Fragile(FakeDense):
        def maps(self, gray):
            half = torch.is_autocast_enabled("cpu")
            seen.append(half)
            return super().maps(gray * np.float32(not half))

    samples = [drawn(str(i)) for i in range(7)]
    found = check_precision(Fragile(), "none", samples)
    assert found.images == 2
    assert found.scores["bfloat16"] == 0 < 0.5 < found.scores["float32"]
    assert seen == [False, False, True, True]
    assert not found.keeps("bfloat16")
    sound = check_precision(FakeDense(), "none", samples)
    assert sound.scores["float32"] == sound.scores["bfloat16"] == found.scores["float32"]
    assert sound.keeps("bfloat16")


def test_what_is_not_measured(monkeypatch):
    samples = [drawn("0")]
    assert isinstance(FakeDense(), Dense)
    assert check_precision(FakeDense(), "none", samples) is None  # no network
    assert check_precision(model_of("small"), "none", []) is None
    monkeypatch.setattr(checking, "has_bfloat16", lambda _: False)
    assert check_precision(model_of("small"), "none", samples) is None


def test_of_large_images_the_middle_is_taken(monkeypatch):
    monkeypatch.setattr(checking, "SIDE", 40)
    sample = drawn("3")
    image, cells = middle(sample)
    assert np.array_equal(image, sample.image()[12:52, 20:60])
    assert cells.size == (40, 40)
    assert np.array_equal(cells.to_labels() > 0, discs((64, 80), 12, 3)[1][12:52, 20:60] > 0)


def test_folds_are_pooled_by_their_images(tmp_path):
    folders = [tmp_path / str(i) for i in range(3)]
    for folder, (images, scores) in zip(folders, [(1, (0.4, 0.1)), (3, (0.2, 0.3))], strict=False):
        folder.mkdir()
        names = dict(zip(("float32", "bfloat16"), scores, strict=True))
        write_json(folder / FILE, {"images": images, "scores": names})
    assert pooled(folders) == Checked(images=4, scores={"float32": 0.25, "bfloat16": 0.25})
    assert pooled(folders[2:]) is None
    (folders[0] / FILE).write_text(json.dumps({"images": 0, "scores": {}}))
    with pytest.raises(SomasegError, match=r"precision\.json"):
        pooled(folders)


def test_a_card_tells_it(tmp_path):
    model = model_of("small")
    found = Checked(images=4, scores={"float32": 0.3, "bfloat16": 0.3})
    model.info = model.info.model_copy(update={"checked": found})
    model.save(tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").info.checked == found
    assert describe_model(tmp_path / "m.safetensors")["precisions"] == found.model_dump()
