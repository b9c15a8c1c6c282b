"""Images alone, none of them annotated: a folder of them, or one."""

from collections.abc import Mapping
from pathlib import Path

from somaseg.data.faults import Faults
from somaseg.data.formats.registry import Format
from somaseg.data.images import is_image, list_images
from somaseg.data.reading import Reading, checked_header, image_name, message_without, well_group
from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError


def read_images(
    path: str | Path,
    faults: Faults,
    images: str | Path | None = None,
    need_images: bool = True,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Reading:
    """Read a folder of images, or one image, without annotations.

    Raises:
        SomasegError: there are none.
    """
    path = Path(path)
    paths = [path] if is_image(path) or path.is_file() else list_images(path) or _images_below(path)
    if not paths:
        raise SomasegError(
            f"{path}: neither annotations nor images (PNG, JPEG, TIFF, OME-Zarr) in it"
        )
    samples: dict[str, Sample] = {}
    for file in paths:
        name = image_name(file)
        if name in samples:
            twin = samples[name].image_path
            message = f"{twin and twin.name} and {file.name} are both image {name}; rename one"
            faults.add("ambiguous image", message, file, image=name)
            continue
        try:
            size = checked_header(file, name, faults).size
        except SomasegError as error:
            faults.add("unreadable image", message_without(file, error), file, image=name)
            continue
        samples[name] = Sample(name, size, file, group=well_group(name))
    return Reading(Dataset(tuple(samples.values()), (), str(path)), faults)


def _images_below(folder: Path) -> list[Path]:
    return list_images(folder / "images") if (folder / "images").is_dir() else []


def _detect(path: Path) -> list[Path]:
    # A folder of images is only that where no format finds annotations: load.detect falls back.
    return [path] if is_image(path) else []


FORMAT = Format(
    "images", "images (PNG, JPEG, TIFF, OME-Zarr, …)", _detect, read_images, folders=True
)
