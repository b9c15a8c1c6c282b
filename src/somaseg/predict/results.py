"""What users want of cells beside masks: a table, Fiji's ROIs, QuPath's GeoJSON, a page."""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from somaseg.data.formats.geojson import write_geojson
from somaseg.data.formats.rois import check_roi_size, write_rois
from somaseg.data.measure import TOUCH, Table, count_neighbours, measure, rows_of
from somaseg.data.ome_tiff import ome_metadata
from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.files import file_name
from somaseg.folders import CELLS, REPORT
from somaseg.instances import Instances
from somaseg.masks.coco import coco_counts_to_crop
from somaseg.masks.flat import Size
from somaseg.predict.bands import Bands
from somaseg.predict.pictures import write_label_image
from somaseg.predict.shards import Shards
from somaseg.predict.zarr_folder import check_zarr, write_ome_zarr
from somaseg.report.found import write_found

MORE = ("cells", "rois", "geojson", "page", "ome-tiff", "ome-zarr")
"""What may be written beside label images, COCO results, the submission and overlays."""
_PLACES = {
    "rois": ("rois", ".zip"),
    "geojson": ("geojson", ".geojson"),
    "ome-tiff": ("ome-tiff", ".ome.tif"),
    "ome-zarr": ("ome-zarr", ".ome.zarr"),
}


def check_more(samples: Sequence[Sample], more: Collection[str], pixel_size: float | None) -> None:
    """Refuse what could not be written, before anything is predicted.

    Raises:
        SomasegError: an unknown name, an image too large for ROIs, or a pixel size that is none.
    """
    unknown = sorted(set(more) - set(MORE))
    if unknown:
        raise SomasegError(f"{unknown[0]!r}: no such result; choose from {', '.join(MORE)}")
    if "rois" in more:
        for sample in samples:
            check_roi_size(sample.size)
    if "ome-zarr" in more:
        check_zarr()
    measure(Instances.empty((1, 1)), pixel_size=pixel_size)


def table_paths(out: Path, more: Collection[str]) -> dict[str, Path]:
    """Files for all images together, by what they hold."""
    return {kind: out / name for kind, name in (("cells", CELLS), ("page", REPORT)) if kind in more}


def image_paths(out: Path, sample: Sample, more: Collection[str]) -> dict[str, Path]:
    """Files of an image, by what they hold; whatever it is called, they are in ``out``."""
    return {
        kind: out / folder / f"{file_name(sample.id)}{ending}"
        for kind, (folder, ending) in _PLACES.items()
        if kind in more
    }


def write_more(
    out: Path,
    sample: Sample,
    image: npt.NDArray[Any],
    bands: Bands,
    more: Collection[str],
    head: str,
    channels: Sequence[str] = (),
) -> str:
    """Write an image's own files; return its rows of the table of cells, if there is one.

    Args:
        out: folder of the results.
        sample: the image.
        image: its pixels.
        bands: its cells.
        more: what is wanted, of :data:`MORE`.
        head: of the table, from :func:`table_head`.
        channels: names of the image's, if it has several.
    """
    paths = image_paths(out, sample, more)
    if "rois" in paths:
        write_rois(paths["rois"], bands.whole())
    if "ome-tiff" in paths:
        write_label_image(paths["ome-tiff"], bands, ome_metadata(sample.pixel_size))
    if "ome-zarr" in paths:
        write_ome_zarr(paths["ome-zarr"], image, bands, sample.pixel_size, channels)
    tables = []
    if "cells" in more or "geojson" in more:
        tables = list(cell_tables(bands, image, sample.pixel_size, channels))
    if "geojson" in paths:
        joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        write_geojson(paths["geojson"], bands.whole(), joined)
    if "cells" not in more:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = head.rstrip().split(",")[1:]
    writer.writerows([sample.id, *row] for table in tables for row in rows_of(table, columns))
    return text.getvalue()


def table_head(sized: bool, channels: Sequence[str] = ()) -> str:
    """First line of the table of cells; with lengths in µm, too, if pixels have a size."""
    nothing = np.zeros((1, 1, len(channels)) if channels else (1, 1))
    columns = measure(Instances.empty((1, 1)), nothing, channels, 1.0 if sized else None)
    return ",".join(["image", *columns]) + "\n"


def cell_tables(
    bands: Bands, image: npt.NDArray[Any], pixel_size: float | None, channels: Sequence[str] = ()
) -> Iterator[Table]:
    """Measure the cells band by band, so that no image is held whole; see :func:`measure`."""
    before = 0
    for part in bands:
        top = max(int(part.boxes[:, 1].min(initial=bands.size[0])) - TOUCH, 0)
        bottom = min(int(part.boxes[:, 3].max(initial=0)) + TOUCH, bands.size[0])
        if not len(part):
            top, bottom = 0, 1
        own, _ = part.window((bottom - top, bands.size[1]), (0, -top))
        table = measure(own, np.asarray(image[top:bottom]), channels, pixel_size)
        # Neighbours may be in another band.
        seen, numbers = bands.strip(top, bottom)
        labels = np.concatenate([[-1], numbers])[seen.to_labels()] + 1
        table["cell"] = table["cell"] + before
        table["neighbours"] = count_neighbours(labels, own.boxes, table["cell"])
        table["y"] = table["y"] + top
        if pixel_size is not None:
            table["y_um"] = table["y"] * pixel_size
        before += len(part)
        yield table


def write_page(
    path: Path, samples: Sequence[Sample], shards: Shards, names: Sequence[str], title: str
) -> None:
    """Write the page of what was found in some finished images; ``names`` are of the classes."""
    known = {sample.id: sample for sample in samples}
    write_found(
        path,
        list(known),
        lambda name: known[name].image(),
        lambda name: _instances(shards.results(name), known[name].size, names),
        title,
    )


def _instances(entries: Sequence[dict[str, Any]], size: Size, names: Sequence[str]) -> Instances:
    """Instances of COCO results of one image, as this program writes them."""
    if not entries:
        return Instances.empty(size, names)
    found = [coco_counts_to_crop(entry["segmentation"]["counts"], size) for entry in entries]
    return Instances.from_crops(
        size,
        np.stack([box for box, _ in found]),
        [crop for _, crop in found],
        np.array([entry["score"] for entry in entries], np.float32),
        np.array([entry["category_id"] - 1 for entry in entries], np.int16),
        names,
    )
