"""Predict many images by tasks: each does a shard of them, the tables are joined afterwards.

``OUT/.predict/request.json`` says what is predicted and how. A task (``python -m
somaseg.runs.predicting OUT K/N``) does every N-th image from the K-th that is not finished, and
writes to a shard of its own (:mod:`somaseg.predict.shards`), which it holds against others.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from somaseg.data.types import Sample
from somaseg.files import own_folder, read_json, write_text
from somaseg.models.registry import validate
from somaseg.predict.load import load_segmenter
from somaseg.predict.outputs import segment_samples
from somaseg.predict.segmenter import Segmenter
from somaseg.predict.shards import WORK, hold_shard
from somaseg.runs.execute import Execute, Report
from somaseg.runs.tasks import Report as Tell
from somaseg.runs.tasks import as_task

PER_TASK = 500
"""Images of a task: minutes of work, so that loading the model does not count."""
_REQUEST = "request.json"


class Request(BaseModel):
    """What is predicted, and how; paths are absolute.

    Attributes:
        model, views, tile, overlap, diameter: as for :func:`somaseg.predict.load.load_segmenter`.
        overlays, more, pixel_size: as for :func:`somaseg.predict.outputs.segment_samples`.
        images: id, (height, width) and path of each.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None
    views: str | None
    tile: int
    overlap: int | None
    diameter: str | None
    overlays: bool
    more: tuple[str, ...]
    pixel_size: float | None
    images: tuple[tuple[str, tuple[int, int], str | None], ...] = ()

    def of(self, samples: Sequence[Sample]) -> "Request":
        """Name the images."""
        images = [
            (s.id, s.size, None if s.image_path is None else str(s.image_path.absolute()))
            for s in samples
        ]
        return self.model_copy(update={"images": tuple(images)})

    def samples(self) -> list[Sample]:
        """The images."""
        return [
            Sample(name, size, None if path is None else Path(path))
            for name, size, path in self.images
        ]

    def segmenter(self) -> Segmenter:
        """Load the model."""
        return load_segmenter(self.model, self.views, self.tile, self.overlap, self.diameter)


def predict_by_tasks(
    request: Request, out: str | Path, execute: Execute, jobs: int, report: Report
) -> None:
    """Predict images by tasks; their results stand in the shards then, and no table.

    Args:
        request: what is predicted.
        out: folder for the results, which :func:`somaseg.predict.outputs.check_outputs` has passed.
        execute: runs the tasks.
        jobs: tasks at a time.
        report: told ``{"stage": "images", "done", "total"}`` of each task.

    Raises:
        SomasegError: a task failed. Images that cannot be read are no failure.
    """
    folder = own_folder(Path(out) / WORK)
    write_text(folder / _REQUEST, request.model_dump_json())
    count = max(-(-len(request.images) // PER_TASK), min(jobs, len(request.images)))
    shards = [f"{k}/{count}" for k in range(1, count + 1)]
    tasks = [(shard, [str(Path(out).resolve()), shard]) for shard in shards]
    execute(tasks, jobs, report, "somaseg.runs.predicting")


def predict_shard(out: str | Path, shard: tuple[int, int], tell: Tell) -> None:
    """Do the images of a shard that are not finished."""
    import torch

    path = Path(out) / WORK / _REQUEST
    request: Any = validate(Request, read_json(path), str(path))
    samples, (k, n) = request.samples(), shard
    total, done = len(samples[k - 1 :: n]), 0

    def count(_: str) -> None:
        nonlocal done
        done += 1
        tell({"stage": "images", "done": done, "total": total})

    with hold_shard(out, shard):
        segment_samples(
            request.segmenter(),
            samples,
            out,
            request.overlays,
            done=count,
            workers=torch.get_num_threads(),
            shard=shard,
            more=request.more,
            pixel_size=request.pixel_size,
        )


def main(arguments: list[str]) -> int:
    """Do a shard of the images of a folder of results."""
    out, shard = arguments
    k, n = map(int, shard.split("/"))
    return as_task(lambda report: predict_shard(out, (k, n), report))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
