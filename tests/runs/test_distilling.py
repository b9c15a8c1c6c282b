from pathlib import Path

import pytest
import yaml

from somaseg.data import load_dataset
from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.models.bundle import read_bundle
from somaseg.models.config import ModelInfo
from somaseg.models.registry import build_model, parse_config
from somaseg.predict import load
from somaseg.predict.load import find_model, load_segmenter
from somaseg.runs import distilling
from somaseg.runs.distilling import Lesson, distill
from somaseg.runs.members import load_images
from tests.cli.run import somaseg
from tests.models.test_engine import SMALL

TRAINING = {"steps": 2, "batch": 1, "crop": 64, "log_every": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two data sets, and a teacher that has hardly learned anything."""
    folder = tmp_path_factory.mktemp("distill")
    write_dataset(folder / "data", n_per_class=2, size=(64, 64), n_test=2)
    preset = {"model": SMALL, "training": TRAINING}
    (folder / "small.yaml").write_text(yaml.safe_dump(preset))
    return folder


class Teacher:
    """Knows the synthetic images' cells, and misses those of every second image."""

    names = ("astro", "cort", "shsy5y")

    def __init__(self):
        self.seen = 0

    def fingerprint(self):
        return "1"

    def __call__(self, image):
        self.seen += 1
        if self.seen % 2 == 0:
            return Instances.empty(image.shape[:2], self.names)
        labels = (image > image.mean()).astype("int32")
        return Instances.from_labels(labels).with_classes(0, self.names)


def test_a_student_learns_from_annotations_and_from_what_the_teacher_finds(place, monkeypatch):
    teacher, trained, told = Teacher(), [], []
    monkeypatch.setattr(distilling, "load_segmenter", lambda _: teacher)
    real = distilling.train_model

    def train(model, samples, *arguments, **options):
        trained.extend(samples)
        return real(model, samples, *arguments, **options)

    monkeypatch.setattr(distilling, "train_model", train)
    data, bare = load_dataset(place / "data"), load_images(place / "data" / "test")
    lesson = Lesson(Path("teacher"), data, bare, str(place / "small.yaml"))
    out = place / "student.safetensors"
    decision = distill(lesson, out, lambda *event: told.append(event))
    held = set(decision.found)
    annotated = {sample.id: sample for sample in data if sample.instances is not None}
    assert held < set(annotated)
    known = {sample.id: sample for sample in trained}
    assert not held & set(known)
    assert set(annotated) - held <= set(known)
    assert teacher.seen == len(bare)
    # Where the teacher finds nothing, nothing is learned.
    others = set(known) - set(annotated)
    assert len(others) == len(bare) // 2
    assert all(len(known[name].instances) for name in others)
    assert {what for what, _, _ in told} == {"teacher", "training", "scoring"}
    bundle = read_bundle(out)
    assert bundle.settings == bundle.members[0].models[0].info.settle
    assert f"{decision.nested.map:.4f}" in bundle.card["score"]
    assert not out.with_suffix(".part").exists()


def test_after_a_stop_it_goes_on(place, monkeypatch):
    teacher = Teacher()
    monkeypatch.setattr(distilling, "load_segmenter", lambda _: teacher)
    lesson = Lesson(
        Path("teacher"),
        load_dataset(place / "data"),
        load_images(place / "data" / "test"),
        str(place / "small.yaml"),
    )

    def stop(what, done, total):
        if what == "scoring":
            raise KeyboardInterrupt

    out = place / "again.safetensors"
    with pytest.raises(KeyboardInterrupt):
        distill(lesson, out, stop)
    seen = teacher.seen
    trained = []
    distill(lesson, out, lambda what, done, _: trained.append((what, done)))
    assert teacher.seen == seen  # its cells stand
    assert out.exists()


def test_too_few_annotations(place):
    lesson = Lesson(Path("teacher"), load_images(place / "data" / "test"), None, "flow_lite")
    with pytest.raises(SomasegError, match="0 annotated images; a student needs two"):
        distill(lesson, place / "none.safetensors", print)


def test_fast_takes_the_sibling(place, tmp_path, monkeypatch):
    made = tmp_path / "m.safetensors"
    info = ModelInfo(names=("cort",), diameter=16)
    build_model(parse_config(SMALL), info).save(made)
    with pytest.raises(SomasegError, match=r"has no fast model beside it, .*-fast\.safetensors; "):
        find_model(made, fast=True)
    (tmp_path / "m-fast.safetensors").write_bytes(made.read_bytes())
    assert find_model(made, fast=True) == tmp_path / "m-fast.safetensors"
    out = tmp_path / "masks"
    somaseg("predict", place / "data" / "test", "-m", made, "--fast", "--out", out)
    assert (out / "predictions.json").exists()
    # By name, of those that come along.
    monkeypatch.setattr(load, "shipped_model", lambda name="m": tmp_path / f"{name}.safetensors")
    assert find_model() == made
    assert find_model("m") == made
    assert find_model("m", fast=True).name == "m-fast.safetensors"
    assert load_segmenter(fast=True).names == load_segmenter().names
    with pytest.raises(SomasegError, match="other: no such model or run"):
        find_model("other")


def test_the_command(place):
    out = place / "s.safetensors"
    teacher = place / "student.safetensors"
    options = ("--student", place / "small.yaml", "--out", out)
    told = somaseg("distill", teacher, place / "data", *options)
    assert "images kept from it" in told.stdout
    assert len(read_bundle(out).members) == 1
    refused = somaseg("distill", teacher, place / "data", "--out", teacher, check=False)
    assert refused.returncode == 2
