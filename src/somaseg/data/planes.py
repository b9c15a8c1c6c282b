"""Which planes of its files a data set is of: stacks become images, annotations find theirs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from somaseg.data.axes import RGB, Axes, Choice, Plane, choose, without_plane
from somaseg.data.faults import Faults
from somaseg.data.images import Header, image_header, read_image
from somaseg.data.reading import Reading, message_without
from somaseg.data.types import Sample
from somaseg.errors import SomasegError


def with_planes(reading: Reading, choice: Choice) -> Reading:
    """Make images of the planes of stacks, and note what each file says of the size of a pixel.

    An image without annotations becomes as many as its file holds, called as
    :func:`somaseg.data.axes.choose` says; an annotated one is that of its name, or the only one.
    What cannot be chosen is left out, with a fault.
    """
    samples: list[Sample] = []
    files: dict[str, Path] = {}
    for sample in reading.dataset:
        try:
            found = _images_of(sample, choice, reading.faults)
        except SomasegError as error:
            path = sample.image_path or Path(reading.dataset.source)
            message = message_without(path, error)
            reading.faults.add("unreadable image", message, path, image=sample.id)
            continue
        samples += found
        if sample.id in reading.files:
            files |= dict.fromkeys((one.id for one in found), reading.files[sample.id])
    sizes = {sample.pixel_size for sample in samples}
    dataset = replace(
        reading.dataset,
        samples=_unlike(samples, reading.faults),
        pixel_size=sizes.pop() if len(sizes) == 1 else reading.dataset.pixel_size,
    )
    return replace(reading, dataset=dataset, files=files)


def read_only(path: str | Path, choice: Choice) -> npt.NDArray[Any]:
    """Read the one image of a file, of the channels that are wanted.

    Raises:
        SomasegError: it holds several, lacks a channel, or cannot be read.
    """
    headers = headers_of(Path(path))
    try:
        planes = choose([h.axes for h in headers], headers[0].channels, "", choice)
    except SomasegError as error:
        raise SomasegError(f"{path}: {error}") from error
    # Of several, the reader says what there is to choose.
    return read_image(path, next(iter(planes.values())) if len(planes) == 1 else None)


def channel_names(sample: Sample) -> tuple[str, ...]:
    """Names of the channels of an image that has several; numbers, where its file names none."""
    plane, path = sample.plane, sample.image_path
    if plane is None or path is None or len(parts := plane.parts()) == 1:
        return ()
    header = image_header(path, plane.scene)
    names = header.axes.names or (RGB if header.channels == 3 else ())
    places = [part.channel if plane.frame == part.frame else part.frame for part in parts]
    return tuple(str(dict(enumerate(names)).get(k, k)) for k in places)  # type: ignore[arg-type]


def headers_of(path: Path) -> list[Header]:
    """Read the headers of all scenes of a file."""
    first = image_header(path)
    return [first, *(image_header(path, scene) for scene in range(1, first.scenes))]


def _images_of(sample: Sample, choice: Choice, faults: Faults) -> list[Sample]:
    path = sample.image_path
    if path is None:
        return [sample]
    try:
        headers = headers_of(path)
    except SomasegError:
        if sample.instances is None:
            raise
        return [sample]  # its annotations can be used without; whoever needs the image is told
    if sample.plane is not None:
        scene = min(sample.plane.scene, len(headers) - 1)
        return [replace(sample, pixel_size=headers[scene].axes.pixel_size)]
    name = sample.id if sample.instances is None else without_plane(sample.id)
    planes = choose([h.axes for h in headers], headers[0].channels, name, choice)
    if path.is_dir():  # an OME-Zarr is no file of one image, whatever it holds
        planes = {key: plane or Plane() for key, plane in planes.items()}
    if sample.instances is not None:
        planes = _of_annotated(sample, planes, headers[0].axes)
    for doubt in dict.fromkeys(h.axes.doubt for h in headers if h.axes.doubt):
        faults.add("no pixel size", doubt, path, image=sample.id)
    found = []
    for key, plane in planes.items():
        header = headers[plane.scene if plane else 0]
        size = header.size if sample.instances is None else sample.size
        one = replace(sample, plane=plane, pixel_size=header.axes.pixel_size)
        found.append(replace(one, id=key, size=size))
    return found


def _of_annotated(
    sample: Sample, planes: Mapping[str, Plane | None], axes: Axes
) -> dict[str, Plane | None]:
    if sample.id in planes:
        return {sample.id: planes[sample.id]}
    if len(planes) > 1:
        raise SomasegError(
            f"a stack of {len(planes)} images ({axes}), but annotations of one; choose with "
            "--frame and --z, or call the annotations as `somaseg predict` calls the images"
        )
    return {sample.id: next(iter(planes.values()))}


def _unlike(samples: list[Sample], faults: Faults) -> tuple[Sample, ...]:
    """Samples with ids of their own; ``a_t000.tif`` may lie beside a stack ``a.tif``."""
    known: dict[str, Sample] = {}
    for sample in samples:
        first = known.setdefault(sample.id, sample)
        if first is not sample and sample.image_path is not None:
            message = f"{first.image_path} has an image called {sample.id}, too; rename one"
            faults.add("ambiguous image", message, sample.image_path, image=sample.id)
    return tuple(known.values())
