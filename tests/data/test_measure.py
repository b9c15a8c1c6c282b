"""The table of cells, held against scikit-image on the whole label image."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from skimage.draw import ellipse
from skimage.measure import regionprops_table

from somaseg.data.measure import measure, write_cells
from somaseg.data.synthetic import make_image
from somaseg.errors import SomasegError
from somaseg.instances import Instances


def cells_of_a_scene() -> tuple[Instances, np.ndarray]:
    image, cells = make_image("shsy5y", 3, (160, 200))
    cells, _ = cells.disjoint()
    return cells.replace(scores=np.linspace(0.2, 1, len(cells)).astype(np.float32)), image


def test_the_table_says_what_scikit_image_says_of_the_label_image() -> None:
    cells, image = cells_of_a_scene()
    labels = cells.to_labels()
    table = measure(cells, image, pixel_size=0.5)
    properties = ("area", "centroid", "axis_major_length", "eccentricity", "solidity", "perimeter")
    found = regionprops_table(labels, image, properties=(*properties, "intensity_mean"))
    assert len(cells) > 5
    assert np.array_equal(table["area"], found["area"])
    for ours, theirs in [
        (table["x"], found["centroid-1"] + 0.5),
        (table["y"], found["centroid-0"] + 0.5),
        (table["major_axis"], found["axis_major_length"]),
        (table["eccentricity"], found["eccentricity"]),
        (table["solidity"], found["solidity"]),
        (table["perimeter"], found["perimeter"]),
        (table["intensity"], found["intensity_mean"]),
        (table["x_um"], (found["centroid-1"] + 0.5) / 2),
        (table["area_um2"], found["area"] / 4),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("degrees", [-60, -20, 0, 35, 80])
def test_orientation_is_counter_clockwise_from_the_x_axis(degrees: float) -> None:
    mask = np.zeros((101, 101), np.uint8)
    mask[ellipse(50, 50, 12, 40, rotation=np.radians(degrees))] = 1
    table = measure(Instances.from_masks(mask[None]))
    assert table["orientation"][0] == pytest.approx(degrees, abs=1)
    assert table["major_axis"][0] == pytest.approx(80, rel=0.03)


def test_neighbours_are_cells_within_two_pixels() -> None:
    labels = np.zeros((10, 30), np.int32)
    labels[2:6, 2:6], labels[2:6, 6:9], labels[2:6, 10:14], labels[2:6, 20:24] = 1, 2, 3, 4
    assert measure(Instances.from_labels(labels))["neighbours"].tolist() == [1, 2, 1, 0]


def test_each_channel_is_measured_by_itself() -> None:
    labels = np.zeros((6, 6), np.int32)
    labels[1:3, 1:3] = 1
    image = np.stack([np.full((6, 6), 7), np.arange(36).reshape(6, 6)], axis=2)
    table = measure(Instances.from_labels(labels), image, ["actin", "dapi"])
    assert table["intensity_actin"].tolist() == [7]
    assert table["intensity_dapi"].tolist() == [10.5]
    with pytest.raises(SomasegError, match="1 names for 2 channels"):
        measure(Instances.from_labels(labels), image, ["actin"])


@pytest.mark.parametrize("size", [0, -1, np.nan])
def test_a_pixel_has_a_size(size: float) -> None:
    with pytest.raises(SomasegError, match="pixel size"):
        measure(Instances.empty((3, 3)), pixel_size=size)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_of_several_images_are_one(tmp_path: Path, ending: str) -> None:
    cells, image = cells_of_a_scene()
    tables = {
        "a": measure(cells, image),
        "none": measure(Instances.empty(cells.size, cells.names), image),
        "b": measure(cells[:2]),
    }
    path = tmp_path / f"cells.{ending}"
    write_cells(path, tables)
    if ending == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    assert [row["image"] for row in rows] == ["a"] * len(cells) + ["b"] * 2
    assert float(rows[1]["area"]) == cells.areas[1]
    assert rows[0]["class"] == cells.names[cells.classes[0]]
    assert rows[-1]["intensity"] in ("", None)
    assert [float(row["score"]) for row in rows[: len(cells)]] == pytest.approx(
        cells.scores.tolist(), rel=1e-5
    )
