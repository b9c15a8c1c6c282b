"""What the entries of a COCO file stand for: images, categories and annotations by their ids."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from somaseg.data.faults import Faults
from somaseg.data.reading import image_name, path_parts
from somaseg.data.tables import whole_number
from somaseg.errors import SomasegError


def plain_id(value: Any) -> int | str | None:
    """Return an id as it is compared: whole floats and texts of digits are numbers."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    # More digits than an id has, Python may refuse to convert.
    if isinstance(value, str) and (number := whole_number(value)) is not None:
        return number if str(number) == value else value
    return value if isinstance(value, int | str) else None


def categories_of(entries: list[Any], path: Path) -> dict[int | str, str]:
    """Class names by category id, in the file's order."""
    classes: dict[int | str, str] = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        key = plain_id(entry.get("id")) if isinstance(entry, dict) else None
        if not isinstance(name, str) or key is None:
            raise SomasegError(f"{path}: category {entry!r} needs an id and a name")
        if key in classes or name in classes.values():
            raise SomasegError(f"{path}: category {entry['id']} {name!r} comes twice; remove one")
        classes[key] = name
    return classes


def images_of(
    entries: list[Any], path: Path, faults: Faults
) -> dict[int | str, tuple[str, dict[str, Any]]]:
    """Our id and the entry of each image by its COCO id."""
    sound: list[tuple[str, int | str, list[str], dict[str, Any]]] = []
    for position, entry in enumerate(entries):
        row = f"image {position + 1} (in order)"
        key = plain_id(entry.get("id")) if isinstance(entry, dict) else None
        if key is None:
            faults.add("bad row", "an image needs an id and a file_name", path, row)
            continue
        file = str(entry.get("file_name") or entry["id"])
        sound.append((row, key, path_parts(file) or [file], entry))
    stems = Counter(image_name(parts[-1]) for _, _, parts, _ in sound)
    shared = _shared_folders([parts for _, _, parts, _ in sound])
    found: dict[int | str, tuple[str, dict[str, Any]]] = {}
    names: set[str] = set()
    for row, key, parts, entry in sound:
        # Files of one name in several folders: the folder then belongs to the name.
        name = image_name(parts[-1])
        if stems[name] > 1:
            name = "/".join([*parts[shared:-1], name])
        if key in found or name in names:
            faults.add("bad row", f"image {name} (id {entry['id']}) comes twice", path, row, name)
            continue
        found[key] = (name, entry)
        names.add(name)
    return found


def _shared_folders(files: list[list[str]]) -> int:
    """Count the folders, from the left, that all files have in common."""
    count = 0
    for level in zip(*(parts[:-1] for parts in files), strict=False):
        if len(set(level)) > 1:
            break
        count += 1
    return count


@dataclass(frozen=True)
class Annotation:
    """One annotation: where it stands, what it says, its class's position, whether a crowd."""

    row: str
    content: dict[str, Any]
    label: int
    crowd: bool


def by_image(
    annotations: list[Any],
    entries: Mapping[int | str, tuple[str, dict[str, Any]]],
    positions: Mapping[int | str, int],
    path: Path,
    faults: Faults,
) -> dict[int | str, list[Annotation]]:
    """Sound annotations by their image's COCO id; the others are noted."""
    found: dict[int | str, list[Annotation]] = {}
    crowded = 0
    for position, annotation in enumerate(annotations):
        row = f"annotation {position + 1} (in order)"
        if not isinstance(annotation, dict):
            faults.add("bad row", "not an annotation", path, row)
            continue
        if annotation.get("id") is not None:
            row = f"annotation {annotation['id']}"
        key, category = plain_id(annotation.get("image_id")), annotation.get("category_id")
        if key not in entries or key is None:
            message = f"its image_id {annotation.get('image_id')!r} is none of the images"
            faults.add("bad row", message, path, row)
            continue
        name = entries[key][0]
        number = plain_id(category)
        label = positions.get(number) if number is not None else None
        crowd = _CROWD.get(str(annotation.get("iscrowd")).lower())
        told = annotation.get("attributes")
        if crowd and isinstance(told, dict) and "occluded" in told:
            crowd = False  # CVAT marks each mask so, and its annotations by this attribute
        if label is None:
            message = f"category_id {category!r} is none of the categories"
            faults.add("unknown class", message, path, row, name)
        elif crowd is None:
            message = f"iscrowd is {annotation.get('iscrowd')!r}; it is 0 or 1"
            faults.add("bad row", message, path, row, name)
        else:
            if crowd:
                crowded += 1
                message = "iscrowd: cells not told apart; no instance, ignored by COCO AP"
                faults.add("crowd region", message, path, row, name)
            found.setdefault(key, []).append(Annotation(row, annotation, label, crowd))
    if crowded and crowded == len(annotations):
        message = (
            f"all {crowded} annotations have iscrowd 1, as pycococreator marks every mask: "
            "no cell is left; set iscrowd to 0 where a mask is one cell"
        )
        faults.add("all crowd", message, path)
    return found


# As tools write it; missing means 0.
_CROWD = {
    **dict.fromkeys(("none", "0", "0.0", "false", ""), False),
    **dict.fromkeys(("1", "1.0", "true"), True),
}
