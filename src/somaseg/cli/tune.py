"""``somaseg tune``: find the settings by class that score best out of fold."""

from pathlib import Path
from typing import Annotated

import typer


def tune(
    run: Annotated[Path, typer.Argument(help="A run with all folds finished.", show_default=False)],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weight of each class in the score, e.g. cort=320,shsy5y=155,astro=131.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tune score, mask threshold and sizes by class on a run's out-of-fold predictions.

    `somaseg train` does this at its end; here it is for a run whose folds were predicted elsewhere.
    Writes RUN/settle.json, RUN/scores.json, RUN/tuning.png, and the settings into the model files.
    """
    from somaseg.cli.scores import parse_weights, print_run_scores
    from somaseg.experiments.cross_validate import score_run
    from somaseg.experiments.store import Run

    opened = Run.open(run)
    print_run_scores(score_run(opened, opened.dataset(), parse_weights(weights)), str(run))
