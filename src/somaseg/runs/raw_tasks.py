"""Predict images with one model by tasks: raw instances, for the members of an ensemble.

A task (``python -m somaseg.runs.raw_tasks FOLDER K/N``) predicts every N-th image from the K-th and
leaves ``FOLDER/K-of-N.npz``, whole or not at all, so that what is finished is not done again.
"""

import hashlib
import sys
from pathlib import Path

from somaseg.data.types import Dataset
from somaseg.files import own_folder, read_json, write_text
from somaseg.instances import Instances
from somaseg.models.registry import validate
from somaseg.predict.store import load_predictions, save_predictions
from somaseg.runs.execute import Executor
from somaseg.runs.members import MemberProgress
from somaseg.runs.predicting import Request
from somaseg.runs.tasks import Report, as_task

PER_TASK = 20
"""Images of a task; their number must not depend on the workers, who may be others tomorrow."""
_REQUEST = "request.json"


def raw_by_tasks(
    model: Path,
    images: Dataset,
    views: str | None,
    tile: int,
    folder: Path,
    executor: Executor,
    progress: MemberProgress | None = None,
) -> dict[str, Instances]:
    """Predict images with a model, as its predictor does.

    Args:
        model: file, or folder with one.
        images: with their files.
        views: test-time views; by default the model's own.
        tile: larger images go through in tiles of this side.
        folder: gets a folder for what is done, to be removed when all members have predicted.
        executor: runs the tasks.
        progress: told ``(model, images done, images in all)``.

    Raises:
        SomasegError: a task failed.
    """
    request = Request(
        model=str(model.absolute()),
        views=views,
        tile=tile,
        overlap=None,
        diameter=None,
        overlays=False,
        more=(),
        pixel_size=None,
    ).of(list(images))
    text = request.model_dump_json()
    read = [model, *(Path(image.path) for image in request.images if image.path is not None)]
    stamp = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in read]
    name = hashlib.sha256(f"{text}{stamp}".encode()).hexdigest()[:16]
    folder = own_folder(own_folder(folder.absolute()) / name)
    write_text(folder / _REQUEST, text)
    count = -(-len(images) // PER_TASK)
    parts = [(k, count) for k in range(1, count + 1)]
    left = [part for part in parts if not _path(folder, part).exists()]
    begun = {
        part: len(images.ids[part[0] - 1 :: part[1]]) if part not in left else 0 for part in parts
    }

    def report(task: str, event: dict[str, object]) -> None:
        if "done" in event and progress:
            k, n = map(int, task.split("/"))
            begun[k, n] = int(str(event["done"]))
            progress(str(model), sum(begun.values()), len(images))

    tasks = [(f"{k}/{n}", [str(folder), f"{k}/{n}"]) for k, n in left]
    executor.execute(tasks, executor.jobs, report, __name__, of=count)
    found: dict[str, Instances] = {}
    for part in parts:
        found |= load_predictions(_path(folder, part))
    return {name: found[name] for name in images.ids}


def predict_part(folder: str | Path, part: tuple[int, int], tell: Report) -> None:
    """Predict the images of a part, unless that is done."""
    path = _path(Path(folder), part)
    if path.exists():
        return
    request = validate(Request, read_json(Path(folder) / _REQUEST), str(folder))
    predictor = request.segmenter().predictor
    samples, found = request.samples()[part[0] - 1 :: part[1]], {}
    for done, sample in enumerate(samples, 1):
        found[sample.id] = predictor(sample.image())
        tell({"stage": "images", "done": done, "total": len(samples)})
    save_predictions(path, found)


def _path(folder: Path, part: tuple[int, int]) -> Path:
    return folder / f"{part[0]}-of-{part[1]}.npz"


def main(arguments: list[str]) -> int:
    """Do a part of the images of a folder."""
    folder, text = arguments
    k, n = map(int, text.split("/"))
    return as_task(lambda report: predict_part(folder, (k, n), report))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
