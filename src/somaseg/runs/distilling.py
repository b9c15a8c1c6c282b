"""Teach one network what an ensemble finds: a student that is as good, nearly, and far faster.

Images that nobody has annotated get the teacher's final cells, annotated ones keep their own, and
the student is trained on both as any model is. A fifth of the annotated images is kept from it: its
settings are tuned, and its score is measured, on those.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from somaseg.data.folds import make_folds
from somaseg.data.types import Dataset, Sample
from somaseg.decide import Decision, decide, dump_settings
from somaseg.errors import SomasegError
from somaseg.files import file_name, own_folder, remove_folder
from somaseg.folders import hold
from somaseg.models.base import Network
from somaseg.models.bundle import Bundle, BundleMember, write_bundle
from somaseg.models.registry import build_model, load_preset, parse_config, validate
from somaseg.models.training.fit import train_model
from somaseg.models.training.info import learn_info
from somaseg.models.training.settings import TrainSettings
from somaseg.models.training.transfer import start_from
from somaseg.predict.load import load_segmenter
from somaseg.predict.predictor import Predictor, predict_images
from somaseg.predict.store import load_predictions, save_predictions
from somaseg.runs.checking import check_precision
from somaseg.runs.members import with_names

KEPT_BACK = 5
"""One annotated image in so many is not trained on."""

Report = Callable[[str, int, int], None]
"""Called as ``report(what, done, in all)``."""


@dataclass(frozen=True)
class Lesson:
    """What a student is made of.

    Attributes:
        teacher: a model file.
        data: images, at least two of them annotated.
        unlabelled: further images, whose annotations, if any, have no say.
        preset: name or file of the student's preset.
        steps: of training; none for the preset's.
        start: model file whose weights it starts from; none for the preset's own.
    """

    teacher: Path
    data: Dataset
    unlabelled: Dataset | None
    preset: str
    steps: int | None = None
    start: Path | None = None


def distill(lesson: Lesson, out: Path, report: Report) -> Decision:
    """Make a student, and write its model file.

    What is found on the way lies in a folder beside the file, ``OUT.part``: after a stop the same
    call goes on. It is removed at the end.

    Args:
        lesson: what it is made of.
        out: model file to write.
        report: told how far it is.

    Returns:
        What it scores on the images that were kept from it, and its settings.

    Raises:
        SomasegError: too few annotated images, classes that do not fit, a preset that is no
            network, or what training raises.
    """
    annotated = [sample for sample in lesson.data if sample.instances is not None]
    if len(annotated) < 2:
        raise SomasegError(
            f"{lesson.data.source}: {len(annotated)} annotated images; a student needs two: one to "
            "learn from, one to tune and score on"
        )
    truth = lesson.data.subset([sample.id for sample in annotated])
    folds = make_folds(truth, min(KEPT_BACK, len(truth)))
    held = truth.subset([name for name in truth.ids if folds[name] == 0])
    mine = [sample for sample in truth if folds[sample.id] != 0]
    bare = [sample for sample in lesson.data if sample.instances is None]
    # Of an image that is among the annotated ones, those annotations are better.
    bare += [sample for sample in lesson.unlabelled or () if sample.id not in lesson.data]
    preset = load_preset(lesson.preset)
    steps = {} if lesson.steps is None else {"steps": lesson.steps}
    settings = validate(TrainSettings, {**preset.training, **steps}, lesson.preset)
    with hold(own_folder(out.with_suffix(".part"))):
        work = out.with_suffix(".part")
        samples = mine + _taught(lesson, bare, work, report)
        torch.manual_seed(settings.seed)
        config = parse_config(preset.model, lesson.preset)
        student = build_model(config, learn_info(mine), lesson.start is None)
        if not isinstance(student, Network):
            raise SomasegError(f"--student {lesson.preset}: is no network")
        if lesson.start is not None:
            start_from(student, lesson.start)
        tell = lambda done, total, _: report("training", done, total)  # noqa: E731
        train_model(student, samples, settings, work / "training", progress=tell)
        raw = predict_images(
            Predictor([student], precision="float32"),
            [(sample.id, sample.image) for sample in held],
            len(held),
            lambda done, total: report("scoring", done, total),
        )
        decision = decide({"student": raw}, held, dict.fromkeys(held.ids, 0))
        tuned = dump_settings(decision.tuned.settings)
        checked = check_precision(student.to("cpu"), "none", list(held))
        known = {"settle": tuned, "checked": checked}
        student.info = student.info.model_copy(update=known)
        card: dict[str, Any] = {
            "what": f"one network taught by {lesson.teacher}",
            "data": f"{len(mine)} annotated images of {lesson.data.source}, {len(bare)} others",
            "score": f"mAP {decision.nested.map:.4f} on {len(held)} images kept from it",
        }
        member = BundleMember("student", 1.0, "none", (student,))
        write_bundle(out, Bundle((member,), None, tuned, None, card))
    remove_folder(work)
    return decision


def _taught(lesson: Lesson, bare: list[Sample], work: Path, report: Report) -> list[Sample]:
    """Images with the cells that the teacher finds in them; those that it finds none in are left.

    An empty image may be one that the teacher fails on: it would teach that cells are background.
    """
    if not bare:
        return []
    teacher = load_segmenter(lesson.teacher)
    if foreign := sorted(set(teacher.names) - set(lesson.data.names)):
        raise SomasegError(
            f"{lesson.data.source}: has no class {foreign[0]!r}, which the teacher knows; rename it"
        )
    folder = own_folder(work / f"cells-{teacher.fingerprint()}")
    taught = []
    for done, sample in enumerate(bare, 1):
        path = folder / f"{file_name(sample.id)}.npz"
        if not path.exists():
            save_predictions(path, {sample.id: teacher(sample.image())})
        cells = with_names(load_predictions(path)[sample.id], lesson.data.names)
        if len(cells):
            taught.append(replace(sample, instances=cells))
        report("teacher", done, len(bare))
    return taught
