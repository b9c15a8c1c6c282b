"""Folds for cross-validation: balanced by class and by cells, groups kept together, on disk."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from somaseg.data.types import Dataset
from somaseg.errors import SomasegError
from somaseg.files import read_json, write_json


@dataclass(frozen=True)
class _Unit:
    """Images that must stay together: a group, or one image."""

    ids: tuple[str, ...]
    images: npt.NDArray[np.float64]  # (classes,) images of each class
    cells: npt.NDArray[np.float64]  # (classes,) annotated cells in images of each class


def make_folds(dataset: Dataset, k: int, seed: int = 0) -> dict[str, int]:
    """Deal the images of a data set into ``k`` folds.

    Images that share a group fall into one fold. Each class's images are spread evenly (without
    groups: to within one), then its cells. The result depends on the images and the seed alone,
    not on their order.

    Args:
        dataset: images; the class is that of the image, the cells those annotated.
        k: number of folds, at least 2.
        seed: another seed gives other folds, balanced as well.

    Returns:
        fold ``0…k-1`` of each image id, sorted by id; no fold is empty.

    Raises:
        SomasegError: fewer images or groups than folds.
    """
    units = _units(dataset)
    if k < 2:
        raise SomasegError(f"{k} folds; at least 2 are needed, one to train and one to score")
    if len(units) < 2:
        only = "1 group" if any(sample.group for sample in dataset) else f"{len(units)} images"
        raise SomasegError(
            f"{dataset.source}: {only} cannot fill {k} folds: nothing would be left to score on; "
            "annotate another image or group, or cut an image into parts, each a file of its own"
        )
    if len(units) < k:
        what = "groups" if any(sample.group for sample in dataset) else "images"
        raise SomasegError(
            f"{dataset.source}: {len(units)} {what} cannot fill {k} folds; ask for"
            f" {len(units)} or fewer"
        )
    rng = np.random.default_rng(seed)
    units = [units[i] for i in rng.permutation(len(units))]  # decides between equal units
    rank = rng.permutation(k)  # decides between equal folds

    images = np.zeros((k, len(units[0].images)))
    cells = np.zeros_like(images)
    all_images = np.maximum(sum(unit.images for unit in units), 1.0)
    all_cells = np.maximum(sum(unit.cells for unit in units), 1.0)
    folds: dict[str, int] = {}
    for unit, is_rest in _dealing_order(units, k):

        def cost(f: int, unit: _Unit = unit, is_rest: bool = is_rest) -> tuple[float, ...]:
            # Growth of the sum of squared shares: least where the fold lacks the unit's classes.
            crowding = (2 * images[f] + unit.images) * unit.images / all_images
            weight = (2 * cells[f] + unit.cells) * unit.cells / all_cells
            total = float(images[f].sum()) if is_rest else 0.0
            return round(float(crowding.sum()), 9), total, float(weight.sum()), float(rank[f])

        fold = min(range(k), key=cost)
        images[fold] += unit.images
        cells[fold] += unit.cells
        folds.update(dict.fromkeys(unit.ids, fold))
    return dict(sorted(folds.items()))


def save_folds(path: str | Path, folds: Mapping[str, int]) -> None:
    """Write folds as JSON: ``{"k": 3, "folds": {id: fold}}``."""
    k = max(folds.values(), default=-1) + 1
    write_json(path, {"k": k, "folds": dict(sorted(folds.items()))})


def load_folds(path: str | Path, dataset: Dataset) -> dict[str, int]:
    """Read folds written by :func:`save_folds` for the same images.

    Raises:
        SomasegError: not such a file, or its images are not those of ``dataset``.
    """
    folds = read_folds(path)
    for missing, text in (
        (set(dataset.ids) - set(folds), f"are in {dataset.source} but have no fold"),
        (set(folds) - set(dataset.ids), f"have a fold but are not in {dataset.source}"),
    ):
        if missing:
            some = ", ".join(sorted(missing)[:3]) + (", …" if len(missing) > 3 else "")
            raise SomasegError(
                f"{path}: {len(missing)} images ({some}) {text}; "
                "make folds anew or give the data they were made for"
            )
    return folds


def read_folds(path: str | Path) -> dict[str, int]:
    """Read folds written by :func:`save_folds`, of whatever images, by id.

    Raises:
        SomasegError: not such a file.
    """
    value = read_json(path)
    folds = value.get("folds") if isinstance(value, dict) else None
    if not isinstance(folds, dict) or not all(
        isinstance(fold, int) and not isinstance(fold, bool) and fold >= 0
        for fold in folds.values()
    ):
        raise SomasegError(f'{path}: no folds; expected {{"k": 3, "folds": {{"image id": 0, …}}}}')
    k = max(folds.values(), default=-1) + 1
    if value.get("k") != k or set(folds.values()) != set(range(k)):
        raise SomasegError(
            f"{path}: says k = {value.get('k')} but uses folds {sorted(set(folds.values()))}"
        )
    return dict(sorted(folds.items()))


def _units(dataset: Dataset) -> list[_Unit]:
    classes = sorted({sample.image_class or "" for sample in dataset})
    members = defaultdict(list)
    for sample in sorted(dataset, key=lambda sample: sample.id):
        # A group may be called as some image is: keep the two kinds of key apart.
        members[(sample.group is not None, sample.group or sample.id)].append(sample)
    units = []
    for _, samples in sorted(members.items()):
        images = np.zeros(len(classes))
        cells = np.zeros(len(classes))
        for sample in samples:
            position = classes.index(sample.image_class or "")
            images[position] += 1
            cells[position] += len(sample.instances) if sample.instances is not None else 0
        units.append(_Unit(tuple(sample.id for sample in samples), images, cells))
    return units


def _dealing_order(units: list[_Unit], k: int) -> Iterator[tuple[_Unit, bool]]:
    """Class after class, big units first, as small ones level out.

    The units that are left when a class has filled whole rounds of ``k`` are marked: they go where
    few images are, or else the rests of all classes could pile up in one fold.
    """
    by_class = defaultdict(list)
    for unit in units:
        by_class[int(unit.images.argmax())].append(unit)
    for _, members in sorted(by_class.items()):
        members.sort(key=lambda unit: (-unit.images.sum(), -unit.cells.sum()))
        whole = len(members) // k * k
        for position, unit in enumerate(members):
            yield unit, position >= whole
