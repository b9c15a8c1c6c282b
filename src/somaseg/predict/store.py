"""Raw predictions on disk: one ``.npz`` of flat arrays for many images, nothing pickled."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from somaseg.errors import SomasegError
from somaseg.files import atomic_path, read_arrays
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
    if not path.exists():
        raise SomasegError(f"{path}: no such predictions")
    try:
        arrays, header = read_arrays(path), {}
    except SomasegError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise SomasegError(
            f"{path}: not whole raw predictions ({reason}); predict this fold again"
        ) from error
    with contextlib.suppress(KeyError, ValueError, RecursionError):
        header = json.loads(arrays["header"].tobytes())
    if not _is_sound(arrays, header):
        raise SomasegError(f"{path}: not whole raw predictions; predict this fold again")
    counts = arrays["counts"]
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


def _is_sound(arrays: Mapping[str, npt.NDArray[Any]], header: Any) -> bool:
    """Whether header and arrays fit each other; what the boxes hold is checked by Instances."""
    shapes = {"counts": (-1,), "boxes": (-1, 4), "pixels": (-1,), "scores": (-1,), "classes": (-1,)}
    if not isinstance(header, dict) or any(
        name not in arrays or arrays[name].ndim != len(shape) or arrays[name].shape[1:] != shape[1:]
        for name, shape in shapes.items()
    ):
        return False
    lists: list[Any] = [header.get(key) for key in ("ids", "sizes", "names")]
    if not all(isinstance(value, list) for value in lists):
        return False
    ids, sizes, names = lists
    counts, boxes = arrays["counts"], arrays["boxes"]
    sides = boxes[:, 2:].astype(np.int64) - boxes[:, :2].astype(np.int64)
    return (
        all(isinstance(name, str) for name in [*ids, *names])
        and all(
            isinstance(size, list)
            and len(size) == 2
            and all(isinstance(side, int) and 0 <= side < 2**31 for side in size)
            for size in sizes
        )
        and isinstance(header.get("soft"), bool)
        and len(ids) == len(sizes) == len(counts)
        and counts.dtype.kind in "iu"
        and boxes.dtype.kind in "iu"
        and not (counts < 0).any()
        and int(counts.sum()) == len(boxes) == len(arrays["scores"]) == len(arrays["classes"])
        and bool(((sides > 0) & (sides < 2**31)).all())
        and float(sides.prod(axis=1, dtype=np.float64).sum()) == len(arrays["pixels"])
    )
