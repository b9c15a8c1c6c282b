"""A run's scores and a few of its images, for the trackers that its trainings log to."""

import re

import numpy as np

from somaseg.data.types import Dataset
from somaseg.decide import Decision
from somaseg.models.training.logs import Loggers
from somaseg.report.overlays import side_by_side
from somaseg.runs.run import Run


def track_scores(run: Run, dataset: Dataset, scores: Decision) -> None:
    """Log the scores by class, and truth beside prediction of the worst, median and best image.

    They go to a tracker's run of their own, ``NAME-scores``, beside those of the folds; scoring
    again replaces them.

    Raises:
        SomasegError: a tracker cannot be opened.
    """
    name = run.folder.resolve().name
    config = run.config.model_dump(mode="json")
    loggers = Loggers(run.folder, f"{name}-scores", config, run.config.log, run.folder)
    loggers.begin()
    loggers.summary(_figures(scores))
    images = sorted(scores.nested.images, key=lambda image: image.score)
    ranks = {"worst": 0, "median": len(images) // 2, "best": len(images) - 1}
    for rank, at in ranks.items():
        sample = dataset[images[at].id]
        found = scores.found[sample.id]
        picture = side_by_side(sample.image(), sample.annotated(), found)
        loggers.image(f"overlays/{rank}", np.ascontiguousarray(picture))
    loggers.close()


def _figures(scores: Decision) -> dict[str, float]:
    out: dict[str, float] = {}
    for kind in ("nested", "untuned", "optimistic"):
        score = getattr(scores, kind)
        out[f"{kind}/map"] = score.map
        if score.weighted is not None:
            out[f"{kind}/weighted"] = score.weighted
        for name, value in score.by_class.items():
            # Trackers take few other characters in a name.
            plain = re.sub(r"[^\w .-]", "_", name)
            out[f"{kind}/class {plain}"] = value
    return out
