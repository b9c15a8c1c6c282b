"""``somaseg fit``: from annotated images to a tuned, scored, ensembled segmenter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from somaseg.cli.options import (
    ANNOTATED,
    AUTO,
    ChannelOption,
    ChannelsOption,
    ClassWeightsOption,
    ClusterOption,
    DeviceOption,
    FormatOption,
    FrameOption,
    ImagesOption,
    SkipOption,
    ZOption,
    stack_choice,
)

if TYPE_CHECKING:
    from somaseg.runs.fit import Fitted


PLANNED = (
    "budget",
    "pretrain",
    "start_from",
    "refit",
    "weights",
    "jobs",
    "seed",
    "format",
    "images",
    "skip_faulty",
    "channel",
    "channels",
    "frame",
    "z",
)
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
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Fine-tune this model instead of training families anew: a model file, a run's "
            "folder, or `shipped`. Whether it got better is told, by its own score on these folds.",
            show_default=False,
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
        int,
        typer.Option(
            min=0,
            help="Trainings side by side; 0: one a core, one a GPU; of a cluster, all it has.",
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of folds and training.")] = 0,
    format: FormatOption = AUTO,
    images: ImagesOption = None,
    skip_faulty: SkipOption = False,
    channel: ChannelOption = None,
    channels: ChannelsOption = None,
    frame: FrameOption = None,
    z: ZOption = None,
    device: DeviceOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Plan, cross-validate several families, tune, ensemble, score: all in one go.

    The data are audited; speed is measured; RUN/plan.yaml says what will be done in the time given
    and why. Then every member is trained on every fold, and everything else is decided by their
    out-of-fold predictions. `somaseg predict IMAGES --model RUN` uses the outcome.

    Stopped (Ctrl-C, power cut), `somaseg fit --resume --out RUN` goes on where it was.
    """
    from somaseg.cli.progress import FoldBars
    from somaseg.cli.scores import parse_weights
    from somaseg.folders import PLAN
    from somaseg.runs.execute import executor
    from somaseg.runs.fit import fit_data, make_ready

    if resume or plan_file:
        _refuse_planned(context, plan_file or out / PLAN)
    asked = {
        "budget": budget,
        "plan": plan_file,
        "resume": resume,
        "pretrain": pretrain,
        "start_from": start_from,
        "refit": refit,
        "weights": parse_weights(weights),
        "jobs": jobs,
        "seed": seed,
        "format": format,
        "images": images,
        "skip_faulty": skip_faulty,
        "choice": stack_choice(channel, channels, frame, z),
        "tell": typer.echo,
    }
    try:
        with executor(cluster, out, (data, images, pretrain)) as found:
            asked["room"] = found.jobs if found.cluster else 0
            if plan_only:
                make_ready(data, out, **asked)  # type: ignore[arg-type]
                typer.echo(f"{out / PLAN}: edit it, then run `somaseg fit --resume --out {out}`")
                return
            with FoldBars() as report:
                fitted = fit_data(data, out, report=report, execute=found.execute, **asked)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        typer.echo(f"stopped; go on with: somaseg fit --resume --out {out}", err=True)
        raise typer.Exit(130) from None
    _print(fitted, str(out))
    if fitted.verdict:
        typer.echo(fitted.verdict)
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
            raise SomasegError(f"--{name.replace('_', '-')}: {plan} decides this; change it there")


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
    if fitted.start is not None:
        rows.insert(0, ("as it was", fitted.start.nested))
    rows.append((chosen.choice.label, chosen.nested))
    for name, score in rows:
        if score is chosen.nested:
            table.add_section()
        weighted = "" if score.weighted is None else f"{score.weighted:.3f}"
        cells = [f"{score.by_class[key]:.3f}" for key in names]
        table.add_row(name, *cells, f"{score.map:.3f}", weighted)
    Console().print(table)
