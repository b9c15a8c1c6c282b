"""Tuning a run whose predictions are at hand."""

import json

import numpy as np
import pytest

from somaseg.data.synthetic import KINDS, write_dataset
from somaseg.decide import dump_settings, settle, settle_all
from somaseg.decide.grid import AXES
from somaseg.decide.rescore import Rescorer
from somaseg.errors import SomasegError
from somaseg.files import read_json, write_json
from somaseg.models.bundle import load_model
from somaseg.models.registry import build_model, parse_config
from somaseg.models.training.info import learn_info
from somaseg.predict.load import load_segmenter
from somaseg.predict.predictor import Finder
from somaseg.predict.store import save_predictions
from somaseg.predict.tiles import Grid
from somaseg.runs.run import DataConfig, Run, RunConfig
from somaseg.runs.tuning import curves_figure, decide_run, write_settings
from somaseg.scoring import compare, competition_score
from tests.cli.run import somaseg
from tests.decide.test_rescore import blind

MODEL = {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16, "pretrained": "none"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), n_per_class=4, size=(130, 176))


@pytest.fixture
def run(data, tmp_path):
    """A run of two folds, as training leaves it, with made-up predictions."""
    config = RunConfig(data=DataConfig(path=str(data)), folds=2, model=MODEL)
    run = Run.create(tmp_path / "run", config)
    dataset = run.dataset()
    folds = run.folds(dataset)
    model = build_model(parse_config(MODEL), learn_info(list(dataset)))
    for fold in range(2):
        predictions = {
            s.id: blind(s.annotated(), k) for k, s in enumerate(dataset) if folds[s.id] == fold
        }
        save_predictions(run.predictions_path(fold), predictions)
        model.save(run.model_path(fold))
        write_json(
            run.part(fold) / "training.json", {"seconds": 1, "cpu_seconds": 1, "parameters": 1}
        )
    return run


class Given(Finder):
    """Finds what it is given, in one tile."""

    @property
    def diameter(self):
        return 20.0

    def __init__(self, raw):
        self.raw = raw

    def grid(self, size):
        return Grid(tuple(size[:2]), 1024, 0)

    def find_each(self, grays, shape=None):
        return [self.raw for _ in grays]

    def fingerprint(self):
        return "given"


def tune_run(run, *arguments, **options):
    decision = decide_run(run, *arguments, **options)
    write_settings(run, decision)
    return decision


def test_deciding_writes_nothing(run):
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    decide_run(run, run.dataset(), search=["score"], rescore=True)
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before


def test_every_number_is_that_of_settled_predictions(run):
    dataset = run.dataset()
    scores = tune_run(run, dataset, {"astro": 1, "cort": 2, "shsy5y": 3}, ["score", "min_area"])
    raw, tuned = run.raw_predictions(), scores.tuned
    for kind, settings in (
        ("nested", {i: tuned.nested[run.folds(dataset)[i]] for i in raw}),
        ("optimistic", dict.fromkeys(raw, tuned.settings)),
    ):
        again = competition_score(compare(dataset, settle_all(raw, settings, True)))
        assert getattr(scores, kind).map == again.map
    assert scores.optimistic.weighted > 0
    assert scores.rescored is None
    assert read_json(run.folder / "settle.json") == dump_settings(tuned.settings)
    for fold in range(2):
        assert load_model(run.model_path(fold)).info.settle == dump_settings(tuned.nested[fold])


def test_one_fold_is_dealt_and_its_model_gets_the_common_settings(run):
    run.predictions_path(1).unlink()
    scores = tune_run(run, run.dataset(), search=["score"])
    assert scores.tuned.dealt
    assert len(scores.nested.images) == len(run.raw_predictions()) == len(scores.tuned.folds)
    assert load_model(run.model_path(0)).info.settle == dump_settings(scores.tuned.settings)


def test_rescoring_is_kept_where_it_helps_and_only_there(run):
    search = ["score", "order"]
    scores = tune_run(run, run.dataset(), search=search, rescore=True)
    # The scores of these predictions are noise; shapes tell cells from rectangles.
    assert scores.rescored.nested.map > scores.nested.map + 0.1
    assert scores.rescoring_helps
    rescorer = Rescorer.load(run.rescorer_path)
    assert rescorer.settings == scores.rescored.tuned.settings
    # The model files stand alone: their settings are those for their own scores.
    assert load_model(run.model_path(0)).info.settle == dump_settings(scores.tuned.nested[0])
    assert read_json(run.folder / "settle.json") == dump_settings(scores.tuned.settings)
    # Tuned again without: what was learned before is of no use any more.
    tune_run(run, run.dataset(), search=search)
    assert not run.rescorer_path.exists()


def test_new_images_are_rescored(run):
    tune_run(run, run.dataset(), search=["score", "order"], rescore=True)
    sample = run.dataset()[0]
    raw = run.raw_predictions()[sample.id]
    segmenter = load_segmenter(run.folder)
    segmenter.predictor = Given(raw)
    rescorer = Rescorer.load(run.rescorer_path)
    expected = settle(rescorer(raw), rescorer.settings, one_class=True)
    found = segmenter(sample.image())
    assert len(found) > 0
    assert not np.isin(found.scores, raw.scores).any()
    assert np.array_equal(found.scores, expected.scores)
    assert np.array_equal(found.pixels, expected.pixels)


def test_rescoring_that_does_not_help_is_left_out(run):
    for fold in range(2):
        raw = run.raw_predictions()
        known = {
            s.id: s.annotated() for s in run.dataset() if run.folds(run.dataset())[s.id] == fold
        }
        save_predictions(run.predictions_path(fold), {i: known[i] for i in raw if i in known})
    scores = tune_run(run, run.dataset(), search=["score"], rescore=True)
    assert scores.rescored.nested.map <= scores.nested.map
    assert not run.rescorer_path.exists()


def test_curves_are_drawn_of_all_settings(run):
    tuned = tune_run(run, run.dataset()).tuned
    figure = curves_figure(tuned)
    assert {axes.get_xlabel().split(" (")[0].replace(" ", "_") for axes in figure.axes} == set(AXES)
    for axes in figure.axes:
        curves = [line for line in axes.lines if line.get_marker() == "."]
        assert {line.get_label() for line in curves} == set(KINDS)
        setting = axes.get_xlabel().split(" (")[0].replace(" ", "_")
        for line in curves:
            shown = [score for _, score in tuned.curves[line.get_label()][setting]]
            assert np.allclose(line.get_ydata(), shown)
    figure.canvas.draw()


def test_command_line(run):
    done = somaseg(
        "tune",
        run.folder,
        "--search",
        "score,order",
        "--rescore",
        "--weights",
        "astro=1,cort=1,shsy5y=1",
    )
    assert "rescored" in done.stdout
    scores = json.loads((run.folder / "scores.json").read_text())
    assert scores["rescored"]["nested"]["map"] > scores["nested"]["map"]
    assert scores["rescored"]["used"] is True
    assert (run.folder / "tuning.png").stat().st_size > 5000
    done = somaseg("tune", run.folder, "--search", "score,size", check=False)
    assert done.returncode == 2
    assert "no setting 'size' to tune" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_fold_finished(run):
    for fold in range(2):
        run.predictions_path(fold).unlink()
    with pytest.raises(SomasegError, match="no fold is finished"):
        tune_run(run, run.dataset())
