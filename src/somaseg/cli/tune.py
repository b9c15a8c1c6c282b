"""``somaseg tune``: find the settings by class that score best out of fold."""

from pathlib import Path
from typing import Annotated

import typer

from somaseg.cli.options import (
    ClassWeightsOption,
)


def tune(
    run: Annotated[
        Path, typer.Argument(help="A run with a finished fold at least.", show_default=False)
    ],
    weights: ClassWeightsOption = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="The settings to tune, separated by commas; the others keep their defaults. All "
            "are score, mask_threshold, nms_iou, min_area, max_area, order, offset.",
            show_default=False,
        ),
    ] = None,
    rescore: Annotated[
        bool,
        typer.Option(
            "--rescore",
            help="Also learn to score masks by shape and neighbours (needs somaseg[xgboost]); kept "
            "if it is better in the nested estimate.",
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Where the run's images are, if moved.", show_default=False),
    ] = None,
) -> None:
    """Tune thresholds, sizes and overlaps by class on a run's out-of-fold predictions.

    `somaseg train` does this at its end; here it is for a run whose folds were predicted elsewhere,
    or with other options. Writes RUN/settle.json, RUN/scores.json, RUN/tuning.png, the settings
    into the model files, and RUN/rescore.json if rescoring helps.
    """
    from somaseg.cli.scores import parse_weights, print_run_scores
    from somaseg.decide.grid import SEARCHED
    from somaseg.runs.cross_validate import score_run
    from somaseg.runs.run import Run

    opened = Run.open(run)
    if data is not None:
        old = opened.config.data
        opened = opened.repoint(old.at(data, old.format, skip_faulty=old.skip_faulty))
    chosen = SEARCHED if search is None else [name.strip() for name in search.split(",")]
    scores = score_run(opened, opened.dataset(), parse_weights(weights), chosen, rescore)
    print_run_scores(scores, str(run))
