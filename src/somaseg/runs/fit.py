"""From annotated images to a model that one can defend: everything, in one go, resumable.

::

    RUN/plan.yaml            what is done and why; change it and run again
    RUN/faults.json          what the audit of the data found
    RUN/pretrain/NAME/       a member's training on other images, if planned
    RUN/members/NAME/        each member: an ordinary run (config, folds, models, raw predictions)
    RUN/ensemble.yaml        how the members are joined and settled
    RUN/scores.json          the score of that, nested, and of each member
    RUN/model.safetensors    the bundle that `somaseg predict --model RUN` takes
    RUN/report.html          all of it to look at

A stage whose files are there is not done again. Trainings go on from their checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from somaseg.data.audit import Audit, audit
from somaseg.data.types import Dataset
from somaseg.decide import Choice, Decision, decide, dump_settings
from somaseg.errors import SomasegError
from somaseg.files import write_json, write_text
from somaseg.runs.cross_validate import score_run, train_parts
from somaseg.runs.execute import Report
from somaseg.runs.plan import Member, Plan
from somaseg.runs.run import DataConfig, Run, RunConfig


@dataclass(frozen=True)
class Fitted:
    """What a whole experiment found.

    Attributes:
        members: out-of-fold scores of each member by name.
        chosen: how they are joined, and the score of that.
    """

    members: dict[str, Decision]
    chosen: Decision


def check_data(folder: Path, data: DataConfig) -> Audit:
    """Audit the data; write what was found; stop where training would fail.

    Raises:
        SomasegError: the data have errors.
    """
    found = audit(data.path, data.format, data.images)
    faults = [
        {"kind": f.kind, "severity": f.severity, "where": f.file, "row": f.row, "image": f.image}
        | {"message": f.message}
        for f in found.faults
    ]
    write_json(folder / "faults.json", faults)
    if found.errors:
        raise SomasegError(
            f"{data.path}: {len(found.errors)} faults would make training fail, the first: "
            f"{found.errors[0]}; `somaseg data check` lists all"
        )
    return found


def fit(folder: str | Path, plan: Plan, report: Report) -> Fitted:
    """Carry out a plan; what is done already stays.

    Args:
        folder: of the whole experiment.
        plan: what to do.
        report: told what the trainings tell.

    Raises:
        SomasegError: a training failed, the disk is too small, or the folder holds another plan's
            runs.
    """
    folder = Path(folder)
    if plan.pretrain is not None:
        first = [_pretraining(folder, plan, member) for member in plan.members]
        _train([(run, None) for run in first], plan.jobs, report)
    runs = {member.name: _run(folder, plan, member) for member in plan.members}
    tasks: list[tuple[Run, int | None]] = [
        # Fold after fold, so that a first score of all members is there early.
        (run, fold)
        for fold in range(plan.folds)
        for run in runs.values()
    ]
    _train(tasks, plan.jobs, report)
    fitted = join_members(folder, plan, runs)
    if plan.refit:
        chosen = fitted.chosen.choice.member_weights
        _train([(runs[name], None) for name in chosen], plan.jobs, report)
    return fitted


def join_members(folder: Path, plan: Plan, runs: Mapping[str, Run]) -> Fitted:
    """Tune every member, choose the ensemble, and write both down."""
    dataset = next(iter(runs.values())).dataset()
    folds = next(iter(runs.values())).folds(dataset)
    scores = {name: score_run(run, dataset, plan.weights) for name, run in runs.items()}
    chosen = decide(
        {name: run.raw_predictions() for name, run in runs.items()},
        dataset,
        folds,
        methods=plan.methods,
        class_weights=plan.weights,
    )
    write_text(folder / "ensemble.yaml", _described(chosen))
    fitted = Fitted(scores, chosen)
    write_json(folder / "scores.json", _scores(fitted, runs, dataset))
    return fitted


def member_runs(folder: str | Path, plan: Plan) -> dict[str, Run]:
    """Open the runs of all members, by name.

    Raises:
        SomasegError: a member has not begun.
    """
    return {m.name: Run.open(Path(folder) / "members" / m.name) for m in plan.members}


def _pretraining(folder: Path, plan: Plan, member: Member) -> Run:
    assert plan.pretrain is not None
    steps = max(1, round(member.training.steps * plan.pretrain_share))
    config = RunConfig(
        data=plan.pretrain,
        folds=2,  # never used: the model learns from all of these images
        seed=plan.seed,
        preset=member.preset,
        model=member.model,
        training=member.training.model_copy(update={"steps": steps}),
        start_from=member.start_from,
        log=("tensorboard",),
    )
    return Run.create(folder / "pretrain" / member.name, config)


def _run(folder: Path, plan: Plan, member: Member) -> Run:
    start = member.start_from
    if plan.pretrain is not None:
        start = str(Run.open(folder / "pretrain" / member.name).model_path(None).resolve())
    config = RunConfig(
        data=plan.data,
        folds=plan.folds,
        seed=plan.seed,
        preset=member.preset,
        model=member.model,
        training=member.training,
        start_from=start,
        views=member.views,
        log=("tensorboard",),
    )
    return Run.create(folder / "members" / member.name, config)


def _train(parts: list[tuple[Run, int | None]], jobs: int, report: Report) -> None:
    named = [(f"{run.folder.name} {run.part(fold).name}", run, fold) for run, fold in parts]
    train_parts(named, jobs, report)


def _described(chosen: Decision) -> str:
    """Lay out the choice as YAML."""
    fields = {
        "choice": _fields(chosen.choice),
        "considered": [
            {"what": what, "score": round(score, 4)} for what, score in chosen.considered
        ],
        "by_fold": {fold: _fields(choice) for fold, choice in chosen.by_fold.items()},
    }
    head = "# Chosen on all images (for new ones), and on all but each fold's (for the score).\n"
    return head + yaml.safe_dump(fields, sort_keys=False)


def _fields(choice: Choice) -> dict[str, Any]:
    return {
        "method": choice.method,
        "members": choice.member_weights,
        "settings": dump_settings(choice.settings),
        "score": round(choice.score, 4),
    }


def _scores(fitted: Fitted, runs: Mapping[str, Run], dataset: Dataset) -> dict[str, Any]:
    chosen = fitted.chosen
    return {
        "nested": chosen.nested.to_json(),
        "optimistic": chosen.optimistic.to_json(),
        "chosen": chosen.choice.label,
        "members": {
            name: {
                "nested": scores.nested.to_json(),
                "optimistic": scores.optimistic.to_json(),
                "training": runs[name].scores()["training"],
            }
            for name, scores in fitted.members.items()
        },
        "images": len(dataset),
    }
