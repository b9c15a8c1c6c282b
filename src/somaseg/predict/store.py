"""Raw predictions on disk: one ``.npz`` of flat arrays for many images, nothing pickled."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from somaseg.errors import SomasegError
from somaseg.files import atomic_path
from somaseg.instances import Instances


def save_predictions(path: str | Path, predictions: Mapping[str, Instances]) -> None:
    """Write predictions by image id, whole or not at all.

    Args:
        path: ends in ``.npz``.
        predictions: hard or soft instances; all of the same classes.

    Raises:
        SomasegError: the images differ in class names or in softness.
    """
    values = list(predictions.values())
    names = {value.names for value in values}
    soft = {value.soft for value in values if len(value)}
    if len(names) > 1 or len(soft) > 1:
        raise SomasegError(f"{path}: predictions of different classes or kinds do not go together")
    header = {
        "ids": list(predictions),
        "sizes": [value.size for value in values],
        "names": list(values[0].names) if values else [],
        "soft": soft == {True},
    }
    parts = values or [Instances.empty((1, 1))]
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            counts=np.array([len(value) for value in values], np.int64),
            boxes=np.concatenate([part.boxes for part in parts]),
            pixels=np.concatenate([part.pixels for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            classes=np.concatenate([part.classes for part in parts]),
        )


def load_predictions(path: str | Path) -> dict[str, Instances]:
    """Read what :func:`save_predictions` wrote: instances by image id.

    Raises:
        SomasegError: missing, truncated, or not such a file.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        header = json.loads(arrays["header"].tobytes())
        counts = arrays["counts"]
    except FileNotFoundError as error:
        raise SomasegError(f"{path}: no such predictions") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SomasegError(
            f"{path}: not whole raw predictions ({error}); predict this fold again"
        ) from error
    boxes = arrays["boxes"].astype(np.int64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    offsets = np.concatenate([[0], np.cumsum(areas)])
    out: dict[str, Instances] = {}
    begin = 0
    for name, size, count in zip(header["ids"], header["sizes"], counts, strict=True):
        rows = slice(begin, begin + int(count))
        first, last = offsets[begin], offsets[begin + int(count)]
        out[name] = Instances(
            (int(size[0]), int(size[1])),
            arrays["boxes"][rows],
            arrays["pixels"][first:last],
            offsets[begin : begin + int(count) + 1] - first,
            arrays["scores"][rows],
            arrays["classes"][rows],
            tuple(header["names"]),
            header["soft"],
        )
        begin += int(count)
    return out
