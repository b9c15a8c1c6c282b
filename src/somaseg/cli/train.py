"""``somaseg train``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from somaseg.cli.options import (
    AUTO,
    AnnotatedArgument,
    ClassWeightsOption,
    DeviceOption,
    FoldsOption,
    FoldViewsOption,
    FormatOption,
    FromOption,
    ImagesOption,
    StepsOption,
    data_config,
)

RunOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the run; an unfinished one is taken up.")
]


def train(
    data: AnnotatedArgument,
    out: RunOption = Path("run"),
    model: Annotated[
        str, typer.Option("--model", "-m", help="A preset (`somaseg models`) or your YAML file.")
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
        int, typer.Option(min=0, help="Folds at a time; 0: one a core, one a GPU.")
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
    device: DeviceOption = None,
) -> None:
    """Cross-validate a model on annotated images, and score it on images it has not seen.

    Each fold's model is trained on the other folds' images and predicts its own; the score is of
    these predictions. Interrupted (Ctrl-C, power cut), the same command goes on where it was.
    """
    from somaseg.cli.progress import FoldBars
    from somaseg.cli.scores import parse_weights, print_run_scores
    from somaseg.models.registry import load_preset, validate
    from somaseg.runs.cross_validate import cross_validate, score_run
    from somaseg.runs.execute import default_jobs
    from somaseg.runs.run import DataConfig, Run, RunConfig

    class_weights = parse_weights(weights)
    preset = load_preset(model)
    fields: dict[str, Any] = {
        "data": data_config(data, format, images),
        "folds": folds,
        "seed": seed,
        "preset": model,
        "model": dict(preset.model),
        "training": {"seed": seed, **preset.training},
        "start_from": str(start_from.resolve()) if start_from else None,
        "train_on": DataConfig(path=str(train_on.resolve())) if train_on else None,
        "views": views,
        "log": tuple(log or ["tensorboard"]),
    }
    if steps is not None:
        fields["training"]["steps"] = steps
    for change in settings or []:
        _set(fields, change)
    run = Run.create(out, validate(RunConfig, fields, "settings"))
    with FoldBars() as report:
        cross_validate(run, jobs or default_jobs(), report, refit, fold)
    print_run_scores(score_run(run, run.dataset(), class_weights), str(run.folder))
    took = run.scores()["training"]
    typer.echo(
        f"{took['parameters'] / 1e6:.1f} M parameters; trained {took['seconds'] / 60:.1f} minutes, "
        f"{took['cpu_seconds'] / 60:.1f} of processor time; scores in {run.folder}/scores.json"
    )


def _set(fields: dict[str, Any], change: str) -> None:
    """Apply ``a.b=value`` to nested settings; the value is read as YAML."""
    from somaseg.errors import SomasegError
    from somaseg.files import parse_yaml

    path, equals, text = change.partition("=")
    *parents, key = path.strip().split(".")
    if not equals or not parents or parents[0] not in ("model", "training"):
        raise SomasegError(f"--set {change}: write it as training.FIELD=VALUE or model.FIELD=VALUE")
    at = fields
    for parent in parents:
        at = at.setdefault(parent, {})
    at[key] = parse_yaml(text, f"--set {change}")
