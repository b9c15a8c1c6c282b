"""Plan a whole experiment from the data, the machine and the time given.

The plan is a YAML that a user reads, changes and runs again; the reason of each choice stands
above it as a comment. After nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z): a
fingerprint of the data decides, by rules that anyone can read, and nothing is learned here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from somaseg.data.fingerprint import Fingerprint, fingerprint
from somaseg.errors import SomasegError
from somaseg.models.registry import load_preset
from somaseg.models.training.loop import default_threads
from somaseg.models.training.settings import TrainSettings
from somaseg.runs.machine import Hardware, find_hardware, seconds_per_step
from somaseg.runs.sources import DataConfig, load_annotated
from somaseg.scoring.competition import check_weights

CANDIDATES: Mapping[str, tuple[str, ...]] = {
    # The most different families first: they err differently, which is what an ensemble lives on.
    "cpu": ("flow_lite", "cascade_rcnn_lite", "unet_lite"),
    "gpu": ("flow_lite", "cascade_ms_rcnn_r50", "unet_r34", "pointrend_r50"),
}
TRAINING_SHARE = 0.85
"""Of the time given; the rest is for predicting, tuning, joining and reporting."""
LEAST_STEPS = 0.6
"""Share of a preset's steps below which a member is not worth its time."""
MOST_STEPS = 8.0
"""Multiple of a preset's steps beyond which more of the same brings nothing."""


class PlannedMember(BaseModel):
    """One model family of the ensemble, trained on every fold."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="folder name of its run")
    preset: str = Field("", description="where the configuration comes from")
    model: dict[str, Any]
    training: TrainSettings = TrainSettings()
    views: Literal["none", "flips", "all"] = "none"
    start_from: str | None = Field(None, description="model file whose weights it starts from")


class Plan(BaseModel):
    """All that `somaseg fit` will do."""

    model_config = ConfigDict(extra="forbid")

    data: DataConfig
    folds: int = Field(3, ge=2, description="folds of the cross-validation")
    seed: int = Field(0, description="of the folds")
    jobs: int = Field(1, ge=1, description="trainings side by side")
    weights: dict[str, float] | None = Field(
        None, description="weight of each class in the score that decides; none: of each image"
    )
    pretrain: DataConfig | None = Field(
        None, description="other annotated images to train on first; classes may differ"
    )
    pretrain_share: float = Field(
        0.3, gt=0, le=1, description="steps on them, as a share of each member's steps"
    )
    refit: bool = Field(
        False,
        description="train the chosen members on all images at the end: one model of each goes "
        "into the bundle, instead of one a fold",
    )
    start_from: str | None = Field(
        None, description="model that is fine-tuned; its own score on the same folds is told"
    )
    methods: tuple[str, ...] = Field(
        ("nmw", "wbf", "nms"), description="ways to join the members; the best is kept"
    )
    members: tuple[PlannedMember, ...] = Field(min_length=1)

    def model_post_init(self, _: Any) -> None:
        """Refuse two members of one name."""
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            raise ValueError("two members have one name; rename one")


@dataclass(frozen=True)
class Start:
    """A model that a fit starts from; :func:`somaseg.runs.starting.prepare_start` makes it.

    Attributes:
        model: its path.
        presets: YAML file of each member that is trained, and the model file that it starts from.
        channels: that it looks at.
    """

    model: Path
    presets: Mapping[Path, Path]
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Planned:
    """A plan, and the reason of each choice by the dotted name of its field."""

    plan: Plan
    reasons: dict[str, str]


def plan_for(
    data: DataConfig,
    budget: float,
    *,
    jobs: int = 0,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    pretrain: DataConfig | None = None,
    refit: bool = False,
    room: int = 0,
    start: Start | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Planned:
    """Look at the data, measure the machine, and decide everything; see :func:`make_plan`.

    Args:
        data: the annotated images.
        budget: seconds for the whole experiment.
        jobs: trainings side by side on a machine without GPU; 0: one a core.
        seed: of folds and training.
        weights: weight of each class in the score.
        pretrain: images to train on first.
        refit: train the chosen members on all images at the end.
        room: trainings side by side on a cluster, as fast as on a processor here; 0: on none.
        start: a model that is fine-tuned; without, families are trained anew.
        tell: told what is being done.

    Raises:
        SomasegError: data that cannot be read or trained on, or too little time.
    """
    dataset = load_annotated(data)
    if weights is not None:
        check_weights(weights, dataset.names)
    if pretrain is not None:
        load_annotated(pretrain)  # what is wrong with it is told now, not after the planning
    hardware = Hardware(room, memory=0) if room else find_hardware()
    if jobs and not hardware.gpus:
        hardware = replace(hardware, cores=jobs)
    threads = default_threads(hardware.jobs)
    speed = {}
    presets = candidates(hardware) if start is None else tuple(map(str, start.presets))
    for name in presets:
        tell(f"measuring the speed of {name}")
        speed[name] = seconds_per_step(name, dataset.samples, threads, channels=data.channels)
    return make_plan(
        *(data, fingerprint(dataset), hardware, budget, speed),
        seed=seed,
        weights=weights,
        pretrain=pretrain,
        refit=refit,
        start=start,
    )


def parse_duration(text: str) -> float:
    """Seconds of ``90m``, ``2h``, ``1.5d`` or ``3600s``.

    Raises:
        SomasegError: it is none.
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = text.strip()[:-1], text.strip()[-1:]
    try:
        seconds = float(number) * units[unit]
    except (ValueError, KeyError):
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise SomasegError(f"--budget {text!r}: write a time such as 90m, 2h or 1d")
    return seconds


