"""COCO annotations: polygons, compressed and plain run lengths; written as the latter.

Crowd regions (``iscrowd`` 1 marks an area of cells nobody told apart) are not instances: they are
kept apart, with a warning. CVAT marks every mask so, and its masks are taken for instances; another
file in which every annotation is marked so (pycococreator) is refused. Ids are compared by value:
7, 7.0 and "7" are one. Beyond the standard, the keys ``class`` and ``group`` of an image are
understood: we write them so that images without cells keep theirs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from somaseg.data.axes import without_plane
from somaseg.data.faults import Faults
from somaseg.data.formats.coco_entries import by_image, categories_of, images_of
from somaseg.data.formats.registry import Format
from somaseg.data.formats.segmentation import coco_masks, decode_segmentation
from somaseg.data.reading import (
    ImageIndex,
    Reading,
    image_name,
    locate,
    note_unannotated,
    path_parts,
    well_group,
    with_image_classes,
)
from somaseg.data.types import Dataset, Sample, image_ending
from somaseg.errors import SomasegError
from somaseg.files import file_name, read_json, write_json
from somaseg.folders import is_leftover
from somaseg.instances import Instances
from somaseg.masks.flat import Boxes, Pixels
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
    classes = categories_of(content["categories"], path)
    names = tuple(classes.values())
    positions = {key: position for position, key in enumerate(classes)}
    entries = images_of(content["images"], path, faults)
    annotations = by_image(content["annotations"], entries, positions, path, faults)

    index = ImageIndex([Path(images)] if images is not None else _image_folders(path))
    samples: list[Sample] = []
    rows: dict[str, list[str]] = {}
    taken: dict[Path, str] = {}
    for key, (name, entry) in entries.items():
        size = _size(entry)
        named = str(entry.get("file_name") or name)
        image_path, size = locate(named, index, size, need_images, faults, path, name)
        if size is None:
            continue
        of_stack = image_path is not None and image_name(image_path) == without_plane(name) != name
        if image_path is not None and not of_stack and taken.setdefault(image_path, name) != name:
            message = f"{image_path} is also image {taken[image_path]}; give each a file of its own"
            faults.add("ambiguous image", message, path, image=name)
            continue
        decoded: dict[bool, list[_Decoded]] = {False: [], True: []}
        for annotation in annotations.get(key, ()):
            found = decode_segmentation(
                annotation.content.get("segmentation"), size, annotation.row, name, path, faults
            )
            if found is not None:
                decoded[annotation.crowd].append((*found, annotation.label, annotation.row))
        instances, kept = _joined(decoded[False], size, names)
        crowd = _joined(decoded[True], size, names)[0] if decoded[True] else None
        group = entry.get("group") or well_group(image_name(path_parts(named)[-1]))
        image_class = entry.get("class") if entry.get("class") in names else None
        samples.append(Sample(name, size, image_path, instances, image_class, group, crowd))
        rows[name] = kept
    if need_images:
        note_unannotated(index, faults)
    dataset = Dataset(with_image_classes(samples), names, str(path))
    return Reading(dataset, faults, dict.fromkeys(dataset.ids, path), rows)


def coco_image_ids(path: str | Path) -> dict[str, int | str]:
    """Return the ``id`` in a COCO file of each image by our id (its file name without ending)."""
    entries = images_of(_content(Path(path))["images"], Path(path), Faults())
    return {name: key for key, (name, _) in entries.items()}


def coco_categories(path: str | Path) -> dict[int | str, str]:
    """Return the class name by ``category_id`` of a COCO file."""
    return categories_of(_content(Path(path))["categories"], Path(path))


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not is_coco(content):
        raise SomasegError(
            f"{path}: not a COCO annotation file; expected the lists {', '.join(_LISTS)}"
        )
    return content


_Decoded = tuple[Boxes, Pixels, int, str]


def _joined(
    decoded: list[_Decoded], size: tuple[int, int], names: tuple[str, ...]
) -> tuple[Instances, list[str]]:
    """Instances of what was decoded of one image, and where each stands."""
    instances = Instances.from_crops(
        size,
        np.array([box for box, *_ in decoded], np.int32).reshape(-1, 4),
        [crop for _, crop, *_ in decoded],
        classes=np.array([label for *_, label, _ in decoded], np.int16),
        names=names,
    )
    return instances, [row for *_, row in decoded]


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
        image = {
            "id": number,
            "file_name": file_name(sample.id) + (image_ending(sample) or ".png"),
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
        of_image = [(instances, 0), *([(sample.crowd, 1)] if sample.crowd is not None else [])]
        for cells, crowd in of_image:
            for mask, area, label in zip(
                coco_masks(cells), cells.areas.tolist(), cells.classes.tolist(), strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label + 1,
                        **mask,
                        "area": area,
                        "iscrowd": crowd,
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
        if is_leftover(file):
            continue
        with file.open("rb") as opened:
            head = opened.read(1 << 16)
        keys = (b'"images"', b'"annotations"', b'"categories"')
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") and any(
            key in head for key in keys
        ):
            found.append(file)
    return found


def _write(folder: Path, dataset: Dataset, order: OrderName, ending: str) -> None:
    write_annotations(folder / "annotations.json", dataset)


FORMAT = Format("coco", "COCO JSON", _detect, read_coco, _write)
