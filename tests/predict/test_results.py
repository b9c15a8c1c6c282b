"""Tables, ROIs, GeoJSON and the page of a prediction, held against its label images."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import roifile
import shapely.geometry
import tifffile
import zarr
from ome_zarr_models import v04
from skimage.measure import regionprops_table

from somaseg.cli.sources import gather
from somaseg.data import load_dataset
from somaseg.data.axes import Choice
from somaseg.data.images import image_header
from somaseg.data.synthetic import make_image
from somaseg.errors import SomasegError
from somaseg.files import CannotWrite
from somaseg.instances import Instances
from somaseg.predict.bands import Bands
from somaseg.predict.outputs import segment_samples
from somaseg.predict.results import MORE
from somaseg.predict.zarr_folder import write_ome_zarr
from tests.predict.test_outputs import sample, segmenter


@pytest.fixture(params=[4096 * 4096, 0], ids=["whole", "in bands"])
def written(request, tmp_path):
    samples = [sample(tmp_path, name, k, size=(300, 200)) for k, name in enumerate("ab")]
    samples[1] = replace(samples[1], id="b/c")
    out, options = tmp_path / "out", {"more": MORE, "pixel_size": 0.5, "large": request.param}
    found = segment_samples(segmenter(), samples, out, **options)
    assert found.total > 10
    return samples, out


def test_every_result_tells_of_the_cells_in_the_label_images(written):
    samples, out = written
    with (out / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for one, name in zip(samples, ("a", "b%2Fc"), strict=True):
        labels = tifffile.imread(out / "labels" / f"{name}.tif")
        image = one.image()
        found = regionprops_table(
            labels, image, properties=("label", "area", "centroid", "intensity_mean")
        )
        mine = [row for row in rows if row["image"] == one.id]
        assert [int(row["cell"]) for row in mine] == found["label"].tolist()
        for column, values in [
            ("area", found["area"]),
            ("area_um2", found["area"] / 4),
            ("y", found["centroid-0"] + 0.5),
            ("y_um", (found["centroid-0"] + 0.5) / 2),
            ("x", found["centroid-1"] + 0.5),
            ("intensity", found["intensity_mean"]),
        ]:
            read = [float(row[column]) for row in mine]
            np.testing.assert_allclose(read, values, rtol=1e-5)
        touching = [near(labels, int(row["cell"])) for row in mine]
        assert [int(row["neighbours"]) for row in mine] == touching
        features = json.loads((out / "geojson" / f"{name}.geojson").read_text())["features"]
        areas = [shapely.geometry.shape(feature["geometry"]).area for feature in features]
        assert areas == found["area"].tolist()
        assert [f["properties"]["measurements"]["area"] for f in features] == areas
        assert len(roifile.roiread(out / "rois" / f"{name}.zip")) == len(mine)
        check_ome(out, name, one, labels)
    page = (out / "report.html").read_text("utf-8")
    assert page.count("<path ") == len(rows)


def check_ome(out, name, one, labels):
    """Labels with a pixel size: by tifffile, and by the models of OME-Zarr's specification."""
    path = out / "ome-tiff" / f"{name}.ome.tif"
    assert np.array_equal(tifffile.imread(path), labels)
    assert image_header(path).axes.pixel_size == 0.5
    group = zarr.open_group(out / "ome-zarr" / f"{name}.ome.zarr", mode="r")
    image = v04.Image.from_zarr(group)
    assert image.attributes.multiscales[0].axes[-1].unit == "micrometer"
    assert image.labels.attributes.labels == ["cells"]
    found = v04.ImageLabel.from_zarr(group["labels/cells"])
    assert found.attributes.image_label.version == "0.4"
    assert [p["label-value"] for p in group["labels/cells"].attrs["image-label"]["properties"]] == [
        *range(1, labels.max() + 1)
    ]
    for data in (group["0"], group["labels/cells/0"]):
        assert data.shape == labels.shape
    assert np.array_equal(group["labels/cells/0"][:], labels)
    (again,) = load_dataset(out / "ome-zarr" / f"{name}.ome.zarr")
    assert np.array_equal(again.image(), one.image())
    assert again.pixel_size == 0.5


