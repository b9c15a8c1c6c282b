"""From annotated images to a model that one can defend: everything, in one go, resumable.

::

    RUN/plan.yaml            what is done and why; change it and run again
    RUN/faults.json          what the audit of the data found
    RUN/pretrain/NAME/       a member's training on other images, if planned
    RUN/members/NAME/        each member: an ordinary run (config, folds, models, raw predictions)
    RUN/choice.yaml          how the members are joined and settled
    RUN/scores.json          the score of that, nested, and of each member
    RUN/model.safetensors    the bundle that `somaseg predict --model RUN` takes
    RUN/report.html          all of it to look at

A stage whose files are there is not done again. Trainings go on from their checkpoints.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from somaseg.data.audit import Audit, audit
from somaseg.data.axes import Choice
from somaseg.decide import Decision, decide
from somaseg.errors import SomasegError
from somaseg.files import is_there, write_json, write_text
from somaseg.folders import CHOICE, PLAN, SCORES, hold
from somaseg.models.registry import Preset
from somaseg.runs.cross_validate import leave_model, score_run, train_parts
from somaseg.runs.execute import Execute, Report, execute
from somaseg.runs.outcome import describe_choice, scores_of, write_outcome
from somaseg.runs.plan import Plan, PlannedMember, parse_duration, plan_for
from somaseg.runs.plan_file import read_plan, write_plan
from somaseg.runs.run import Run, RunConfig
from somaseg.runs.sources import DataConfig
from somaseg.runs.starting import prepare_start, score_start, verdict


@dataclass(frozen=True)
class Fitted:
    """What a whole experiment found.

    Attributes:
        folder: where all of it is; ``somaseg.load(folder)`` segments new images.
        members: out-of-fold scores of each member by name.
        chosen: how they are joined, and the score of that.
        start: score of the model that was fine-tuned, as it was; none where none was.
    """

    folder: Path
    members: dict[str, Decision]
    chosen: Decision
    start: Decision | None = None

    @property
    def verdict(self) -> str:
        """Whether it is better than the model that it started from; empty where there is none."""
        return "" if self.start is None else verdict(self.start.nested, self.chosen.nested)


def fit_data(
    data: str | Path | None = None,
    out: str | Path = "run",
    *,
    budget: str | float = "2h",
    plan: str | Path | None = None,
    resume: bool = False,
    report: Report = lambda name, event: None,
    tell: Callable[[str], None] = lambda line: None,
    execute: Execute = execute,
    **planned: Any,
) -> Fitted:
    """Plan, cross-validate several families, tune, ensemble and score: what `somaseg fit` does.

    Args:
        data: the annotated images; with a plan they may be left out.
        out: folder of the experiment; ``plan.yaml`` in it says what is done, and why.
        budget: time for all of it, such as ``"90m"``, ``"2h"``, ``"1d"``, or seconds.
        plan: a plan file that you have edited, instead of a fresh one.
        resume: go on with the plan that stands in ``out``.
        report: called as ``report(task, event)`` with what the trainings tell.
        tell: called with lines on what is decided and found.
        execute: runs the trainings; by default on this machine.
        planned: what else decides a fresh plan; see :func:`make_ready`.

    Returns:
        scores of the members and of what was chosen.

    Raises:
        SomasegError: a folder that holds something else or that another process writes to, data
            that cannot be trained on, too little time, or a training that failed.
    """
    out = Path(out)
    with hold(out):
        ready = make_ready(data, out, budget=budget, plan=plan, resume=resume, tell=tell, **planned)
        found = check_data(out, ready.data)
        for fault in found.errors:
            tell(f"left out: {fault}")
        oddities = f"{len(found.faults)} oddities ({out}/faults.json)"
        tell(f"{ready.data.path}: {found.dataset!r}; {oddities}")
        fitted = fit(out, ready, report, execute)
        write_outcome(out, ready, fitted)
    return fitted


def make_ready(
    data: str | Path | None,
    out: str | Path,
    *,
    budget: str | float = "2h",
    plan: str | Path | None = None,
    resume: bool = False,
    pretrain: str | Path | None = None,
    refit: bool = False,
    weights: Mapping[str, float] | None = None,
    jobs: int = 0,
    seed: int = 0,
    format: str = "auto",
    images: str | Path | None = None,
    skip_faulty: bool = False,
    choice: Choice | None = None,
    start_from: str | Path | None = None,
    room: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Read the plan that is meant, or make one; leave it in the folder.

    Args:
        data, out, budget, plan, resume, tell: see :func:`fit_data`.
        pretrain: other annotated images to train on first.
        refit: train the chosen members on all images at the end: a smaller, faster model.
        weights: weight of each class in the score that decides.
        jobs: trainings side by side; 0: one a core, one a GPU.
        seed: of folds and training.
        format: of the data; ``auto`` looks what is there.
        images: folder of the images, if they lie elsewhere.
        skip_faulty: learn from the sound part of the data, and of those to train on first.
        choice: what of stacks to learn from: channels, a frame, a slice; also of the data to train
            on first. Without channels, those of ``start_from``.
        start_from: a model to fine-tune instead of training families anew: ``shipped``, a model
            file, or the folder of a run, a fit or an ensemble.
        room: trainings side by side that a cluster has room for; 0: this machine trains.

    Raises:
        SomasegError: nothing to resume, a plan of other data, or one that stands already.
    """
    out = Path(out)
    stands = out / PLAN
    if resume and not stands.exists():
        raise SomasegError(
            f"{stands}: not there, so there is nothing to resume; leave --resume out"
        )
    if resume or plan is not None:
        source = Path(plan) if plan is not None else stands
        read = read_plan(source)
        if data is not None and not is_there(read.data.path):  # moved since
            text = source.read_text("utf-8").replace(read.data.path, str(Path(data).resolve()))
            write_text(stands, text)
            source, read = stands, read_plan(stands)
        if data is not None and Path(data).resolve() != Path(read.data.path).resolve():
            raise SomasegError(
                f"{data}: {source} learns from {read.data.path}; leave DATA out, or give another "
                "--out"
            )
        if source.resolve() != stands.resolve():
            write_text(stands, source.read_text("utf-8"))
        return read
    if data is None:
        raise SomasegError("give the folder of your annotated images: somaseg fit DATA")
    if stands.exists():
        raise SomasegError(
            f"{stands}: stands already; add --resume to go on with it, or give another --out"
        )
    start = None if start_from is None else prepare_start(start_from, out)
    if start is not None and not (choice or Choice()).inputs:
        choice = replace(choice or Choice(), channels=start.channels)
    made = plan_for(
        DataConfig.at(data, format, images, skip_faulty, choice),
        parse_duration(budget) if isinstance(budget, str) else float(budget),
        jobs=jobs,
        seed=seed,
        weights=weights,
        pretrain=None
        if pretrain is None
        else DataConfig.at(pretrain, skip_faulty=skip_faulty, choice=choice),
        refit=refit,
        room=room,
        start=start,
        tell=tell,
    )
    write_plan(stands, made)
    for name, reason in made.reasons.items():
        tell(f"  {name}: {reason}")
    return made.plan


