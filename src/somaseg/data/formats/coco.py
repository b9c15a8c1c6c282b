"""COCO annotations: polygons, compressed and plain run lengths; written as the latter.

Crowd regions (``iscrowd`` 1 marks an area of cells nobody told apart) are not instances and are
left out, with a warning. Beyond the standard, the keys ``class`` and ``group`` of an image are
understood: we write them so that images without cells keep theirs.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from somaseg.data.faults import Faults
from somaseg.data.formats.registry import Format
from somaseg.data.formats.segmentation import coco_masks, decode_segmentation
from somaseg.data.reading import (
    ImageIndex,
    Reading,
    locate,
    note_unannotated,
    well_group,
    with_image_classes,
)
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.files import file_name, read_json, write_json
from somaseg.instances import Instances
from somaseg.masks.resolve import OrderName

_LISTS = ("images", "annotations", "categories")


def is_coco(value: Any) -> bool:
    """Whether parsed JSON looks like a COCO annotation file."""
    return isinstance(value, dict) and all(isinstance(value.get(key), list) for key in _LISTS)


def read_coco(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Reading:
    """Read a COCO annotation file with the images it speaks of.

    Args:
        path: the JSON.
        faults: takes what is wrong with annotations and images; these are left out.
        images: folder of the images; else ``images/``, the file's own folder, and (as COCO itself
            is laid out) the folder above and its subfolders are searched.
        need_images: whether an image that is not found is a fault.
        sizes: not needed, as the file has them.

    Raises:
        SomasegError: the file cannot be read at all, or is no such file.
    """
    path = Path(path)
    content = _content(path)
    classes = _categories(content["categories"], path)
    names = tuple(classes.values())
    positions = {key: position for position, key in enumerate(classes)}
    entries = _images(content["images"], path, faults)
    annotations = _by_image(content["annotations"], entries, positions, path, faults)

    index = ImageIndex([Path(images)] if images is not None else _image_folders(path))
    samples: list[Sample] = []
    rows: dict[str, list[str]] = {}
    for key, (name, entry) in entries.items():
        size = _size(entry)
        file_name = str(entry.get("file_name") or name)
        image_path, size = locate(file_name, index, size, need_images, faults, path, name)
        if size is None:
            continue
        boxes, crops, labels, kept = [], [], [], []
        for annotation in annotations.get(key, ()):
            row = f"annotation {annotation.get('id')}"
            found = decode_segmentation(
                annotation.get("segmentation"), size, row, name, path, faults
            )
            if found is not None:
                boxes.append(found[0])
                crops.append(found[1])
                labels.append(positions[annotation["category_id"]])
                kept.append(row)
        instances = Instances.from_crops(
            size,
            np.array(boxes, np.int32).reshape(-1, 4),
            crops,
            classes=np.array(labels, np.int16),
            names=names,
        )
        group = entry.get("group") or well_group(Path(file_name).stem)
        image_class = entry.get("class") if entry.get("class") in names else None
        samples.append(Sample(name, size, image_path, instances, image_class, group))
        rows[name] = kept
    if need_images:
        note_unannotated(index, faults)
    dataset = Dataset(with_image_classes(samples), names, str(path))
    return Reading(dataset, faults, dict.fromkeys(dataset.ids, path), rows)


def coco_image_ids(path: str | Path) -> dict[str, int | str]:
    """Return the ``id`` in a COCO file of each image by our id (its file name without ending)."""
    entries = _images(_content(Path(path))["images"], Path(path), Faults())
    return {name: key for key, (name, _) in entries.items()}


def coco_categories(path: str | Path) -> dict[int | str, str]:
    """Return the class name by ``category_id`` of a COCO file."""
    return _categories(_content(Path(path))["categories"], Path(path))


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not is_coco(content):
        raise SomasegError(
            f"{path}: not a COCO annotation file; expected the lists {', '.join(_LISTS)}"
        )
    return content


def _categories(entries: list[Any], path: Path) -> dict[int | str, str]:
    """Class names by category id, in the file's order."""
    classes: dict[int | str, str] = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or "id" not in entry:
            raise SomasegError(f"{path}: category {entry!r} needs an id and a name")
        if entry["id"] in classes or name in classes.values():
            raise SomasegError(f"{path}: category {entry['id']} {name!r} comes twice; remove one")
        classes[entry["id"]] = name
    return classes


