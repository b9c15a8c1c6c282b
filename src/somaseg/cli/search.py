"""``somaseg search``: let Optuna look for better settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from somaseg.cli.options import (
    AUTO,
    AnnotatedArgument,
    ChannelOption,
    ChannelsOption,
    ClassWeightsOption,
    ClusterOption,
    DeviceOption,
    FoldsOption,
    FoldViewsOption,
    FormatOption,
    FrameOption,
    FromOption,
    ImagesOption,
    SkipOption,
    StepsOption,
    ZOption,
    stack_choice,
    told_config,
)

if TYPE_CHECKING:
    from somaseg.runs.search import Search


def search(
    data: AnnotatedArgument,
    space: Annotated[
        Path,
        typer.Option(
            help="YAML of what to vary, e.g. `training.rate: {low: 1e-4, high: 1e-2, log: true}`.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the search; a begun one goes on.")
    ] = Path("search"),
    trials: Annotated[int, typer.Option(min=1, help="In all, over all sittings.")] = 20,
    model: Annotated[
        str, typer.Option("--model", "-m", help="The preset, or YAML file, that is varied.")
    ] = "flow_lite",
    folds: FoldsOption = 3,
    jobs: Annotated[
        int,
        typer.Option(
            min=0, help="Trials at a time; 0: one a core, one a GPU; of a cluster, all it has."
        ),
    ] = 0,
    steps: StepsOption = None,
    start_from: FromOption = None,
    views: FoldViewsOption = "none",
    weights: ClassWeightsOption = None,
    prune: Annotated[
        bool, typer.Option(help="End trials that fall behind the median after a fold.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of folds, training and the search.")] = 0,
    log: Annotated[
        list[str] | None,
        typer.Option(help="Trackers of each trial: wandb, mlflow.", show_default=False),
    ] = None,
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
    """Search the settings that score best out of fold; each trial is an ordinary run.

    Writes OUT/best.yaml, a preset for `somaseg train DATA --model OUT/best.yaml`; `somaseg predict
    --model OUT` takes the best trial's model. Interrupted, the same command goes on where it was; a
    higher --trials goes on from there. The same folder may be worked on by several commands at
    once. `somaseg ledger OUT` lists the trials.
    """
    from somaseg.cli.progress import FoldBars
    from somaseg.cli.scores import parse_weights
    from somaseg.runs.execute import executor
    from somaseg.runs.run import RunConfig
    from somaseg.runs.search import Search, SearchConfig, run_search
    from somaseg.runs.space import read_space

    config = SearchConfig(
        base=RunConfig.make(
            told_config(
                *(data, format, images, skip_faulty), stack_choice(channel, channels, frame, z)
            ),
            model,
            folds=folds,
            seed=seed,
            steps=steps,
            start_from=start_from,
            views=views,
            log=tuple(log or ()),
        ),
        space=read_space(space),
        weights=parse_weights(weights),
        seed=seed,
        prune=prune,
    )
    with executor(cluster, out, (data, images, start_from)) as found, FoldBars() as report:
        opened = Search.create(out, config)
        run_search(opened, trials, jobs or found.jobs, report, found.execute)
    _print(opened)


def _print(search: "Search") -> None:
    from rich.table import Table

    from somaseg.cli.console import Console

    study = search.study()
    table = Table("trial", "state", "score", *search.config.space, title=str(search.folder))
    best = sorted(study.get_trials(), key=lambda t: (t.state.name != "COMPLETE", -(t.value or 0)))
    for trial in best[:10]:
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in trial.params.values()]
        score = "" if trial.value is None else f"{trial.value:.4f}"
        table.add_row(str(trial.number), trial.state.name.lower(), score, *values)
    console = Console()
    console.print(table)
    console.print(
        "score: nested out-of-fold mAP (a pruned trial's: of its folds so far). Chance flatters "
        "the best of many, the more of them the more."
    )
    if (search.folder / "best.yaml").exists():
        console.print(f"best settings: {search.folder / 'best.yaml'}")