def check_data(folder: Path, data: DataConfig) -> Audit:
    """Audit the data; write what was found; stop where training would fail.

    Raises:
        SomasegError: the data have errors.
    """
    found = audit(data.path, data.format, data.images, choice=data.choice)
    faults = [
        {"kind": f.kind, "severity": f.severity, "where": f.file, "row": f.row, "image": f.image}
        | {"message": f.message}
        for f in found.faults
    ]
    write_json(folder / "faults.json", faults)
    if found.errors and not data.skip_faulty:
        raise SomasegError(
            f"{data.path}: {len(found.errors)} faults would make training fail, the first: "
            f"{found.errors[0]}; `somaseg data check` lists all, `--skip-faulty` leaves them out"
        )
    return found


def fit(folder: str | Path, plan: Plan, report: Report, execute: Execute = execute) -> Fitted:
    """Carry out a plan; what is done already stays.

    Args:
        folder: of the whole experiment.
        plan: what to do.
        report: told what the trainings tell.
        execute: runs the trainings; by default on this machine.

    Raises:
        SomasegError: a training failed, the disk is too small, or the folder holds another plan's
            runs.
    """
    folder = Path(folder)
    with hold(folder):
        return _carry_out(folder, plan, report, execute)


def _carry_out(folder: Path, plan: Plan, report: Report, execute: Execute) -> Fitted:
    if plan.pretrain is not None:
        first = [_run(folder, plan, member, plan.pretrain) for member in plan.members]
        _train([(run, None) for run in first], plan.jobs, report, execute)
    runs = {member.name: _run(folder, plan, member) for member in plan.members}
    tasks: list[tuple[Run, int | None]] = [
        # Fold after fold, so that a first score of all members is there early.
        (run, fold)
        for fold in range(plan.folds)
        for run in runs.values()
    ]
    _train(tasks, plan.jobs, report, execute)
    fitted = join_members(folder, plan, runs, report)
    if plan.refit:
        chosen = [runs[name] for name in fitted.chosen.choice.member_weights]
        _train([(run, None) for run in chosen], plan.jobs, report, execute)
        for run in chosen:
            leave_model(run)
    return fitted


def join_members(folder: Path, plan: Plan, runs: Mapping[str, Run], report: Report) -> Fitted:
    """Tune every member, choose the ensemble, score what was started from, and write all down."""
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
    write_text(folder / CHOICE, describe_choice(chosen))
    start = None
    if plan.start_from is not None:
        path = Path(plan.start_from)
        start = score_start(path, folder, dataset, folds, plan.weights, report)
    fitted = Fitted(folder, scores, chosen, start)
    write_json(folder / SCORES, scores_of(fitted, runs, dataset))
    return fitted


def _run(
    folder: Path, plan: Plan, member: PlannedMember, pretrain: DataConfig | None = None
) -> Run:
    """Make or take up the run of a member, or that of its training on other images."""
    training = member.training.model_dump(mode="json")
    place, start = folder / "members" / member.name, member.start_from
    if pretrain is not None:
        place = folder / "pretrain" / member.name
        training["steps"] = max(1, round(member.training.steps * plan.pretrain_share))
    elif plan.pretrain is not None:
        start = str(Run.open(folder / "pretrain" / member.name).model_path(None))
    config = RunConfig.make(
        pretrain or plan.data,
        member.preset,
        loaded=Preset(model=member.model, training=training),
        folds=2 if pretrain else plan.folds,  # unused there: the model learns from all images
        seed=plan.seed,
        start_from=start,
        views="none" if pretrain else member.views,
        log=("tensorboard",),
    )
    return Run.create(place, config)


def _train(
    parts: list[tuple[Run, int | None]], jobs: int, report: Report, execute: Execute
) -> None:
    named = [(f"{run.folder.name} {run.part(fold).name}", run, fold) for run, fold in parts]
    train_parts(named, jobs, report, execute)
