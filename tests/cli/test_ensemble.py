"""``somaseg ensemble`` on runs, models and files, as a user would call it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import typer
import yaml
from typer.testing import CliRunner

from somaseg.cli.ensemble import ensemble
from somaseg.data import load_dataset
from somaseg.data.formats.coco import write_annotations
from somaseg.data.formats.label_files import write_labels
from somaseg.data.formats.results import write_results
from somaseg.data.formats.submission import write_submission
from somaseg.data.synthetic import write_dataset
from somaseg.decide import (
    Fusion,
    Selector,
    SettleSettings,
    default_settings,
    dump_settings,
    fuse_images,
    settle,
)
from somaseg.decide.tune import tune
from somaseg.errors import SomasegError
from somaseg.files import read_json, write_json
from somaseg.instances import Instances
from somaseg.models.bundle import load_model, read_bundle
from somaseg.models.config import ModelInfo
from somaseg.models.registry import build_model, parse_config
from somaseg.predict.load import load_segmenter
from somaseg.predict.predictor import Predictor
from somaseg.predict.store import load_predictions, save_predictions
from somaseg.runs.run import DataConfig, Run, RunConfig
from somaseg.scoring import compare, competition_score
from somaseg.scoring.inputs import read_predictions
from tests.decide.material import member
from tests.decide.test_redraw import Pencil

MODEL = {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16}
app = typer.Typer()
app.command()(ensemble)


def run(*arguments):
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, [str(a) for a in arguments])
    if result.exception is not None:
        raise result.exception
    return result


def failure(*arguments):
    with pytest.raises(SomasegError) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    write_dataset(folder / "data", n_per_class=2, size=(96, 96), n_test=2)
    dataset = load_dataset(folder / "data")
    for seed, name in enumerate(("A", "B")):
        config = RunConfig(data=DataConfig(path=str(folder / "data")), folds=2, model=MODEL)
        made = Run.create(folder / name, config)
        folds = made.folds(dataset)
        raw = member(dataset, seed, found=0.75)
        for fold in range(2):
            part = {i: raw[i] for i in raw if folds[i] == fold}
            save_predictions(made.predictions_path(fold), part)
    return folder


@pytest.fixture(scope="module")
def dataset(place):
    return load_dataset(place / "data")


def hard(place, dataset, seed=5):
    """Final predictions of someone else."""
    raw = member(dataset, seed)
    settings = default_settings(dataset.names)
    return {name: settle(one, settings, one_class=True) for name, one in raw.items()}


def rows(text):
    """Tables as lists of words by the first word of the line."""
    return {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}


def test_runs_are_joined_scored_and_written(place, dataset, tmp_path):
    out = tmp_path / "out"
    a, b = place / "A", place / "B"
    result = run(a, b, "--method", "nmw,nms,wbf", "--iou", 0.4, "--data", place / "data", "-o", out)
    raw = load_predictions(out / "predictions.npz")
    fusion = Fusion(method="nmw", iou=0.4)
    expected = fuse_images([Run.open(x).raw_predictions() for x in (a, b)], None, fusion)
    assert set(raw) == set(dataset.ids)
    for name, one in raw.items():
        assert (one.pixels == expected[name].pixels).all()
        assert np.allclose(one.scores, expected[name].scores)
    # The masks that are written were settled without their fold: they score what the table says.
    found = read_predictions(out / "labels", dataset)
    nested = competition_score(compare(dataset, found)).map
    assert read_json(out / "scores.json")["nested"]["map"] == pytest.approx(nested)
    manifest = yaml.safe_load((out / "ensemble.yaml").read_text())
    assert list(manifest["scores"]) == [str(a), str(b), "nmw", "nms", "wbf"]
    assert manifest["scores"]["nmw"]["nested"] == pytest.approx(nested, abs=1e-5)
    assert manifest["fusion"]["method"] == "nmw"
    assert manifest["members"] == [
        {"path": str(path), "kind": "run", "weight": 1.0} for path in (a, b)
    ]
    assert rows(result.stdout)["nmw"][1] == f"{nested:.3f}"
    assert set(read_json(out / "settle.json")) == set(dataset.names)
    assert len(json.loads((out / "predictions.json").read_text())) == sum(map(len, found.values()))
    assert (out / "submission.csv").read_text().startswith("id,predicted")
    assert manifest["scores"]["nmw"]["nested"] > manifest["scores"][str(a)]["nested"]


def test_an_ensemble_is_a_member_with_its_folds(place, dataset, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run(place / "A", place / "B", "-o", first)
    assert read_json(first / "folds.json") == read_json(place / "A" / "folds.json")
    run(first, place / "A", "--weights", "2,1", "-o", second, "--settings", first)
    assert read_json(second / "folds.json") == read_json(first / "folds.json")
    manifest = yaml.safe_load((second / "ensemble.yaml").read_text())
    assert [one["kind"] for one in manifest["members"]] == ["ensemble", "run"]
    assert [one["weight"] for one in manifest["members"]] == [2, 1]
    members = [load_predictions(first / "predictions.npz"), Run.open(place / "A").raw_predictions()]
    expected = fuse_images(members, [2, 1])
    for name, one in load_predictions(second / "predictions.npz").items():
        assert (one.pixels == expected[name].pixels).all()
    assert "is a member itself" in failure(first, place / "A", "-o", first)
    (second / "plan.yaml").touch()  # as in the folder that `somaseg fit` makes
    assert "is no ensemble" in failure(first, place / "A", "-o", second)


def test_settings_are_used(place, dataset, tmp_path):
    settings = {name: {"score": 1.0} for name in dataset.names}
    write_json(tmp_path / "settle.json", settings)
    result = run(place / "A", place / "B", "-o", tmp_path / "out", "--settings", tmp_path)
    assert "6 images, 0 cells" in result.stdout
    # Again into the same folder, of fewer images: nothing is left of those before.
    few = dict(list(member(dataset, 0).items())[:2])
    save_predictions(tmp_path / "few.npz", few)
    result = run(place / "A", tmp_path / "few.npz", "-o", tmp_path / "out")
    assert "4 images are left out" in result.stderr
    assert "few.npz lacks" in result.stderr
    assert {p.stem for p in (tmp_path / "out" / "labels").iterdir()} == set(few)
    assert not (tmp_path / "out" / "folds.json").exists()


def test_a_run_with_some_folds_gives_their_images(place, dataset, tmp_path):
    shutil.copytree(place / "B", tmp_path / "B")
    shutil.rmtree(tmp_path / "B" / "fold1")
    result = run(place / "A", tmp_path / "B", "-o", tmp_path / "out", "--data", place / "data")
    folds = Run.open(place / "A").folds(dataset)
    own = {name for name, fold in folds.items() if fold == 0}
    assert f"{6 - len(own)} images are left out" in result.stderr
    assert set(load_predictions(tmp_path / "out" / "predictions.npz")) == own


@pytest.mark.parametrize("kind", ["results", "labels", "submission", "npz"])
def test_predictions_from_anywhere(place, dataset, tmp_path, kind):
    found = hard(place, dataset)
    if kind == "results":
        path = tmp_path / "found.json"
        write_results(path, found)
    elif kind == "submission":
        path = tmp_path / "found.csv"
        write_submission(path, found)
    elif kind == "npz":
        path = tmp_path / "found.npz"
        # Class names in another order, and one more.
        names = (*dataset.names[::-1], "glia")
        save_predictions(path, {name: one.rename(names) for name, one in found.items()})
    else:
        path = tmp_path / "labels"
        for name, one in found.items():
            write_labels(path / f"{name}.tif", one.to_labels())
    run(place / "A", path, "--method", "average", "-o", tmp_path / "out", "--weights", "1,2")
    if kind in ("labels", "submission"):
        found = {name: one.with_scores(1.0).with_classes(-1) for name, one in found.items()}
    members = [Run.open(place / "A").raw_predictions(), found]
    expected = fuse_images(members, [1, 2], Fusion(method="average"))
    fused = load_predictions(tmp_path / "out" / "predictions.npz")
    assert set(fused) == set(dataset.ids)
    for name, one in fused.items():
        assert np.allclose(one.scores, expected[name].scores)
        assert (one.classes == expected[name].classes).all()
        assert one.names == dataset.names
        # Sorted by score: equal ones may stand in another order.
        assert one.pixels.sum() == expected[name].pixels.sum()


def test_files_alone_need_no_run(place, dataset, tmp_path):
    found = hard(place, dataset)
    write_submission(tmp_path / "one.csv", found)
    for name, one in found.items():
        write_labels(tmp_path / "labels" / f"{name}.tif", one.to_labels())
    run(tmp_path / "one.csv", tmp_path / "labels", "-o", tmp_path / "out", "--method", "nms")
    fused = load_predictions(tmp_path / "out" / "predictions.npz")
    assert {name: len(one) for name, one in fused.items()} == {n: len(x) for n, x in found.items()}
    message = failure(tmp_path / "one.csv", "-o", tmp_path / "alone")
    assert "says nowhere how large its images are" in message
    scored = run(
        *(tmp_path / "one.csv", tmp_path / "labels", "-o", tmp_path / "scored"),
        *("--data", place / "data", "--class-weights", "cort=3,shsy5y=2,astro=1"),
    )
    assert "classes weighted" in scored.stdout
    nested = read_json(tmp_path / "scored" / "scores.json")["nested"]
    weights = {"cort": 3, "shsy5y": 2, "astro": 1}
    mix = sum(weights[name] * nested["by_class"][name] for name in weights) / 6
    assert rows(scored.stdout)["wbf"][1] == f"{mix:.3f}"


def test_select(place, dataset, tmp_path):
    a, b = (Run.open(place / x).raw_predictions() for x in "AB")
    bad = {name: one.window(one.size, (9, -9))[0].with_scores(0.9) for name, one in a.items()}
    save_predictions(tmp_path / "bad.npz", bad)
    paths = [place / "A", place / "B", tmp_path / "bad.npz"]
    result = run(
        *(*paths, "--select", "--method", "wbf", "--iou", 0.4, "--absent", "skip"),
        *("--data", place / "data", "-o", tmp_path / "out"),
    )
    fusion = Fusion(method="wbf", iou=0.4, absent="skip")
    folds = Run.open(place / "A").folds(dataset)
    members = dict(zip(map(str, paths), (a, b, bad), strict=True))
    selector = Selector(members, dataset, fusion, one_class=True)
    chosen = selector.choose(dataset.ids)
    manifest = yaml.safe_load((tmp_path / "out" / "ensemble.yaml").read_text())
    weights = {one["path"]: one["weight"] for one in manifest["members"]}
    assert weights == chosen.member_weights
    assert str(paths[2]) not in weights
    # Each fold with members and settings that have not seen it.
    final = {}
    for fold in (0, 1):
        counts = selector.choose([name for name in folds if folds[name] != fold]).member_weights
        fused = fuse_images([members[name] for name in counts], list(counts.values()), fusion)
        others = {name: one for name, one in fused.items() if folds[name] != fold}
        settings = tune(others, dataset.subset(others), folds, one_class=True).settings
        for name in fused.keys() - others.keys():
            final[name] = settle(fused[name], settings, one_class=True)
    nested = competition_score(compare(dataset, final)).map
    assert manifest["scores"]["wbf, selected"]["nested"] == pytest.approx(nested, abs=1e-5)
    assert read_json(tmp_path / "out" / "scores.json")["nested"]["map"] == pytest.approx(nested)
    assert result.stdout.count("chosen without fold") == 2
    # The masks that are written are these.
    found = read_predictions(tmp_path / "out" / "labels", dataset)
    assert competition_score(compare(dataset, found)).map == pytest.approx(nested)


class Drawer(Pencil):
    """A mask head that knows its fold by its level, and draws on any image."""

    def __init__(self, path):
        names = tuple(yaml.safe_load((path.parents[1] / "names.yaml").read_text()))
        super().__init__(200 if path.parent.name == "fold0" else 150, names=names)

    def predict_masks(self, image, boxes, classes, scores):
        assert image.shape == (96, 96)
        crops = [
            np.full((y1 - y0, x1 - x0), self.level, np.uint8)
            for x0, y0, x1, y1 in boxes.astype(int).tolist()
        ]
        return Instances.from_crops(
            (96, 96), boxes.astype(int), crops, scores, classes, self.names, soft=True
        )


def test_second_pass_draws_each_image_with_models_that_have_not_seen_it(
    place, dataset, tmp_path, monkeypatch
):
    for name in ("A", "B"):
        (place / name / "names.yaml").write_text(yaml.safe_dump(list(dataset.names)))
    monkeypatch.setattr("somaseg.models.bundle.load_model", Drawer)
    out = tmp_path / "out"
    result = run(*(place / "A", place / "B", "--second-pass", "--data", place / "data", "-o", out))
    assert "wbf, second pass" in result.stdout
    folds = Run.open(place / "A").folds(dataset)
    fused = fuse_images([Run.open(place / x).raw_predictions() for x in "AB"])
    for name, one in load_predictions(out / "predictions.npz").items():
        assert set(one.pixels.tolist()) == {150 if folds[name] else 200}
        assert len(one) == len(fused[name])
    assert yaml.safe_load((out / "ensemble.yaml").read_text())["second_pass"]


@pytest.fixture(scope="module")
def models(place, dataset):
    paths = []
    for seed in range(2):
        import torch

        torch.manual_seed(seed)
        model = build_model(parse_config(MODEL), ModelInfo(names=dataset.names, diameter=16))
        path = place / f"model{seed}.safetensors"
        model.save(path)
        paths.append(path)
    return paths


def test_maps_of_models_of_a_dense_family_are_averaged(place, models, tmp_path):
    test = place / "data" / "test"
    run(*models, "--images", test, "--method", "average", "-o", tmp_path / "maps")
    joint = Predictor([load_model(path) for path in models])
    images = load_dataset(test)
    written = load_predictions(tmp_path / "maps" / "predictions.npz")
    assert set(written) == set(images.ids)
    for sample in images:
        expected = joint(sample.image())
        assert (written[sample.id].pixels == expected.pixels).all()
    manifest = yaml.safe_load((tmp_path / "maps" / "ensemble.yaml").read_text())
    assert manifest["joined"] == "maps"
    # With weights, and by other methods, their instances are matched.
    for method, weights in (("average", [2, 1]), ("nmw", None)):
        out = tmp_path / method
        more = ["--weights", "2,1"] if weights else []
        run(*models, "--images", test, "--method", method, "-o", out, *more)
        assert yaml.safe_load((out / "ensemble.yaml").read_text())["joined"] == "instances"
        alone = [
            {s.id: Predictor([load_model(path)])(s.image()) for s in images} for path in models
        ]
        expected = fuse_images(alone, weights, Fusion(method=method))
        for name, one in load_predictions(out / "predictions.npz").items():
            assert (one.pixels == expected[name].pixels).all()
    assert not list((tmp_path / "nmw").glob("folds.json"))


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (2, ["--method", "average"]),
        (2, ["--method", "wbf", "--iou", "0.3", "--weights", "2,1"]),
        (2, ["--method", "nmw", "--tta", "flips"]),
        (1, ["--method", "soft-nms"]),
    ],
)
def test_an_ensemble_of_models_predicts_new_images(place, models, tmp_path, count, options):
    """Its folder is a model that finds the cells that were written with it."""
    test, out = place / "data" / "test", tmp_path / "out"
    keen = SettleSettings(score=0, mask_threshold=0.1, min_area=1)
    names = load_model(models[0]).names
    write_json(tmp_path / "keen.json", dump_settings(dict.fromkeys(names, keen)))
    members = []
    for i, model in enumerate(models[:count]):  # called alike
        members.append(tmp_path / str(i) / "model.safetensors")
        members[-1].parent.mkdir()
        shutil.copy(model, members[-1])
    run(*members, "--images", test, "--settings", tmp_path / "keen.json", "-o", out, *options)
    bundle = read_bundle(out / "model.safetensors")
    assert len({member.name for member in bundle.members}) == len(bundle.members)
    loaded, scores = load_segmenter(out), []
    for sample in load_dataset(test):
        found = loaded(sample.image())
        written = tifffile.imread(out / "labels" / f"{sample.id}.tif")
        assert np.array_equal(found.to_labels(), written)
        scores += found.scores.tolist()
    assert scores
    table = json.loads((out / "predictions.json").read_text())
    assert sorted(entry["score"] for entry in table) == pytest.approx(sorted(scores))
    assert loaded.predictor.fingerprint() != load_segmenter(models[0]).predictor.fingerprint()
    # What has no model in it says what to do.
    (out / "model.safetensors").unlink()
    with pytest.raises(SomasegError, match="its members are not all models; predict with one of"):
        load_segmenter(out)


def test_models_predict_the_annotated_images(place, dataset, models, tmp_path):
    result = run(*models, "--data", place / "data", "-o", tmp_path / "out")
    assert set(load_predictions(tmp_path / "out" / "predictions.npz")) == set(dataset.ids)
    assert len(rows(result.stdout)["wbf"]) == 6
    # A run beside them still gives what its folds predicted.
    run(place / "A", models[0], "--data", place / "data", "-o", tmp_path / "mixed")
    manifest = yaml.safe_load((tmp_path / "mixed" / "ensemble.yaml").read_text())
    alone = competition_score(
        compare(
            dataset,
            {
                name: settle(one, default_settings(dataset.names), one_class=True)
                for name, one in Run.open(place / "A").raw_predictions().items()
            },
        )
    )
    assert manifest["scores"][str(place / "A")]["untuned"] == pytest.approx(alone.map, abs=1e-5)
    message = failure(*models, "--data", place / "data" / "test", "-o", tmp_path / "other")
    assert "no image is annotated" in message
    message = failure(models[0], place / "A", "-o", tmp_path / "other")
    assert "a model; say what to predict with --images" in message


def edited(place, dataset, path, change):
    """Predictions of someone else with a fault."""
    found = hard(place, dataset)
    name = dataset.ids[0]
    if change == "size":
        found[name] = found[name].window((97, 96))[0]
    elif change == "image":
        found["elsewhere"] = found[name]
    elif change == "class":
        found = {k: x.replace(names=("cort", "shsy5y", "glia")) for k, x in found.items()}
    elif change == "above":
        found[name] = found[name].with_scores(1.5)
    elif change == "below":
        found[name] = found[name].with_scores(-0.5)
    if path.suffix == ".npz":
        save_predictions(path, found)
    else:
        write_results(path, found)
        entries = json.loads(path.read_text())
        if change == "nan":
            entries[2]["score"] = float("nan")
        elif change == "missing":
            del entries[2]["score"]
        path.write_text(json.dumps(entries))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("x.npz", "size", "is 96×97 pixels, but 96×96 in"),
        ("x.npz", "image", "image 'elsewhere' is not in"),
        ("x.json", "image", "image 'elsewhere' is not in"),
        ("x.npz", "class", "class 'glia', which is none of"),
        ("x.json", "class", "class 'glia', which is none of"),
        ("x.npz", "above", "has a score of 1.5; scores lie in 0 … 1"),
        ("x.npz", "below", "has a score of -0.5; scores lie in 0 … 1"),
        ("x.json", "nan", "its score is nan, not a number"),
        ("x.json", "missing", "its score is None, not a number"),
    ],
)
def test_members_that_do_not_fit(place, dataset, tmp_path, file, change, message):
    path = tmp_path / file
    edited(place, dataset, path, change)
    for more in ([], ["--data", place / "data"]):
        told = failure(place / "A", path, "-o", tmp_path / "out", *more)
        assert message in told
        assert str(path) in told
    assert not (tmp_path / "out").exists()


def test_unknown_images_can_be_left_out(place, dataset, tmp_path):
    edited(place, dataset, tmp_path / "x.npz", "image")
    run(place / "A", tmp_path / "x.npz", "-o", tmp_path / "out", "--ignore-unknown")
    assert set(load_predictions(tmp_path / "out" / "predictions.npz")) == set(dataset.ids)


def test_a_score_that_is_no_number_is_found_in_raw_predictions(place, dataset, tmp_path):
    path = tmp_path / "x.npz"
    save_predictions(path, hard(place, dataset))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["scores"][3] = np.nan
    np.savez(path, **arrays)
    told = failure(place / "A", path, "-o", tmp_path / "out")
    assert told.startswith(f"{path}: ")
    assert "is not a number" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A", "nowhere"], "nowhere: no such run, model or predictions"),
        (["A", "B", "--method", "mean"], "--method 'mean': choose from nms, soft-nms, nmw, wbf"),
        (["A", "B", "--method", "nms,nms"], "nms comes twice"),
        (["A", "B", "--weights", "1"], "--weights: 1 for 2 members"),
        (["A", "B", "--weights", "1,0"], "--weights 1,0: give a number above 0"),
        (["A", "B", "--weights", "1,x"], "--weights 1,x: give a number above 0"),
        (["A", "B", "--iou", "1.5"], "iou"),
        (["A", "B", "--absent", "never"], "absent"),
        (["A", "A"], "named twice"),
        (["A", "B", "--select"], "--select chooses by a score"),
        (["A", "B", "--select", "--data", "data", "--weights", "1,2"], "leave --weights out"),
        (["A", "B", "--select", "--data", "data", "--second-pass"], "exclude each other"),
        (["A", "B", "--settings", "nowhere.json"], "nowhere.json: no such file"),
        (["A", "B", "--class-weights", "cort", "--data", "data"], "--class-weights: 'cort' is no"),
        (["A", "B", "--out", "data"], "exists and is no ensemble"),
        (["A", "--out", "B"], "exists and is no ensemble"),
        (["A", "B", "--data", "data/test"], "looks like a photograph"),
    ],
)
def test_mistakes_are_told_in_one_line(place, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    before = sorted(p.name for p in place.iterdir())
    more = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    assert message in failure(*arguments, *more)
    assert sorted(p.name for p in place.iterdir()) == before


def test_members_that_share_no_image(place, dataset, tmp_path):
    raw = list(member(dataset, 0).items())
    save_predictions(tmp_path / "x.npz", dict(raw[:2]))
    save_predictions(tmp_path / "y.npz", dict(raw[2:]))
    told = failure(tmp_path / "x.npz", tmp_path / "y.npz", "-o", tmp_path / "out")
    assert "the members share no image" in told


def test_help_loads_nothing_heavy():
    code = "import sys, somaseg.cli.ensemble; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numba", "torch", "matplotlib", "rich.table"} & set(done.stdout.split())


def test_ids_do_not_lead_out_of_the_folder(tmp_path):
    labels = np.zeros((20, 30), np.uint16)
    labels[2:9, 3:9] = 1
    name = str(tmp_path / "images" / "a")
    cells = {
        "../../a": Instances.from_labels(labels, names=("cell",)),
        name: Instances.from_labels(labels, names=("cell",)),
    }
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.tif").write_bytes(b"raw")
    save_predictions(tmp_path / "m.npz", cells)
    save_predictions(tmp_path / "n.npz", cells)
    before = sorted(p.name for p in tmp_path.iterdir())
    run(tmp_path / "m.npz", tmp_path / "n.npz", "--out", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "out"])
    assert (tmp_path / "images" / "a.tif").read_bytes() == b"raw"
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 2


def test_an_ensemble_is_not_written_over_its_members(tmp_path):
    labels = np.zeros((20, 30), np.uint16)
    labels[2:9, 3:9] = 1
    cells = {"a": Instances.from_labels(labels, names=("cell",))}
    save_predictions(tmp_path / "m.npz", cells)
    save_predictions(tmp_path / "n.npz", cells)
    run(tmp_path / "m.npz", tmp_path / "n.npz", "--out", tmp_path / "out")
    before = (tmp_path / "out" / "labels" / "a.tif").read_bytes()
    for part in ("labels", "predictions.npz", "predictions.json"):
        text = failure(tmp_path / "m.npz", tmp_path / "out" / part, "--out", tmp_path / "out")
        assert f"{part}: would be written over" in text
    assert (tmp_path / "out" / "labels" / "a.tif").read_bytes() == before


def results_of(path, found):
    write_results(path, found)
    return path


def test_lists_of_results_are_joined_without_data_whatever_they_are_called(dataset, tmp_path):
    """Also where one found nothing in an image: it stays with what the other found."""
    one = dict(list(hard(None, dataset, 1).items())[:4])
    names = list(one)
    other = {name: one[name].with_scores(0.8) for name in names[1:]}
    a = results_of(tmp_path / "A.json", one)
    b = results_of(tmp_path / "B.json", other)
    told = run(a, b, "--method", "nms", "-o", tmp_path / "out")
    assert f"B.json: says nothing of image '{names[0]}'; joined as if it" in told.stderr
    raw = load_predictions(tmp_path / "out" / "predictions.npz")
    assert set(raw) == set(names)
    for name in names:
        assert len(raw[name]) == len(one[name]) > 0
    assert names[0] in (tmp_path / "out" / "submission.csv").read_text()
    # The same where there are annotations; what nobody speaks of plays no part.
    write_dataset(tmp_path / "data", n_per_class=2, size=(96, 96), n_test=2)
    run(a, b, "--method", "nms", "--data", tmp_path / "data", "-o", tmp_path / "scored")
    assert set(load_predictions(tmp_path / "scored" / "predictions.npz")) == set(names)


def test_data_sets_of_coco_are_joined_without_data(dataset, tmp_path):
    paths = []
    for k, name in enumerate(("A.json", "B.json")):
        found = hard(None, dataset, k)
        samples = tuple(replace(s, instances=found[s.id]) for s in dataset)
        write_annotations(tmp_path / name, replace(dataset, samples=samples))
        paths.append(tmp_path / name)
    results = results_of(tmp_path / "C.json", hard(None, dataset, 2))
    run(*paths, results, "--method", "nms", "-o", tmp_path / "out")
    assert set(load_predictions(tmp_path / "out" / "predictions.npz")) == set(dataset.ids)
