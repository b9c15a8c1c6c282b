"""`somaseg fit`: the whole way by a plan, stopped at any moment and taken up again."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.models.bundle import load_model, read_bundle
from somaseg.predict.load import load_segmenter
from somaseg.runs.fit import fit
from somaseg.runs.plan_file import read_plan
from tests.cli.run import somaseg

MODEL = {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16, "pretrained": "none"}
TRAINING = {"steps": 10, "batch": 1, "crop": 64, "log_every": 1, "checkpoint_minutes": 0.0001}


def command(*arguments):
    return [sys.executable, "-m", "somaseg", *map(str, arguments)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    write_dataset(folder / "data", n_per_class=2, size=(96, 96), n_test=1)
    plan = {
        "data": {"path": str(folder / "data")},
        "folds": 2,
        "jobs": 2,
        "weights": {"cort": 2.0, "shsy5y": 1.0, "astro": 1.0},
        "members": [
            {"name": "one", "model": MODEL, "training": TRAINING},
            {"name": "two", "model": MODEL | {"diameter": 20}, "training": TRAINING},
        ],
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    somaseg("fit", "--plan", folder / "plan.yaml", "--out", folder / "run")
    return folder


def test_everything_is_there(place):
    run = place / "run"
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores["members"]) == {"one", "two"}
    assert len(scores["nested"]["images"]) == 6
    assert scores["nested"]["weighted"] is not None
    chosen = yaml.safe_load((run / "choice.yaml").read_text())
    assert set(chosen["by_fold"]) == {0, 1}
    assert set(chosen["choice"]["settings"]) == {"astro", "cort", "shsy5y"}
    page = (run / "report.html").read_text()
    for text in ("Where the score is lost", "best:", "worst:", "Folds", "Tuning", "<td>two</td>"):
        assert text in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert read_plan(run / "plan.yaml") == read_plan(place / "plan.yaml")


def test_the_bundle_predicts_as_its_members_do(place):
    bundle = read_bundle(place / "run" / "model.safetensors")
    assert sum(len(member.models) for member in bundle.members) == 2 * len(bundle.members)
    assert bundle.card["chosen"]
    image = np.random.default_rng(0).integers(0, 255, (70, 90), np.uint8)
    whole = load_segmenter(place / "run", precision="float32")
    for member in bundle.members:
        one = load_segmenter(place / "run" / "members" / member.name, precision="float32")
        raw = one.predictor(image)
        if len(bundle.members) == 1:
            joined = whole.predictor(image)
            assert len(joined) == len(raw)
            assert np.allclose(joined.scores, raw.scores, atol=0.01)  # float16 in the bundle
    out = place / "masks"
    somaseg("predict", place / "data" / "test", "--model", place / "run", "--out", out)
    assert len(list((out / "labels").iterdir())) == 3


def test_killed_twice_it_ends_the_same(place, tmp_path):
    """At moments that differ from time to time; benchmarks/kills.py kills more often."""
    run = tmp_path / "run"
    somaseg("fit", "--plan", place / "plan.yaml", "--out", run, "--plan-only")
    done_before: dict[str, int] = {}
    for _ in range(2):
        process = subprocess.Popen(
            command("fit", "--resume", "--out", run),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Not before anything was begun, and long before the end of all of it.
        begun = time.monotonic()
        while time.monotonic() - begun < 60 and not list(run.glob("members/*/fold*/metrics.csv")):
            time.sleep(0.05)
        time.sleep(random.uniform(0, 4))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        finished = {
            str(p): p.stat().st_mtime_ns for p in run.glob("members/*/fold*/predictions.npz")
        }
        assert done_before.items() <= finished.items()  # nothing finished is done again
        done_before = finished
    somaseg("fit", "--resume", "--out", run)
    one, other = (json.loads((f / "scores.json").read_text()) for f in (place / "run", run))
    for found in (one, other):
        for member in found["members"].values():
            del member["training"]  # the time it took
    assert one == other
    assert (run / "choice.yaml").read_text() == (place / "run" / "choice.yaml").read_text()
    for path in (place / "run").glob("members/*/fold*/model.safetensors"):
        expected = load_file(path)
        again = load_file(run / path.relative_to(place / "run"))
        assert all(np.array_equal(again[name], expected[name]) for name in expected)


def test_refit_leaves_one_model_of_each_chosen_member(place, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    (run / "plan.yaml").write_text(yaml.safe_dump(plan | {"refit": True}))
    somaseg("fit", "--resume", "--out", run)
    bundle = read_bundle(run / "model.safetensors")
    assert all(len(member.models) == 1 for member in bundle.members)
    scores, before = (json.loads((f / "scores.json").read_text()) for f in (run, place / "run"))
    assert scores == before  # the folds' predictions decide, as before
    for member in bundle.members:
        trained = json.loads((run / "members" / member.name / "all/training.json").read_text())
        assert len(trained["images"]) == 6
        again = load_model(run / "members" / member.name / "all/model.safetensors").tensors()
        mine = member.models[0].tensors()
        assert all(np.allclose(mine[name], again[name], atol=1e-2) for name in mine)


def test_a_plan_that_stands_decides(place):
    for option, value in (("--budget", "2h"), ("--seed", "1"), ("--refit", None)):
        words = [option] if value is None else [option, value]
        told = somaseg("fit", "--resume", "--out", place / "run", *words, check=False)
        assert told.returncode == 2
        assert f"{option}: {place}/run/plan.yaml decides this" in " ".join(told.stderr.split())


def test_a_plan_is_not_resumed_with_other_images(place, tmp_path):
    told = somaseg("fit", tmp_path, "--resume", "--out", place / "run", check=False)
    assert told.returncode == 2
    assert f"learns from {read_plan(place / 'plan.yaml').data.path}" in " ".join(
        told.stderr.split()
    )


def test_a_full_disk_is_told_before_training(place, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(SomasegError, match=r"training needs about .* are free"):
        fit(tmp_path / "run", read_plan(place / "plan.yaml"), lambda *_: None)
    assert not list(tmp_path.glob("run/members/*/fold0"))


def test_what_the_user_can_mend(place, tmp_path):
    nothing = somaseg("fit", "--resume", "--out", tmp_path / "none", check=False)
    assert nothing.returncode == 2
    assert "nothing to resume" in nothing.stderr
    again = somaseg("fit", place / "data", "--out", place / "run", check=False)
    assert again.returncode == 2
    assert "stands already; add --resume" in again.stderr
    short = somaseg("fit", place / "data", "--out", tmp_path / "a", "--budget", "soon", check=False)
    assert "write a time such as 90m, 2h or 1d" in short.stderr
    (place / "plan2.yaml").write_text("members: []")
    broken = somaseg("fit", "--plan", place / "plan2.yaml", "--out", tmp_path / "b", check=False)
    assert broken.returncode == 2
    assert "plan2.yaml: " in broken.stderr
    unfinished = tmp_path / "c"
    somaseg("fit", "--plan", place / "plan.yaml", "--out", unfinished, "--plan-only")
    with pytest.raises(SomasegError, match="not there yet; run `somaseg fit --resume"):
        load_segmenter(unfinished)
    (place / "cut.safetensors").write_bytes(
        (place / "run" / "model.safetensors").read_bytes()[:-50]
    )
    with pytest.raises(SomasegError, match=r"cut\.safetensors: not a whole safetensors file"):
        read_bundle(place / "cut.safetensors")


def test_pretraining_comes_first(place, tmp_path):
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    plan |= {"pretrain": {"path": str(place / "data")}, "pretrain_share": 0.5}
    plan["members"] = plan["members"][:1]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    somaseg("fit", "--plan", tmp_path / "plan.yaml", "--out", tmp_path / "run")
    note = json.loads((tmp_path / "run/pretrain/one/all/training.json").read_text())
    assert note["steps"] == 5
    config = yaml.safe_load((tmp_path / "run/members/one/config.yaml").read_text())
    assert config["start_from"] == str(tmp_path / "run/pretrain/one/all/model.safetensors")
