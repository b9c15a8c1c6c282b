"""Write COCO JSON: annotations, and results with scores. Masks are compressed run lengths."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from somaseg.data.coco import coco_categories, coco_image_ids
from somaseg.data.results import read_results
from somaseg.data.types import Dataset
from somaseg.errors import SomasegError
from somaseg.files import atomic_path, write_json
from somaseg.instances import Instances
from somaseg.masks.rle import crops_to_counts

__all__ = ["read_results", "write_annotations", "write_results"]


def write_annotations(path: str | Path, dataset: Dataset) -> None:
    """Write a COCO annotation file.

    Images and annotations are numbered from 1, categories from 1 in the order of ``names``. An
    image's class and group go into the keys ``class`` and ``group``, which COCO's own tools skip.

    Args:
        path: the JSON.
        dataset: images that are all annotated; a file is called as its image, else ``ID.png``.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(dataset, start=1):
        height, width = sample.size
        ending = sample.image_path.suffix if sample.image_path else ".png"
        image = {
            "id": number,
            "file_name": f"{sample.id}{ending}",
            "width": width,
            "height": height,
            "class": sample.image_class,
            "group": sample.group,
        }
        images.append({key: value for key, value in image.items() if value is not None})
        instances = sample.annotated()
        if (instances.classes < 0).any():
            raise SomasegError(
                f"{path}: image {sample.id} has instances of no class, which COCO does not allow"
            )
        for mask, area, label in zip(
            _masks(instances), instances.areas.tolist(), instances.classes.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    **mask,
                    "area": area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(dataset.names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(path, content, indent=None)


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
                yield from _results(instances, image_ids.get(name, name), numbers, source)

    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        separator = "["
        for entry in entries():
            file.write(separator + json.dumps(entry, allow_nan=False))
            separator = ", "
        file.write("]\n" if separator == ", " else "[]\n")


def _results(
    instances: Instances,
    image_id: int | str,
    numbers: Mapping[str, int | str],
    source: str | Path | None,
) -> Iterator[dict[str, Any]]:
    """Entries of some instances of one image; ``numbers`` are those of the source's categories."""
    for mask, score, label in zip(
        _masks(instances), instances.scores.tolist(), instances.classes.tolist(), strict=True
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


def _masks(instances: Instances) -> list[dict[str, Any]]:
    """COCO's ``segmentation`` and ``bbox`` (x, y, width, height) of each instance."""
    if instances.soft:
        raise SomasegError("soft masks cannot be written as run lengths; use binary() first")
    tight, rows = instances.tightened()
    if len(rows) != len(instances):
        raise SomasegError("an instance without a pixel cannot be written; drop it first")
    size = list(instances.size)
    return [
        {
            "segmentation": {"size": size, "counts": counts},
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }
        for counts, (x0, y0, x1, y1) in zip(
            crops_to_counts(*tight.flat, instances.size), tight.boxes.tolist(), strict=True
        )
    ]