def candidates(hardware: Hardware) -> tuple[str, ...]:
    """Presets that are considered on a machine, the most wanted first."""
    return CANDIDATES["gpu" if hardware.gpus else "cpu"]


def make_plan(
    data: DataConfig,
    facts: Fingerprint,
    hardware: Hardware,
    budget: float,
    seconds: Mapping[str, float],
    *,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    pretrain: DataConfig | None = None,
    refit: bool = False,
    start: Start | None = None,
) -> Planned:
    """Decide everything.

    Args:
        data: the annotated images.
        facts: their fingerprint.
        hardware: of this machine.
        budget: seconds for the whole experiment.
        seconds: measured seconds a training step of each candidate preset, one job on its own; of
            a model that is fine-tuned, of each of its members' presets.
        seed: of folds and training.
        weights: weight of each class in the score.
        pretrain: images to train on first.
        refit: train the chosen members on all images at the end.
        start: a model that is fine-tuned.

    Raises:
        SomasegError: too few images, or not even one member can be trained in the time.
    """
    if facts.annotated < 4:
        raise SomasegError(
            f"{data.path}: {facts.annotated} annotated images; four are the least to train, tune "
            "and score apart"
        )
    reasons: dict[str, str] = {}
    folds = 3 if facts.annotated < 100 else 5
    folds = min(folds, facts.annotated // 2)
    reasons["folds"] = (
        f"{facts.annotated} annotated images: each model learns from "
        f"{facts.annotated - facts.annotated // folds} of them and is scored on the others"
    )
    jobs = hardware.jobs
    reasons["jobs"] = f"{hardware}; one training a {'GPU' if hardware.gpus else 'core'}"
    reasons["weights"] = (
        "given" if weights else "every image weighs as much as another, whatever its class"
    )
    available = budget * TRAINING_SHARE * jobs
    considered = candidates(hardware) if start is None else tuple(seconds)
    trainings = folds + refit
    # Whoever knows cells already learns some of new ones in few steps.
    least = LEAST_STEPS / (6 if start is None else 30)
    chosen, factor = _choose(considered, seconds, available / trainings, least)
    if start is not None:  # it knows cells already: more of the preset's steps bring nothing
        factor = min(factor, 1.0)
        reasons["start_from"] = "given; its own nested score on these folds stands beside"
    reasons["members"] = (
        f"{len(chosen)} of {', '.join(considered)}: {available / 60:.0f} minutes of training in "
        f"all ({budget / 60:.0f} minutes × {jobs} jobs × {TRAINING_SHARE:.0%}), "
        + "; ".join(f"{name} takes {seconds[name]:.2f} s a step" for name in chosen)
    )
    members = []
    for place, name in enumerate(chosen):
        preset = load_preset(name)
        training = TrainSettings.model_validate({**preset.training, "seed": seed})
        steps = max(1, round(training.steps * factor))
        reasons[f"members.{place}.training.steps"] = (
            f"{factor:.2f} × the preset's {training.steps}: "
            f"{steps * seconds[name] / 60:.0f} minutes for each of {folds} folds"
            + (" and all images" if refit else "")
        )
        crop = _crop(training.crop, facts)
        if crop != training.crop:
            reasons[f"members.{place}.training.crop"] = (
                f"the largest image has a side of {_longest(facts)} pixels: "
                f"{crop} instead of {training.crop}"
            )
        members.append(
            PlannedMember(
                name=Path(name).stem,
                preset=name,
                model=dict(preset.model),
                training=training.model_copy(update={"steps": steps, "crop": crop}),
                views="flips" if preset.model["family"] in ("flow", "semantic") else "none",
                start_from=None if start is None else str(start.presets[Path(name)]),
            )
        )
        if facts.overall.diameter is not None and "diameter" in preset.model:
            reasons[f"members.{place}.model"] = (
                f"cells of {facts.overall.diameter.median:.0f} pixels (median) are brought to "
                f"{preset.model['diameter']}"
            )
    if pretrain is not None:
        reasons["pretrain"] = "given; every member is trained on it first, then on the data"
    if refit:
        reasons["refit"] = "given: a smaller, faster model; its score is still that of the folds"
    plan = Plan(
        data=data,
        folds=folds,
        seed=seed,
        jobs=jobs,
        weights=dict(weights) if weights else None,
        pretrain=pretrain,
        refit=refit,
        start_from=None if start is None else str(start.model),
        members=tuple(members),
    )
    return Planned(plan, reasons)


def _choose(
    candidates: Sequence[str], seconds: Mapping[str, float], available: float, least: float
) -> tuple[list[str], float]:
    """Take the first candidates that all fit; all get the same multiple of their steps.

    Args:
        candidates: presets, the most wanted first.
        seconds: a step.
        available: seconds of training for one fold of all members.
        least: share of the steps of the first below which there is too little time.
    """
    costs = {name: load_preset(name).training["steps"] * seconds[name] for name in candidates}
    for count in range(len(candidates), 0, -1):
        chosen = list(candidates[:count])
        factor = available / sum(costs[name] for name in chosen)
        if factor >= LEAST_STEPS or count == 1:
            break
    if factor < least:
        raise SomasegError(
            f"--budget: there is time for {factor:.0%} of the steps that {chosen[0]} takes on this "
            f"machine; give at least {6 * least / factor:.1f} times as much"
        )
    return chosen, min(factor, MOST_STEPS)


def _longest(facts: Fingerprint) -> int:
    return max(max(size.height, size.width) for size in facts.sizes)


def _crop(crop: int, facts: Fingerprint) -> int:
    """Make a crop no larger than what the largest image, doubled, can fill."""
    limit = max(64, 2 * _longest(facts) // 32 * 32)
    return min(crop, limit)
