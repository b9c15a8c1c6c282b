"""Predict many images by tasks: each does a shard of them, the tables are joined afterwards.

``OUT/.predict/request.json`` says what is predicted and how. A task (``python -m
somaseg.runs.predicting OUT K/N``) does every N-th image from the K-th that is not finished, and
writes to a shard of its own (:mod:`somaseg.predict.shards`), which it holds against others. Of a
large image a task (``OUT K/N ID``) predicts every N-th row of tiles into ``OUT/.predict/tiles``,
where the command finds them, and joins and settles them as it does with its own
(:mod:`somaseg.predict.bands`).
"""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from somaseg.data.axes import Plane
from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.files import own_folder, read_json, write_text
from somaseg.models.registry import validate
from somaseg.predict.bands import begin_rows, known_levels, predict_rows
from somaseg.predict.image_work import LARGE
from somaseg.predict.load import load_segmenter
from somaseg.predict.outputs import segment_samples, unfinished
from somaseg.predict.segmenter import Segmenter
from somaseg.predict.shards import WORK, hold_shard, place_of_rows
from somaseg.runs.execute import Execute, Report
from somaseg.runs.tasks import Report as Tell
from somaseg.runs.tasks import as_task

PER_TASK = 500
"""Images of a task: minutes of work, so that loading the model does not count."""
TILES = 200
"""Tiles of a task, of a large image, about."""
_REQUEST = "request.json"


class _Image(BaseModel):
    id: str
    size: tuple[int, int]
    path: str | None
    plane: dict[str, int | str | list[int]] | None
    pixel_size: float | None