def _images(
    entries: list[Any], path: Path, faults: Faults
) -> dict[int | str, tuple[str, dict[str, Any]]]:
    """Our id and the entry of each image by its COCO id."""
    stems = Counter(
        Path(str(entry.get("file_name") or entry.get("id"))).stem
        for entry in entries
        if isinstance(entry, dict)
    )
    found: dict[int | str, tuple[str, dict[str, Any]]] = {}
    names: set[str] = set()
    for position, entry in enumerate(entries):
        row = f"image {position + 1} (in order)"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
            faults.add("bad row", "an image needs an id and a file_name", path, row)
            continue
        file = Path(str(entry.get("file_name") or entry["id"]))
        # Files of one name in several folders: the folder then belongs to the name.
        name = file.stem if stems[file.stem] == 1 else file.with_suffix("").as_posix()
        if entry["id"] in found or name in names:
            faults.add("bad row", f"image {name} (id {entry['id']}) comes twice", path, row, name)
            continue
        found[entry["id"]] = (name, entry)
        names.add(name)
    return found


def _by_image(
    annotations: list[Any],
    entries: Mapping[int | str, tuple[str, dict[str, Any]]],
    positions: Mapping[Any, int],
    path: Path,
    faults: Faults,
) -> dict[int | str, list[dict[str, Any]]]:
    found: dict[int | str, list[dict[str, Any]]] = {}
    for position, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            faults.add(
                "bad row", "not an annotation", path, f"annotation {position + 1} (in order)"
            )
            continue
        row = f"annotation {annotation.get('id')}"
        key = annotation.get("image_id")
        if not isinstance(key, int | str) or key not in entries:
            faults.add("bad row", f"its image_id {key!r} is none of the images", path, row)
            continue
        name = entries[key][0]
        category = annotation.get("category_id")
        if not isinstance(category, int | str) or category not in positions:
            faults.add(
                "unknown class",
                f"category_id {category!r} is none of the categories",
                path,
                row,
                name,
            )
        elif annotation.get("iscrowd"):
            faults.add(
                "crowd region", "iscrowd: cells not told apart; it is left out", path, row, name
            )
        else:
            found.setdefault(key, []).append(annotation)
    return found


def _size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _image_folders(path: Path) -> list[Path]:
    root = path.parent
    folders = [root / "images", root / path.stem, root]
    if root.name == "annotations":  # COCO's own layout: annotations/x.json beside x/ or images/
        above = root.parent
        folders += [above / "images", above / path.stem.removeprefix("instances_"), above]
    return folders


def write_annotations(path: str | Path, dataset: Dataset) -> None:
    """Write a COCO annotation file.

    Images and annotations are numbered from 1, categories from 1 in the order of ``names``. An
    image's class and group go into the keys ``class`` and ``group``, which COCO's own tools skip.

    Args:
        path: the JSON.
        dataset: images that are all annotated; a file is called by its image's id.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(dataset, start=1):
        height, width = sample.size
        ending = sample.image_path.suffix if sample.image_path else ".png"
        image = {
            "id": number,
            "file_name": f"{file_name(sample.id)}{ending}",
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
            coco_masks(instances), instances.areas.tolist(), instances.classes.tolist(), strict=True
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


def _detect(path: Path) -> list[Path]:
    """JSON files: one by its ending; in a folder or its ``annotations/`` what begins like COCO."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" else []
    found = []
    for file in sorted([*path.glob("*.json"), *path.glob("annotations/*.json")]):
        with file.open("rb") as opened:
            head = opened.read(1 << 16)
        keys = (b'"images"', b'"annotations"', b'"categories"')
        if head.lstrip().startswith(b"{") and any(key in head for key in keys):
            found.append(file)
    return found


def _write(folder: Path, dataset: Dataset, order: OrderName, ending: str) -> None:
    write_annotations(folder / "annotations.json", dataset)


FORMAT = Format("coco", "COCO JSON", _detect, read_coco, _write)
