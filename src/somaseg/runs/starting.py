"""Fine-tuning: what a fit starts from, and what that scores as it is.

::

    RUN/start/NAME.safetensors   a model of each member, whose weights training starts from
    RUN/start/NAME.yaml          its config, with the training of the preset that is most like it
    RUN/start/predictions.npz    raw predictions of all images by the whole model as it is
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import t as student

from somaseg.data.types import Dataset
from somaseg.decide import Decision, decide
from somaseg.decide.judge import SURENESS
from somaseg.errors import SomasegError
from somaseg.files import own_folder, write_text
from somaseg.folders import PREDICTIONS
from somaseg.instances import Instances
from somaseg.models.base import Model, Network
from somaseg.models.registry import load_preset, preset_names
from somaseg.models.training.settings import TrainSettings
from somaseg.predict.load import load_segmenter, read_model, shipped_model
from somaseg.predict.store import load_predictions, save_predictions
from somaseg.runs.execute import Report
from somaseg.runs.members import with_names
from somaseg.runs.plan import Start
from somaseg.scoring.competition import CompetitionScore

SHIPPED = "shipped"
"""What stands for the model that comes with somaseg."""
START = "start"
_TELLING = ("family", "network", "encoder", "backbone", "box_head", "mask_head")
"""Fields of configs by which presets are alike, the most telling first."""


def prepare_start(model: str | Path, folder: str | Path) -> Start:
    """Take a model apart into what training starts from.

    Args:
        model: ``shipped``, a model file, or the folder of a run, a fit or an ensemble; of a member
            that has a model of each fold, the first is taken.
        folder: of the experiment.

    Raises:
        SomasegError: no such model, or one of a family without weights to start from.
    """
    path = shipped_model() if str(model) == SHIPPED else Path(model).resolve()
    bundle = read_model(path)
    Path(folder).mkdir(parents=True, exist_ok=True)
    place = own_folder(Path(folder) / START)
    presets = {}
    for number, member in enumerate(bundle.members):
        first = member.models[0]
        if not isinstance(first, Network):
            raise SomasegError(
                f"--start-from: {model} is of family {first.config.family!r}, which has no weights "
                "to start from; fit without it"
            )
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", member.name) or "member"
        if len({one.name for one in bundle.members}) < len(bundle.members):
            name = f"{name}-{number}"
        file, preset = place / f"{name}.safetensors", place / f"{name}.yaml"
        first.save(file)
        fields = {
            "about": f"{member.name} of {path.name}",
            "model": first.config.model_dump(mode="json"),
            "training": _training_of(first),
        }
        write_text(preset, yaml.safe_dump(fields, sort_keys=False))
        presets[preset] = file
    return Start(path, presets, bundle.members[0].models[0].info.channels)


def _training_of(model: Model) -> dict[str, Any]:
    """Training settings of the preset that is most like a model; of several, of the shortest."""
    config = model.config.model_dump(mode="json")

    def alike(name: str) -> tuple[list[bool], int]:
        preset = load_preset(name)
        fields = preset.model
        same = [key in fields and fields[key] == config.get(key) for key in _TELLING]
        return same, -TrainSettings.model_validate(preset.training).steps

    return dict(load_preset(max(preset_names(), key=alike)).training)


def score_start(
    model: Path,
    folder: Path,
    dataset: Dataset,
    folds: Mapping[str, int],
    weights: Mapping[str, float] | None,
    report: Report,
) -> Decision:
    """Score a model as it is on annotated images; its settings are tuned nested, as a member's.

    Args:
        model: the whole model.
        folder: of the experiment, where its predictions are kept.
        dataset: annotated images.
        folds: of them.
        weights: of the classes.
        report: told of the images.

    Raises:
        SomasegError: it finds classes that the data lack.
    """
    file = folder / START / PREDICTIONS
    if not file.exists():
        segmenter = load_segmenter(model)
        foreign = sorted(set(segmenter.names) - set(dataset.names))
        if foreign and len(dataset.names) > 1:
            raise SomasegError(
                f"--start-from: {model} finds {', '.join(foreign)}, which {dataset.source} has "
                "not, so that the two cannot be compared; train with `somaseg train --from`"
            )
        found: dict[str, Instances] = {}
        for done, sample in enumerate(dataset, 1):
            raw = segmenter.predictor(sample.image())
            one = len(dataset.names) == 1
            found[sample.id] = (
                raw.with_classes(0, dataset.names) if one else with_names(raw, dataset.names)
            )
            report("start", {"stage": "predict", "done": done, "total": len(dataset)})
        save_predictions(file, found)
    return decide({START: load_predictions(file)}, dataset, folds, class_weights=weights)


def verdict(start: CompetitionScore, fitted: CompetitionScore) -> str:
    """Say in a sentence whether a fit is better than what it started from, image by image."""
    before = {image.id: image.score for image in start.images}
    gains = np.array([image.score - before[image.id] for image in fitted.images])
    gain, n = float(gains.mean()), len(gains)
    error = 0.0
    if n > 1:
        error = float(student.ppf(SURENESS, n - 1) * gains.std(ddof=1) / np.sqrt(n))
    up, down = int((gains > 0).sum()), int((gains < 0).sum())
    told = (
        f"{fitted.map:.3f} against {start.map:.3f} of the model it started from (nested mAP; "
        f"{gain:+.3f} ± {error:.3f}, {up} of {n} images better, {down} worse)"
    )
    if gain - error > 0:
        return f"Better: {told}."
    if gain + error < 0:
        return f"WORSE: {told}. Keep the model it started from."
    return f"No clear gain: {told}. More corrected images would tell; until then keep the old one."
