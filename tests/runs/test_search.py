"""Search: how trials are dealt, pruned, taken up again; and once the whole way for real."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import yaml
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.files import CannotWrite
from somaseg.models.registry import load_preset
from somaseg.predict.load import load_segmenter
from somaseg.runs import search as module
from somaseg.runs.ledger import read_ledger
from somaseg.runs.run import DataConfig, Run, RunConfig
from somaseg.runs.search import Search, SearchConfig
from somaseg.runs.space import Dimension, read_space
from tests.cli.run import somaseg

MODEL = {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16.0}
TRAINING = {"steps": 4, "batch": 1, "crop": 64, "log_every": 2, "checkpoint_minutes": 1e-4}
SPACE = {
    "training.rate": Dimension(low=1e-4, high=1e-1, log=True),
    "model.diameter": Dimension(choices=[12, 16, 20]),
    "training.augment.scale": Dimension(low=1.0, high=1.5, step=0.1),
}
COMPLETE, PRUNED, FAIL, RUNNING = (
    optuna.trial.TrialState[name] for name in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), n_per_class=1, size=(96, 96))


@pytest.fixture
def config(data):
    base = RunConfig(data=DataConfig(path=str(data)), folds=3, model=MODEL, training=TRAINING)
    return SearchConfig(base=base, space=SPACE)


class Stopped(BaseException):
    """A kill: nothing cleans up but the operating system, which takes the locks back."""


@pytest.fixture
def scored(monkeypatch):
    """Trials whose score is a formula of their settings: higher the nearer the rate is to .01."""
    done, calls = {}, []

    def run_fold(run, fold, report):
        report({"stage": "train", "done": 1, "total": 1})
        calls.append((run.folder.name, fold))
        done.setdefault(run.folder.name, set()).add(fold)

    def score_run(run, dataset, weights):
        off = abs(math.log10(run.config.training.rate) + 2)
        value = 1 - off / 4 - run.config.model["diameter"] / 1000
        (run.folder / "model.safetensors").write_text(run.folder.name)
        return SimpleNamespace(nested=SimpleNamespace(map=value, weighted=weights and value / 2))

    monkeypatch.setattr(module, "run_fold", run_fold)
    monkeypatch.setattr(module, "score_run", score_run)
    return calls


def trials(search):
    return search.study().get_trials()


def test_trials_are_runs_and_the_best_is_a_preset(config, scored, tmp_path):
    search = Search.create(tmp_path / "s", config)
    events = []
    search.work(6, events.append)
    found = trials(search)
    assert len(found) == 6
    best = max((t for t in found if t.state == COMPLETE), key=lambda t: t.value)
    for trial in found:
        run = Run.open(tmp_path / "s" / f"trial{trial.number}")
        assert run.config.training.rate == trial.params["training.rate"]
        assert run.config.training.augment.scale == trial.params["training.augment.scale"]
        assert run.config.model == MODEL | {"diameter": trial.params["model.diameter"]}
        assert run.config.training.batch == 1
    preset = load_preset(tmp_path / "s" / "best.yaml")
    assert preset.training["rate"] == best.params["training.rate"]
    assert preset.training["steps"] == 4
    assert preset.model["diameter"] == best.params["model.diameter"]
    assert f"trial {best.number}, {best.value:.4f}" in preset.about
    assert (tmp_path / "s" / "model.safetensors").read_text() == f"trial{best.number}"
    assert any(e.get("label") == "trial 0 fold 2 train" for e in events)
    assert len(read_ledger(tmp_path / "s").entries) == 6
    assert set(read_ledger(tmp_path / "s").differing()) == set(SPACE)
    # Asked for as many again, it has nothing to do; asked for more, it goes on.
    before = len(scored)
    search.work(6, events.append)
    assert len(scored) == before
    Search.create(tmp_path / "s", config).work(7, events.append)
    assert len(trials(search)) == 7


def test_bad_trials_are_pruned_after_a_fold(config, scored, tmp_path):
    search = Search.create(tmp_path / "s", config)
    search.work(12, lambda event: None)
    found = trials(search)
    pruned = [t for t in found if t.state == PRUNED]
    assert pruned
    for trial in pruned:
        # Below the median of the whole ones before it at the first fold; trained no further.
        fold = trial.last_step
        folds = [f for name, f in scored if name == f"trial{trial.number}"]
        assert folds == list(range(fold + 1))
        whole = [t for t in found[: trial.number] if t.state == COMPLETE]
        assert trial.value < np.median([t.intermediate_values[0] for t in whole])
    scored.clear()
    unpruned = config.model_copy(update={"prune": False})
    Search.create(tmp_path / "w", unpruned).work(12, lambda event: None)
    assert len(scored) == 12 * 3


def test_weighted_scores_decide_where_there_are_weights(config, scored, tmp_path):
    weighted = config.model_copy(update={"weights": {"a": 1.0}})
    for name, one in (("plain", config), ("weighted", weighted)):
        Search.create(tmp_path / name, one).work(1, lambda event: None)
    (plain,), (half,) = (trials(Search.open(tmp_path / n)) for n in ("plain", "weighted"))
    assert half.value == pytest.approx(plain.value / 2)


def test_killed_search_ends_as_an_undisturbed_one(config, scored, tmp_path, monkeypatch):
    whole = Search.create(tmp_path / "whole", config)
    whole.work(8, lambda event: None)
    parts = Search.create(tmp_path / "parts", config)
    for stop in (2, 5, 4):
        left = [stop]

        def stopping(run, fold, report, left=left, real=module.run_fold):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            real(run, fold, report)

        with monkeypatch.context() as patch:
            patch.setattr(module, "run_fold", stopping)
            with pytest.raises(Stopped):
                parts.work(8, lambda event: None)
        assert sum(t.state == RUNNING for t in trials(parts)) == 1
    parts.work(8, lambda event: None)
    one, other = trials(whole), trials(parts)
    assert [t.params for t in one] == [t.params for t in other]
    assert [t.value for t in one] == [t.value for t in other]
    assert [t.state for t in one] == [t.state for t in other]


def test_several_workers_share_the_trials(config, scored, tmp_path):
    search = Search.create(tmp_path / "s", config)
    failures = []

    def work():
        try:
            Search.open(tmp_path / "s").work(9, lambda event: time.sleep(0.005))
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    found = trials(search)
    assert [t.number for t in found] == list(range(9))
    assert all(t.state in (COMPLETE, PRUNED) for t in found)
    assert len(scored) == len(set(scored))  # no fold was trained twice


def test_a_trial_in_other_hands_is_left_alone(config, scored, tmp_path):
    search = Search.create(tmp_path / "s", config)
    search.study().ask()
    with FileLock(tmp_path / "s" / ".trial0.lock"):
        search.work(2, lambda event: None)
        assert [t.state for t in trials(search)] == [RUNNING, COMPLETE]
    search.work(2, lambda event: None)
    assert [t.state for t in trials(search)] == [COMPLETE, COMPLETE]


def test_a_trial_that_fails_is_told_and_passed_over(config, scored, tmp_path, monkeypatch):
    def failing(run, fold, report):
        if run.folder.name == "trial1":
            raise SomasegError("the loss is not finite")

    monkeypatch.setattr(module, "run_fold", failing)
    search, events = Search.create(tmp_path / "s", config), []
    search.work(3, events.append)
    assert [t.state for t in trials(search)] == [COMPLETE, FAIL, COMPLETE]
    assert {"note": "trial 1 failed: the loss is not finite"} in events


def test_where_all_fail_the_search_ends(config, scored, tmp_path, monkeypatch):
    def failing(run, fold, report):
        raise SomasegError("no annotated cell to train on")

    monkeypatch.setattr(module, "run_fold", failing)
    search = Search.create(tmp_path / "s", config)
    with pytest.raises(SomasegError, match="no annotated cell"):
        search.work(50, lambda event: None)
    assert [t.state for t in trials(search)] == [FAIL] * 3


def test_a_full_disk_is_no_fault_of_the_trial(config, scored, tmp_path, monkeypatch):
    def full(run, fold, report):
        raise CannotWrite("model.safetensors: cannot be written")

    search = Search.create(tmp_path / "s", config)
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_fold", full)
        with pytest.raises(CannotWrite):
            search.work(1, lambda event: None)
    assert [t.state for t in trials(search)] == [RUNNING]
    search.work(1, lambda event: None)
    assert [t.state for t in trials(search)] == [COMPLETE]


@settings(max_examples=50)
@given(
    st.one_of(
        st.tuples(st.integers(-5, 5), st.integers(6, 20)),
        st.tuples(st.floats(0.001, 1), st.floats(2, 3)),
    ),
    st.booleans(),
)
def test_ranges_give_values_of_their_kind_and_within(ends, log):
    low, high = ends
    choice = Dimension(low=low, high=high, log=log and low > 0)
    study = optuna.create_study()
    value = choice.suggest(study.ask(), "x")
    assert type(value) is type(low)
    assert low <= value <= high


def test_space_is_read_from_yaml(tmp_path):
    (tmp_path / "space.yaml").write_text(
        "training.rate: {low: 1e-4, high: 1e-2, log: true}\n"
        "training.steps: {low: 100, high: 400, step: 100}\n"
        "model.encoder: {choices: [resnet18, resnet34]}\n"
        "training.weight_decay: {choices: [0, 1e-3]}\n"
    )
    space = read_space(tmp_path / "space.yaml")
    assert (space["training.rate"].low, space["training.rate"].log) == (1e-4, True)
    assert isinstance(space["training.steps"].low, int)
    assert space["training.weight_decay"].choices == [0, 1e-3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name fields"),
        ("a: [", "not valid YAML"),
        ("training.rate: 3", "training.rate: give {low: …, high: …} or {choices: […]}"),
        ("training.rate: {low: 1}", "training.rate: value: Value error, give either"),
        ("training.rate: {low: 1, high: 2, choices: [3]}", "give either choices, or low and high"),
        ("training.rate: {low: 2, high: 1}", "low must be below high"),
        ("training.rate: {low: 0, high: 1, log: true}", "log takes a low above 0"),
        ("training.rate: {low: 1, high: 2, lgo: true}", "lgo: Extra inputs"),
        ("training.rate: {choices: []}", "choices: List should have at least 1"),
    ],
)
def test_bad_spaces(tmp_path, text, message):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(SomasegError, match=r"space\.yaml") as caught:
        read_space(tmp_path / "space.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        ("training.ratee", {"low": 1e-4, "high": 1e-2}, "ratee: Extra inputs"),
        ("training.rate", {"low": -1.0, "high": 1.0}, "rate=-1.0: training.rate: Input should be"),
        ("model.diametre", {"choices": [3]}, "diametre: Extra inputs"),
        ("folds", {"choices": [2, 3]}, r"folds: write it as training\.FIELD or model\.FIELD"),
        ("training.rate.x", {"choices": [2, 3]}, "rate has no fields"),
    ],
)
def test_fields_that_do_not_fit_are_told_before_any_training(
    config, tmp_path, name, choice, message
):
    bad = config.model_copy(update={"space": {name: Dimension(**choice)}})
    with pytest.raises(SomasegError, match=message):
        Search.create(tmp_path / "s", bad)
    assert not (tmp_path / "s").exists()


def test_folders_that_do_not_fit(config, tmp_path):
    Search.create(tmp_path / "s", config)
    other = config.model_copy(update={"seed": 3, "prune": False})
    with pytest.raises(SomasegError, match="another seed, prune; give another --out"):
        Search.create(tmp_path / "s", other)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(SomasegError, match="exists and is no search"):
        Search.create(tmp_path / "other", config)
    with pytest.raises(SomasegError, match="not a search"):
        Search.open(tmp_path / "other")


def test_the_whole_way_killed_once(data, tmp_path):
    """Real trainings in two workers; the best preset trains again what its trial trained."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"model": MODEL, "training": TRAINING}))
    (tmp_path / "space.yaml").write_text("training.rate: {low: 1e-4, high: 1e-2, log: true}\n")
    common = [data, "--model", tmp_path / "tiny.yaml", "--folds", 2]
    words = [
        *("search", *common, "--space", tmp_path / "space.yaml", "--out", tmp_path / "s"),
        *("--trials", 3, "--jobs", 2),
    ]
    command = [sys.executable, "-m", "somaseg", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 1200
    while not list((tmp_path / "s").glob("trial*/fold0/model.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = somaseg(*words)
    search = Search.open(tmp_path / "s")
    found = trials(search)
    assert len(found) == 3
    assert all(t.state in (COMPLETE, PRUNED) for t in found)
    best = search.study().best_trial
    folder = search.folder / f"trial{best.number}"
    train = ["train", data, "--model", tmp_path / "s" / "best.yaml", "--folds", 2]
    somaseg(*train, "--out", tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.scores()["nested"]["map"] == pytest.approx(best.value)
    one, other = run.raw_predictions(), Run.open(folder).raw_predictions()
    assert set(one) == set(other)
    assert sum(map(len, one.values())) > 0
    for name, cells in one.items():
        assert np.array_equal(cells.pixels, other[name].pixels)
        assert np.array_equal(cells.scores, other[name].scores)
    assert "best settings" in done.stdout
    assert load_segmenter(search.folder).fingerprint() == load_segmenter(folder).fingerprint()
