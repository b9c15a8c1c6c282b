"""COCO results: the list of scored instances that predictions are exchanged in."""

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from somaseg.data.faults import Faults
from somaseg.data.formats.coco import coco_categories, coco_image_ids
from somaseg.data.formats.coco_entries import plain_id
from somaseg.data.formats.segmentation import NO_SEGMENTATION, coco_masks, decode_segmentation
from somaseg.data.reading import image_name
from somaseg.data.tables import whole_number
from somaseg.data.types import Dataset
from somaseg.errors import SomasegError
from somaseg.files import atomic_path, read_json
from somaseg.instances import Instances
from somaseg.limits import check_pixels

RESULTS_NAME = "predictions.json"  # what a folder of predictions calls its COCO results


def is_results_file(path: Path) -> bool:
    """Whether a file is a JSON list, as COCO results are (annotation files are objects)."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(b"[")


def read_results(
    path: str | Path,
    dataset: Dataset | None = None,
    ignore_unknown: bool = False,
    left_out: Faults | None = None,
) -> dict[str, Instances]:
    """Read COCO results: a list of ``image_id, category_id, segmentation, score``.

    Args:
        path: the JSON.
        dataset: the images predicted. An ``image_id`` is their id here, or the number that the
            COCO file has for it which ``dataset`` was read from; images that the list does not
            speak of have no instances. Without, images, sizes and class names are those met in
            the list.
        ignore_unknown: leave out entries of images that ``dataset`` does not have.
        left_out: takes the faults; entries with one are then left out.

    Returns:
        scored instances by image id, sorted by id without ``dataset``, else in its order.

    Raises:
        SomasegError: not such a list, or entries with faults; all are named.
    """
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, list):
        raise SomasegError(f"{path}: not COCO results; expected a list of instances with scores")
    faults = Faults()
    key = _key(content, dataset)
    found: dict[str, list[_Entry]] = {name: [] for name in key.sizes}
    for position, entry in enumerate(content):
        if ignore_unknown and key.image(entry) is None:
            continue
        read = _read_entry(entry, key, f"entry {position + 1}", path, faults)
        if read is not None:
            found[read.image].append(read)
    empty = [f for f in faults if f.kind == "empty mask" and f.message != NO_SEGMENTATION]
    faults.found[:] = [fault for fault in faults if fault not in empty]
    if left_out is None:
        faults.raise_errors()
    else:
        left_out.found += faults.errors
    if empty:
        # detectron2 writes them for boxes in which no pixel is above the threshold.
        warnings.warn(
            f"{path}: {len(empty)} results with an empty mask are left out; the first: "
            f"{empty[0].row}",
            stacklevel=2,
        )
    return {name: _instances(entries, key, name) for name, entries in found.items()}


@dataclass(frozen=True)
class _Entry:
    image: str
    box: npt.NDArray[np.int32]
    crop: npt.NDArray[np.uint8]
    score: float
    label: int


@dataclass(frozen=True)
class _Key:
    """What the numbers in the list stand for."""

    images: dict[Any, str]  # our id by image_id
    sizes: dict[str, tuple[int, int]]  # by our id
    labels: dict[Any, int]  # position in names, by class name or category_id
    names: tuple[str, ...]

    def image(self, entry: Any) -> str | None:
        """Return our id of the image that an entry speaks of."""
        value = entry.get("image_id") if isinstance(entry, dict) else None
        found = self.images.get(value) if isinstance(value, int | str) else None
        number = plain_id(value)
        found = found or (self.images.get(number) if number is not None else None)
        # Some tools give the file's name: with another ending, or with its folder.
        return found or (self.images.get(image_name(value)) if isinstance(value, str) else None)

    def label(self, category: Any) -> int | None:
        """Return the position in names of a class name or category_id; -1 is no class."""
        found = self.labels.get(category) if isinstance(category, int | str) else None
        number = plain_id(category)
        found = self.labels.get(number) if found is None and number is not None else found
        return -1 if found is None and number == 0 else found


def _key(content: list[Any], dataset: Dataset | None) -> _Key:
    entries = [entry for entry in content if isinstance(entry, dict)]
    met = {_category(entry) for entry in entries if isinstance(_category(entry), int | str)}
    images: dict[Any, str]
    if dataset is None:
        images = {
            entry["image_id"]: str(entry["image_id"])
            for entry in sorted(entries, key=lambda entry: str(entry.get("image_id")))
            if isinstance(entry.get("image_id"), int | str)
        }
        sizes: dict[str, tuple[int, int]] = {}
        for entry in entries:
            size, image = _size_of(entry.get("segmentation")), entry.get("image_id")
            if size is not None and isinstance(image, int | str) and not _why_not(size):
                sizes.setdefault(images[image], size)
        sizes = {name: sizes[name] for name in images.values() if name in sizes}
        numbers: dict[Any, str] = {}
    else:
        images = {whole_number(name): name for name in dataset.ids}
        images.pop(None, None)
        images |= {name: name for name in dataset.ids}
        numbers = {i + 1: name for i, name in enumerate(dataset.names)}
        source = Path(dataset.source)
        # Of several files it is their names with words between: no file to look into.
        if source.suffix.lower() == ".json" and source.is_file() and not is_results_file(source):
            ids = coco_image_ids(dataset.source)
            images |= {number: name for name, number in ids.items() if name in dataset}
            numbers = coco_categories(dataset.source)
        sizes = {sample.id: sample.size for sample in dataset}
    known = dataset.names if dataset is not None else ()
    # Names that the list brings along; bare numbers only where nothing says what they stand for.
    # Number 0 without a name is an instance of no class.
    extra = {str(value) for value in met if isinstance(value, str) or (not known and value != 0)}
    names = known + tuple(sorted(extra - set(known)))
    labels: dict[Any, int] = {name: i for i, name in enumerate(names)}
    labels |= {category: names.index(str(category)) for category in met if str(category) in names}
    labels |= {number: names.index(name) for number, name in numbers.items() if name in names}
    plain = {plain_id(value) for value in met if not isinstance(value, str)}
    if 0 in plain and numbers and 0 not in numbers and max(numbers, key=_as_number) not in plain:
        warnings.warn(
            "the results count categories from 0, the truth from 1: each class would be taken for "
            "its neighbour; write them with the truth's category ids, or with the key category",
            stacklevel=3,
        )
    return _Key(images, sizes, labels, names)


def unknown_images(path: str | Path, dataset: Dataset) -> list[str]:
    """Return the images that COCO results speak of and ``dataset`` does not have, as text."""
    content = read_json(path)
    key = _key(content, dataset)
    met = {
        str(entry["image_id"]): None
        for entry in content
        if isinstance(entry, dict) and "image_id" in entry and key.image(entry) is None
    }
    return list(met)


def _as_number(value: int | str) -> tuple[int, str]:
    return (value, "") if isinstance(value, int) else (-1, value)


def _category(entry: Mapping[str, Any]) -> Any:
    """Return the class name, which we write beside the number, else the number."""
    return entry.get("category", entry.get("category_id"))


def _size_of(segmentation: Any) -> tuple[int, int] | None:
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) for n in size):
        return size[0], size[1]
    return None


def _why_not(size: tuple[int, int]) -> str:
    """Why an image that only the list speaks of cannot be as large as it claims; else empty."""
    try:
        check_pixels("its image", *size)
    except SomasegError as error:
        return str(error)
    return ""


def _read_entry(entry: Any, key: _Key, row: str, path: Path, faults: Faults) -> _Entry | None:
    if not isinstance(entry, dict):
        faults.add("bad row", "not an object with image_id, segmentation and score", path, row)
        return None
    category, score = _category(entry), entry.get("score")
    name, label = key.image(entry), key.label(category)
    if name is None:
        message = f"its image_id {entry.get('image_id')!r} is none of the images predicted"
        faults.add("bad row", message, path, row)
        return None
    if name not in key.sizes:
        size = _size_of(entry.get("segmentation"))
        message = _why_not(size) if size else "polygons without a size of the image"
        faults.add("unknown size", message, path, row, name)
    elif label is None:
        message = f"its class {category!r} is none of {', '.join(key.names)}"
        faults.add("unknown class", message, path, row, name)
    elif isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        faults.add("bad row", f"its score is {score!r}, not a number", path, row, name)
    else:
        segmentation = entry.get("segmentation")
        found = decode_segmentation(segmentation, key.sizes[name], row, name, path, faults)
        if found is not None:
            return _Entry(name, *found, float(score), label)
    return None


def _instances(entries: list[_Entry], key: _Key, name: str) -> Instances:
    return Instances.from_crops(
        key.sizes[name],
        np.array([entry.box for entry in entries], np.int32).reshape(-1, 4),
        [entry.crop for entry in entries],
        np.array([entry.score for entry in entries], np.float32),
        np.array([entry.label for entry in entries], np.int16),
        key.names,
    )


def write_results(
    path: str | Path,
    predictions: Mapping[str, Instances | Iterable[Instances]],
    source: str | Path | None = None,
) -> None:
    """Write COCO results: a list with an entry for each predicted instance, one by one.

    ``image_id`` is our id, ``category_id`` the class's place in the names, from 1; or both as the
    COCO annotation file ``source`` has them, for tools that compare the two. The key ``category``
    names the class, so that the list can be read alone; instances of no class have number 0.

    Args:
        path: the JSON.
        predictions: hard, scored instances by image id; of a large image several sets, of which
            one is held in memory at a time.
        source: COCO annotation file of the same images.

    Raises:
        SomasegError: soft masks, or an image or class that ``source`` does not have.
    """
    image_ids = coco_image_ids(source) if source is not None else {}
    numbers = {name: number for number, name in coco_categories(source).items()} if source else {}

    def entries() -> Iterator[dict[str, Any]]:
        for name, parts in predictions.items():
            if source is not None and name not in image_ids:
                raise SomasegError(f"{source}: no image {name}, but it was predicted")
            for instances in [parts] if isinstance(parts, Instances) else parts:
                yield from result_entries(instances, image_ids.get(name, name), numbers, source)

    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        separator = "["
        for entry in entries():
            file.write(separator + json.dumps(entry, allow_nan=False))
            separator = ", "
        file.write("]\n" if separator == ", " else "[]\n")


def result_entries(
    instances: Instances,
    image_id: int | str,
    numbers: Mapping[str, int | str] = MappingProxyType({}),
    source: str | Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Entries of some instances of one image; ``numbers`` are those of the source's categories."""
    for mask, score, label in zip(
        coco_masks(instances), instances.scores.tolist(), instances.classes.tolist(), strict=True
    ):
        category = instances.names[label] if label >= 0 else None
        if category is not None and source is not None and category not in numbers:
            raise SomasegError(f"{source}: no category {category!r}, but it was predicted")
        yield {
            "image_id": image_id,
            "category_id": numbers.get(category or "", label + 1),
            **({"category": category} if category is not None else {}),
            **mask,
            "score": score,
        }
