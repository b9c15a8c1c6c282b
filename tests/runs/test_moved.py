"""A run whose images were moved is told where they are now, with one option."""

import shutil

import pytest
import yaml

from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.runs.fit import make_ready
from somaseg.runs.run import Run, RunConfig
from somaseg.runs.sources import DataConfig

MODEL = {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16, "pretrained": "none"}


@pytest.fixture
def run(tmp_path):
    data = write_dataset(tmp_path / "data", n_per_class=1, size=(64, 64))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"model": MODEL}))
    config = RunConfig.make(DataConfig.at(data), str(tmp_path / "tiny.yaml"), folds=2)
    made = Run.create(tmp_path / "run", config)
    (tmp_path / "data").rename(tmp_path / "moved")
    return made


def test_the_error_says_how(run, tmp_path):
    with pytest.raises(SomasegError, match=r"if they were moved: somaseg tune .*run --data FOLDER"):
        run.dataset()
    again = run.repoint(DataConfig.at(tmp_path / "moved"))
    assert len(again.dataset()) == 3
    assert Run.open(run.folder).config == again.config


def test_the_same_command_with_the_new_place_goes_on(run, tmp_path):
    config = run.config.model_copy(update={"data": DataConfig.at(tmp_path / "moved")})
    assert Run.create(run.folder, config).config == config
    shutil.copytree(tmp_path / "moved", tmp_path / "copy")
    other = config.model_copy(update={"data": DataConfig.at(tmp_path / "copy")})
    with pytest.raises(SomasegError, match=r"differs in data\.path"):  # it was not moved
        Run.create(run.folder, other)


def test_other_images_are_refused(run, tmp_path):
    other = write_dataset(tmp_path / "other", n_per_class=2, size=(64, 64))
    with pytest.raises(SomasegError, match="have no fold"):
        run.repoint(DataConfig.at(other))
    assert Run.open(run.folder).config == run.config


def test_a_plan_whose_images_were_moved(run, tmp_path):
    plan = {
        "data": {"path": str(tmp_path / "data")},
        "folds": 2,
        "members": [{"name": "one", "model": MODEL}],
    }
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "plan.yaml").write_text(f"# mine\n{yaml.safe_dump(plan)}")
    ready = make_ready(tmp_path / "moved", tmp_path / "fit", resume=True)
    assert ready.data.path == str(tmp_path / "moved")
    assert (tmp_path / "fit" / "plan.yaml").read_text().startswith("# mine\n")