def near(labels, number):
    """Brute force: labels of pixels at most 2 away from a cell."""
    ys, xs = np.nonzero(labels == number)
    found = set()
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            if dy * dy + dx * dx <= 4:
                y, x = ys + dy, xs + dx
                inside = (y >= 0) & (y < labels.shape[0]) & (x >= 0) & (x < labels.shape[1])
                found |= set(labels[y[inside], x[inside]].tolist())
    return len(found - {0, number})


def test_what_cannot_be_written_is_told_before_anything_starts(tmp_path):
    one = sample(tmp_path, "a", 0, size=(60, 50))
    for options, reason in [
        ({"more": ["cels"]}, "choose from cells, rois, geojson, page, ome-tiff"),
        ({"more": ["cells"], "pixel_size": 0}, "pixel size 0"),
    ]:
        with pytest.raises(SomasegError, match=reason):
            segment_samples(segmenter(), [one], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_table_of_other_units_is_measured_again(tmp_path):
    one = sample(tmp_path, "a", 0, size=(60, 50))
    out = tmp_path / "out"
    assert segment_samples(segmenter(), [one], out, more=["cells"]).done == ("a",)
    assert segment_samples(segmenter(), [one], out, more=["cells"]).done == ()
    assert segment_samples(segmenter(), [one], out, more=["cells"], pixel_size=2).done == ("a",)
    head, *rows = (out / "cells.csv").read_text().splitlines()
    assert head.endswith("perimeter_um,area_um2")
    assert rows


def test_pixel_sizes_of_files_and_planes_reach_the_results(tmp_path):
    image = make_image("cort", 0, (60, 50))[0]
    for name, stack, more in [
        ("sized", np.stack([image, image[::-1]]), {"unit": "um", "axes": "TYX"}),
        ("plain", image, {}),
    ]:
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, stack, imagej=True, resolution=(2, 2), metadata=more)
    given = gather([tmp_path])
    assert [s.id for s in given.samples] == ["plain", "sized_t000", "sized_t001"]
    out = tmp_path / "out"
    first = segment_samples(segmenter(), given.samples, out, more=["cells"])
    assert len(first.done) == 3
    assert segment_samples(segmenter(), given.samples, out, more=["cells"]).done == ()
    again = load_dataset(out)
    assert np.array_equal(again["sized_t001"].image(), image[::-1])
    with (out / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"] for row in rows} == set(again.ids)
    for row in rows:
        area = row["area_um2"]
        assert area == "" if row["image"] == "plain" else float(area) == int(row["area"]) / 4
    other = segment_samples(segmenter(), given.samples, out, more=["cells"], pixel_size=2)
    assert len(other.done) == 3
    frame = gather([tmp_path / "sized.tif"], Choice(frame=1))
    assert [s.id for s in frame.samples] == ["sized_t001"]
    assert segment_samples(segmenter(), frame.samples, out).done == ("sized_t001",)


def test_colours_and_levels_of_an_ome_zarr(tmp_path):
    """Each level is half the one before, of image and labels alike; written whole or not at all."""
    labels = np.zeros((1500, 1100), np.int32)
    labels[1020:1030, 3:9] = 1
    cells = Instances.from_labels(labels)
    image = np.random.default_rng(0).integers(0, 255, (1500, 1100, 3), dtype=np.uint8)
    path = tmp_path / "a.ome.zarr"
    write_ome_zarr(path, image, Bands(cells.size, [cells]))
    group = zarr.open_group(path, mode="r")
    v04.Image.from_zarr(group)
    for k in range(2):
        assert np.array_equal(np.moveaxis(group[str(k)][:], 0, 2), image[:: 2**k, :: 2**k])
        assert np.array_equal(group[f"labels/cells/{k}"][:], labels[:: 2**k, :: 2**k])
    assert image_header(path).axes.names == ("red", "green", "blue")
    write_ome_zarr(path, image[..., 0], Bands(cells.size, [cells]))  # over what is ours
    assert zarr.open_group(path, mode="r")["0"].ndim == 2
    (tmp_path / "b.ome.zarr").mkdir()
    (tmp_path / "b.ome.zarr/mine").touch()
    with pytest.raises(CannotWrite, match=r"b\.ome\.zarr"):
        write_ome_zarr(tmp_path / "b.ome.zarr", image, Bands(cells.size, [cells]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ome.zarr", "b.ome.zarr"]
