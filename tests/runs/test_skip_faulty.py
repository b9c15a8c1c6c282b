"""--skip-faulty keeps the sound part of a data set, everywhere alike, and names the rest."""

import json

import cv2
import pytest
import yaml

from somaseg.data.load import sound_part
from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.runs import cross_validate
from somaseg.runs.fit import check_data
from somaseg.runs.run import Run, RunConfig
from somaseg.runs.sources import DataConfig, load_annotated
from tests.cli.run import somaseg

FOREST = {"family": "pixel_forest"}


@pytest.fixture
def faulty(tmp_path):
    """Six images: one is cut behind its header, one has a row that is no run-length code."""
    data = write_dataset(tmp_path / "data", n_per_class=2, size=(64, 64), n_test=0)
    cut, bad = sorted((data / "train").iterdir())[:2]
    cut.write_bytes(cut.read_bytes()[:-600])
    lines = (data / "train.csv").read_text().splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith(f"{bad.stem},"))
    rest = lines[row].split(",")[2:]
    lines[row] = ",".join([bad.stem, "7 x", *rest])
    (data / "train.csv").write_text("\n".join(lines) + "\n")
    return data, cut.stem, bad.stem


def test_what_cannot_be_decoded_is_left_out_and_an_image_stays_without_its_bad_row(faulty):
    data, cut, bad = faulty
    dataset, left_out = sound_part(data)
    assert len(dataset) == 5
    assert cut not in dataset
    assert bad in dataset
    assert {(fault.kind, fault.image) for fault in left_out} == {
        ("unreadable image", cut),
        ("not a number", bad),
    }


def test_nothing_sound_is_an_error(faulty):
    data, _cut, _ = faulty
    for path in (data / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(SomasegError, match="nothing sound in it"):
        sound_part(data)


def test_a_run_learns_from_the_sound_part_and_only_if_asked(faulty, tmp_path):
    data, cut, _ = faulty
    with pytest.raises(SomasegError, match="whole number"):
        load_annotated(DataConfig.at(data))
    preset = tmp_path / "forest.yaml"
    preset.write_text(yaml.safe_dump({"model": FOREST}))
    config = RunConfig.make(DataConfig.at(data, skip_faulty=True), str(preset), folds=2)
    run = Run.create(tmp_path / "run", config)
    again = Run.open(run.folder)
    assert cut not in again.folds(again.dataset())
    assert len(again.dataset()) == 5


def test_train_names_what_it_leaves_out(faulty, tmp_path, monkeypatch):
    data, cut, bad = faulty
    seen = []

    def instead(out, config, *more, **others):
        seen.append(config)
        raise SomasegError("enough")

    monkeypatch.setattr(cross_validate, "train_run", instead)
    done = somaseg("train", data, "--skip-faulty", "--out", tmp_path / "run", check=False)
    assert done.returncode == 2
    assert seen[0].data.skip_faulty
    named = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert len(named) == 2
    assert any(cut in line for line in named)
    assert any(bad in x for x in named)
    somaseg("train", data, "--out", tmp_path / "run", check=False)
    assert not seen[1].data.skip_faulty


def test_fit_stops_at_faults_or_writes_them_down(faulty, tmp_path):
    data, cut, _ = faulty
    with pytest.raises(SomasegError, match="skip-faulty"):
        check_data(tmp_path, DataConfig.at(data))
    check_data(tmp_path, DataConfig.at(data, skip_faulty=True))
    kinds = {
        fault["image"]: fault["kind"]
        for fault in json.loads((tmp_path / "faults.json").read_text())
    }
    assert kinds[cut] == "unreadable image"
    done = somaseg("fit", "--resume", "--skip-faulty", "--out", tmp_path / "fit", check=False)
    assert done.returncode == 2
    assert "--skip-faulty: " in done.stderr


def test_evaluate_scores_the_sound_part(faulty, tmp_path):
    data, _, bad = faulty
    sound = write_dataset(tmp_path / "sound", n_per_class=2, size=(64, 64), n_test=0)
    refused = somaseg("evaluate", data, sound, check=False)
    assert refused.returncode == 2
    assert "whole number" in refused.stderr
    done = somaseg("evaluate", data, sound, "--skip-faulty", "--json")
    assert "left out: " in done.stderr
    assert bad in done.stderr
    assert json.loads(done.stdout)["map"] < 1  # a cell of the truth is missing
    # An image whose size is not the annotated one is out of the truth: its prediction is no
    # stranger.
    image = data / "train" / f"{bad}.png"
    cv2.imwrite(str(image), cv2.imread(str(image), 0)[:40])
    done = somaseg("evaluate", data, sound, "--skip-faulty", "--json")
    assert json.loads(done.stdout)["map"] == 1


def test_evaluate_leaves_out_faulty_results(faulty, tmp_path):
    truth = write_dataset(tmp_path / "truth", n_per_class=1, size=(64, 64), n_test=0)
    name = next((truth / "train").iterdir()).stem
    whole = {"image_id": name, "category_id": 1, "score": 0.5}
    runs = {"size": [64, 64], "counts": [100, 5, 64 * 64 - 105]}
    (tmp_path / "r.json").write_text(
        json.dumps([{**whole, "segmentation": runs}, {**whole, "score": "x", "segmentation": runs}])
    )
    assert somaseg("evaluate", truth, tmp_path / "r.json", check=False).returncode == 2
    done = somaseg("evaluate", truth, tmp_path / "r.json", "--skip-faulty", "--json")
    assert "entry 2" in done.stderr
    assert "not a number" in done.stderr
