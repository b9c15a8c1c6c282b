"""``somaseg fit``: from annotated images to a tuned, scored, ensembled segmenter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from somaseg.cli.options import (
    ANNOTATED,
    AUTO,
    ClassWeightsOption,
    DeviceOption,
    FormatOption,
    ImagesOption,
    data_config,
)

if TYPE_CHECKING:
    from somaseg.data.types import Dataset
    from somaseg.runs.fit import Fitted
    from somaseg.runs.plan import Plan
    from somaseg.runs.run import DataConfig


PLANNED = ("budget", "pretrain", "refit", "weights", "jobs", "seed", "format", "images")
"""Options that make a plan; where one stands, it decides."""


def fit(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(
            help=ANNOTATED,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the experiment; see RUN/plan.yaml.")
    ] = Path("run"),
    budget: Annotated[
        str, typer.Option(help="Time for all of it: 90m, 2h, 1d.", show_default=True)
    ] = "2h",
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="A plan that you have edited, instead of a fresh one."),
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Write RUN/plan.yaml, and stop to let you edit it.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the plan that stands in RUN.")
    ] = False,
    pretrain: Annotated[
        Path | None,
        typer.Option(
            help="Other annotated images to train on first, such as LIVECell.", show_default=False
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Train the chosen members on all images at the end: a smaller, faster model.",
        ),
    ] = False,
    weights: ClassWeightsOption = None,
    jobs: Annotated[
        int, typer.Option(min=0, help="Trainings side by side; 0: one a core, one a GPU.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of folds and training.")] = 0,
    format: FormatOption = AUTO,
    images: ImagesOption = None,
    device: DeviceOption = None,
) -> None:
    """Plan, cross-validate several families, tune, ensemble, score: all in one go.

    The data are audited; speed is measured; RUN/plan.yaml says what will be done in the time given
    and why. Then every member is trained on every fold, and everything else is decided by their
    out-of-fold predictions. `somaseg predict IMAGES --model RUN` uses the outcome.

    Stopped (Ctrl-C, power cut), `somaseg fit --resume --out RUN` goes on where it was.
    """
    from somaseg.cli.progress import FoldBars
    from somaseg.errors import SomasegError
    from somaseg.runs.fit import check_data
    from somaseg.runs.fit import fit as carry_out
    from somaseg.runs.outcome import write_outcome
    from somaseg.runs.plan import read_plan

    stands = out / "plan.yaml"
    if resume and not stands.exists():
        raise SomasegError(
            f"{stands}: not there, so there is nothing to resume; leave --resume out"
        )
    if resume or plan_file:
        _refuse_planned(context, plan_file or stands)
        plan = read_plan(plan_file or stands)
        if data is not None and data.resolve() != Path(plan.data.path).resolve():
            raise SomasegError(
                f"{data}: {plan_file or stands} learns from {plan.data.path}; leave DATA out, or "
                "give another --out"
            )
        if plan_file and plan_file.resolve() != stands.resolve():
            _copy(plan_file, stands)
    else:
        if data is None:
            raise SomasegError("give the folder of your annotated images: somaseg fit DATA")
        if stands.exists():
            raise SomasegError(
                f"{stands}: stands already; add --resume to go on with it, or give another --out"
            )
        plan = _make(
            data_config(data, format, images), out, budget, pretrain, refit, weights, jobs, seed
        )
    if plan_only:
        typer.echo(f"{stands}: edit it, then run `somaseg fit --resume --out {out}`")
        return
    found = check_data(out, plan.data)
    typer.echo(
        f"{plan.data.path}: {found.dataset!r}; {len(found.faults)} oddities ({out}/faults.json)"
    )
    try:
        with FoldBars() as report:
            fitted = carry_out(out, plan, report)
    except KeyboardInterrupt:
        typer.echo(f"stopped; go on with: somaseg fit --resume --out {out}", err=True)
        raise typer.Exit(130) from None
    _print(fitted, str(out))
    write_outcome(out, plan, fitted)
    typer.echo(
        f"the model: {out}/model.safetensors (somaseg predict IMAGES --model {out}); "
        f"all of it to look at: {out}/report.html"
    )


def _refuse_planned(context: typer.Context, plan: Path) -> None:
    """Refuse options that a plan has decided already, rather than leave them out silently."""
    from somaseg.errors import SomasegError

    for name in PLANNED:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise SomasegError(f"--{name}: {plan} decides this; change it there")


def _make(
    where: "DataConfig",
    out: Path,
    budget: str,
    pretrain: Path | None,
    refit: bool,
    weights: str | None,
    jobs: int,
    seed: int,
) -> "Plan":
    """Look at the data and the machine, plan, and write the plan down."""
    import dataclasses

    from rich.progress import track

    from somaseg.cli.scores import parse_weights
    from somaseg.data.fingerprint import fingerprint
    from somaseg.models.training.loop import default_threads
    from somaseg.runs.hardware import find_hardware
    from somaseg.runs.plan import candidates, make_plan, write_plan
    from somaseg.runs.run import load_annotated
    from somaseg.runs.speed import seconds_per_step
    from somaseg.scoring.competition import check_weights

    seconds_given = parse_duration(budget)
    class_weights = parse_weights(weights)
    dataset: Dataset = load_annotated(where)
    if class_weights is not None:
        check_weights(class_weights, dataset.names)
    hardware = find_hardware()
    if jobs:
        hardware = dataclasses.replace(hardware, cores=jobs) if not hardware.gpus else hardware
    threads = default_threads(hardware.jobs)
    names = candidates(hardware)
    speed = {
        name: seconds_per_step(name, dataset.samples, threads)
        for name in track(names, description="measuring speed", transient=True)
    }
    other = data_config(pretrain, "auto", None) if pretrain else None
    if other is not None:
        load_annotated(other)  # what is wrong with it is told now, not after the planning
    planned = make_plan(
        where,
        fingerprint(dataset),
        hardware,
        seconds_given,
        speed,
        seed=seed,
        weights=class_weights,
        pretrain=other,
        refit=refit,
    )
    write_plan(out / "plan.yaml", planned)
    for name, reason in planned.reasons.items():
        typer.echo(f"  {name}: {reason}")
    return planned.plan


def parse_duration(text: str) -> float:
    """Seconds of ``90m``, ``2h``, ``1.5d`` or ``3600s``.

    Raises:
        SomasegError: it is none.
    """
    from somaseg.errors import SomasegError

    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = text.strip()[:-1], text.strip()[-1:]
    try:
        seconds = float(number) * units[unit]
    except (ValueError, KeyError):
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise SomasegError(f"--budget {text!r}: write a time such as 90m, 2h or 1d")
    return seconds


def _copy(source: Path, target: Path) -> None:
    from somaseg.files import write_text

    write_text(target, source.read_text("utf-8"))


def _print(fitted: "Fitted", title: str) -> None:
    """Print the members and the ensemble, by class."""
    from rich.table import Table

    from somaseg.cli.console import Console

    chosen = fitted.chosen
    names = list(chosen.nested.classes)
    table = Table(
        "",
        *names,
        "all images",
        "weighted",
        title=f"{title}: mAP out of fold, nested",
        title_justify="left",
    )
    rows = [(name, scores.nested) for name, scores in fitted.members.items()]
    rows.append((chosen.choice.label, chosen.nested))
    for name, score in rows:
        if score is chosen.nested:
            table.add_section()
        weighted = "" if score.weighted is None else f"{score.weighted:.3f}"
        cells = [f"{score.by_class[key]:.3f}" for key in names]
        table.add_row(name, *cells, f"{score.map:.3f}", weighted)
    Console().print(table)
