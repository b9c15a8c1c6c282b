"""Raw predictions by tasks: those that stand are not made again."""

import os

import pytest

from somaseg.data import load_dataset
from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.models.config import ModelInfo
from somaseg.models.registry import build_model, parse_config
from somaseg.runs import raw_tasks
from somaseg.runs.execute import Executor

TINY = {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16, "pretrained": "none"}


def test_a_part_that_stands_is_not_predicted_again(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_tasks, "PER_TASK", 1)
    data = write_dataset(tmp_path / "data", n_per_class=1, size=(64, 64), n_test=0)
    images = load_dataset(data)
    info = ModelInfo(names=images.names, diameter=16)
    build_model(parse_config(TINY), info).save(tmp_path / "m.safetensors")
    done, told, stops = [], [], ["1/3"]

    def execute(tasks, jobs, report, module, *, of=0):
        assert module == "somaseg.runs.raw_tasks"
        assert (jobs, of) == (2, 3)
        for name, arguments in tasks:
            if done == stops:
                raise SomasegError("the scheduler has gone")
            assert raw_tasks.main(arguments) == 0
            report(name, {"done": 1, "total": 1})
            done.append(name)

    def predict():
        return raw_tasks.raw_by_tasks(
            *(tmp_path / "m.safetensors", images, None, 128, tmp_path / "work"),
            Executor(execute, 2, cluster=True),
            lambda *event: told.append(event[1:]),
        )

    with pytest.raises(SomasegError):
        predict()
    done.clear()
    stops[:] = ["never"]
    found = predict()
    assert done == ["2/3", "3/3"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert list(found) == images.ids
    assert [one.size for one in found.values()] == [(64, 64)] * 3

    os.utime(images[0].image_path, (1, 1))  # it may show something else now
    done.clear()
    predict()
    assert done == ["1/3", "2/3", "3/3"]
