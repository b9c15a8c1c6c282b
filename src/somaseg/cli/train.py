"""``somaseg train``."""

from pathlib import Path
from typing import Annotated, Any

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

RunOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the run; an unfinished one is taken up.")
]


def train(
    data: AnnotatedArgument,
    out: RunOption = Path("run"),
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A preset (`somaseg models`), your YAML file, or a model file to train on.",
        ),
    ] = "flow_lite",
    folds: FoldsOption = 3,
    fold: Annotated[
        list[int] | None,
        typer.Option(
            help="Train this fold only (from 0; may be given again); the score is of its images.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=0, help="Folds at a time; 0: one a core, one a GPU; of a cluster, all it has."
        ),
    ] = 0,
    steps: StepsOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a field of the preset: --set training.batch=8 --set model.diameter=20",
            show_default=False,
        ),
    ] = None,
    start_from: FromOption = None,
    train_on: Annotated[
        Path | None,
        typer.Option(
            help="Other annotations of the same images to learn from, such as a mended copy "
            "(`somaseg data clean`); the score is still that on DATA.",
            show_default=False,
        ),
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Then train on all images, for predicting new ones.")
    ] = False,
    views: FoldViewsOption = "none",
    weights: ClassWeightsOption = None,
    seed: Annotated[int, typer.Option(help="Of folds and training.")] = 0,
    log: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard (default), wandb or mlflow.", show_default=False),
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
    """Cross-validate a model on annotated images, and score it on images it has not seen.

    Each fold's model is trained on the other folds' images and predicts its own; the score is of
    these predictions. Interrupted (Ctrl-C, power cut), the same command goes on where it was.
    """
    from somaseg.cli.progress import FoldBars
    from somaseg.cli.scores import parse_weights, print_run_scores
    from somaseg.runs.cross_validate import train_run
    from somaseg.runs.execute import executor
    from somaseg.runs.run import RunConfig
    from somaseg.runs.sources import DataConfig

    class_weights = parse_weights(weights)
    if start_from is None and model.endswith(".safetensors"):
        start_from = Path(model)
    choice = stack_choice(channel, channels, frame, z)
    config = RunConfig.make(
        told_config(data, format, images, skip_faulty, choice),
        model,
        folds=folds,
        seed=seed,
        steps=steps,
        changes=dict(map(_parse_change, settings or ())),
        start_from=start_from,
        train_on=DataConfig.at(train_on, skip_faulty=skip_faulty, choice=choice)
        if train_on
        else None,
        views=views,
        log=tuple(log or ["tensorboard"]),
    )
    reads = (data, images, train_on, start_from)
    with executor(cluster, out, reads) as found, FoldBars() as report:
        run, scores = train_run(
            *(out, config, jobs or found.jobs, report),
            refit=refit,
            only=fold,
            weights=class_weights,
            execute=found.execute,
        )
    print_run_scores(scores, str(run.folder))
    took = run.scores()["training"]
    typer.echo(
        f"{took['parameters'] / 1e6:.1f} M parameters; trained {took['seconds'] / 60:.1f} minutes, "
        f"{took['cpu_seconds'] / 60:.1f} of processor time; scores in {run.folder}/scores.json"
    )


def _parse_change(text: str) -> tuple[str, Any]:
    """Read ``a.b=value``; the value is read as YAML."""
    from somaseg.errors import SomasegError
    from somaseg.files import parse_yaml

    name, equals, value = text.partition("=")
    if not equals or name.strip().split(".")[0] not in ("model", "training"):
        raise SomasegError(f"--set {text}: write it as training.FIELD=VALUE or model.FIELD=VALUE")
    return name.strip(), parse_yaml(value, f"--set {text}")