class Request(BaseModel):
    """What is predicted, and how; paths are absolute.

    Attributes:
        model, views, tile, overlap, diameter: as for :func:`somaseg.predict.load.load_segmenter`.
        overlays, more, pixel_size, large: as for :func:`somaseg.predict.outputs.segment_samples`.
        images: each with its plane, for a stack, and the pixel size that its file says.
        whole: ids of those that are dealt to tasks as a whole.
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
    large: int = LARGE
    images: tuple[_Image, ...] = ()
    whole: tuple[str, ...] = ()

    def of(self, samples: Sequence[Sample]) -> "Request":
        """Name the images."""
        images = tuple(
            _Image(
                id=sample.id,
                size=sample.size,
                path=None if sample.image_path is None else str(sample.image_path.absolute()),
                plane=None if sample.plane is None else sample.plane.to_json(),
                pixel_size=sample.pixel_size,
            )
            for sample in samples
        )
        return self.model_copy(update={"images": images})

    def samples(self) -> list[Sample]:
        """The images."""
        return [
            Sample(
                one.id,
                one.size,
                None if one.path is None else Path(one.path),
                plane=None if one.plane is None else Plane.from_json(one.plane),
                pixel_size=one.pixel_size,
            )
            for one in self.images
        ]

    def segmenter(self) -> Segmenter:
        """Load the model."""
        return load_segmenter(self.model, self.views, self.tile, self.overlap, self.diameter)


def predict_by_tasks(
    request: Request,
    segmenter: Segmenter,
    out: str | Path,
    execute: Execute,
    jobs: int,
    report: Report,
) -> None:
    """Predict images by tasks; results stand in shards then, rows of tiles in files, and no table.

    Args:
        request: what is predicted.
        segmenter: that the request is for.
        out: folder for the results, which :func:`somaseg.predict.outputs.check_outputs` has passed.
        execute: runs the tasks.
        jobs: tasks at a time.
        report: told ``{"stage": "images", "done", "total"}`` of each task, and ``{"stage":
            "tiles", "image", "done", "total"}``.

    Raises:
        SomasegError: a task failed. Images that cannot be read are no failure.
    """
    folder = own_folder(Path(out) / WORK)
    samples, place = request.samples(), str(Path(out).resolve())
    options = request.overlays, request.large, request.more, request.pixel_size
    left = set(unfinished(segmenter, samples, out, *options))
    # Images that are scaled to the model's diameter are held in memory as a whole.
    limit = request.large if request.diameter is None else math.inf
    large = [s for s in samples if s.id in left and s.size[0] * s.size[1] > limit]
    whole = tuple(s.id for s in samples if s.id in left and s.size[0] * s.size[1] <= limit)
    report("", {"stage": "images", "done": len(samples) - len(left), "total": len(samples)})
    request = request.model_copy(update={"whole": whole})
    write_text(folder / _REQUEST, request.model_dump_json())
    shards = _parts(len(whole), PER_TASK, len(whole), jobs)
    tasks = [(shard, [place, shard]) for shard in shards]
    for sample in large:
        parts = _begin(segmenter, sample, out, jobs)
        tasks += [(f"{sample.id} {part}", [place, part, sample.id]) for part in parts]
    execute(tasks, jobs, report, "somaseg.runs.predicting")


def _parts(work: int, at_once: int, most: int, jobs: int) -> Iterator[str]:
    """``K/N`` of tasks: as many turns of ``jobs`` as are needed for so much work at once."""
    turns = -(-work // (at_once * jobs))
    count = min(turns * jobs, most)
    return (f"{k}/{count}" for k in range(1, count + 1))


def _begin(segmenter: Segmenter, sample: Sample, out: str | Path, jobs: int) -> Iterator[str]:
    """Make the folder for rows of tiles ready; what cannot be read is told when all are joined."""
    try:
        image = sample.image(mapped=True)
        folder, stamp = place_of_rows(out, sample)
        levels = known_levels(folder, stamp) or segmenter.predictor.levels(
            image, str(sample.image_path)
        )
    except SomasegError:
        return iter(())
    rows = begin_rows(segmenter.predictor, image, folder, levels, stamp)
    return _parts(len(segmenter.predictor.grid(image.shape)), TILES, rows, jobs)


def predict_shard(out: str | Path, shard: tuple[int, int], tell: Tell) -> None:
    """Do the images of a shard that are not finished."""
    import torch

    request = _read(out)
    k, n = shard
    total, done = len(request.whole[k - 1 :: n]), 0

    def count(_: str) -> None:
        nonlocal done
        done += 1
        tell({"stage": "images", "done": done, "total": total})

    with hold_shard(out, shard):
        segment_samples(
            request.segmenter(),
            request.samples(),
            out,
            request.overlays,
            request.large,
            done=count,
            workers=torch.get_num_threads(),
            shard=shard,
            more=request.more,
            pixel_size=request.pixel_size,
            chosen=set(request.whole),
        )


def predict_part(out: str | Path, name: str, part: tuple[int, int], tell: Tell) -> None:
    """Predict every n-th row of tiles of a large image, from the k-th."""
    request = _read(out)
    (sample,) = (sample for sample in request.samples() if sample.id == name)
    segmenter, image = request.segmenter(), sample.image(mapped=True)
    folder, stamp = place_of_rows(out, sample)
    levels = known_levels(folder, stamp)
    if levels is None:
        raise SomasegError(f"{sample.image_path}: has changed since; run the same command again")
    rows = range(part[0] - 1, len(segmenter.predictor.grid(image.shape).rows), part[1])
    told = {"stage": "tiles", "image": name}
    predict_rows(
        *(segmenter.predictor, image, folder, levels, rows),
        lambda done, total: tell(told | {"done": done, "total": total}),
    )


def _read(out: str | Path) -> Request:
    path = Path(out) / WORK / _REQUEST
    return validate(Request, read_json(path), str(path))


def main(arguments: list[str]) -> int:
    """Do a shard of the images of a folder of results, or some rows of a large one."""
    out, text, *name = arguments
    k, n = map(int, text.split("/"))
    if name:
        return as_task(lambda report: predict_part(out, name[0], (k, n), report))
    return as_task(lambda report: predict_shard(out, (k, n), report))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
