"""Cells to Fiji's ROIs and QuPath's GeoJSON, read back by other libraries and by ourselves."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import shapely
import shapely.geometry

from somaseg.data.formats.geojson import read_geojson, to_geojson, write_geojson
from somaseg.data.formats.rois import read_rois, write_rois
from somaseg.data.measure import measure
from somaseg.errors import SomasegError
from somaseg.instances import Instances

SIZE = (40, 60)


def some_cells() -> Instances:
    """A plain cell, one with a hole, one in two pieces, and two that meet at a corner."""
    labels = np.zeros(SIZE, np.int32)
    labels[2:9, 3:12] = 1
    labels[4:6, 5:8] = 0
    labels[20:30, 40:60] = 2
    labels[12:15, 20:25] = labels[18:19, 20:22] = 3
    labels[32, 5] = labels[33, 6] = 4
    labels[10:14, 2:9] = 5
    return Instances.from_labels(labels).replace(
        scores=np.array([1, 0.5, 0.25, 0.125, 0.75], np.float32),
        classes=np.array([0, 1, 0, -1, 1], np.int16),
        names=("a [1]", "b"),
    )


def same(one: Instances, other: Instances) -> None:
    assert np.array_equal(one.to_labels(), other.to_labels())
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
    assert [other.names[k] if k >= 0 else "" for k in other.classes] == [
        one.names[k] if k >= 0 else "" for k in one.classes
    ]


def test_qupath_reads_valid_polygons_with_class_score_and_measurements(tmp_path: Path) -> None:
    cells = some_cells()
    write_geojson(tmp_path / "x.geojson", cells, measure(cells))
    content = json.loads((tmp_path / "x.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    for i, feature in enumerate(content["features"]):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        assert shape.area == cells.areas[i]
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["measurements"]["Score"] == cells.scores[i]
        assert properties["measurements"]["area"] == cells.areas[i]
    assert content["features"][0]["properties"]["classification"]["name"] == "a [1]"
    assert "classification" not in content["features"][3]["properties"]
    same(cells, read_geojson(tmp_path / "x.geojson", SIZE))


def test_fiji_reads_outlines_and_composites(tmp_path: Path) -> None:
    cells = some_cells()
    write_rois(tmp_path / "x.zip", cells)
    rois = roifile.roiread(tmp_path / "x.zip")
    assert [roi.composite for roi in rois] == [True, False, True, True, False]
    plain = shapely.Polygon(rois[1].coordinates())
    assert plain.area == cells.areas[1]
    assert plain.bounds == (40, 20, 60, 30)
    hole = [shapely.Polygon(ring) for ring in rois[0].coordinates(multi=True)]
    assert hole[0].difference(hole[1]).area == cells.areas[0]
    assert rois[0].name == "0001 a [1]"
    same(cells, read_rois(tmp_path / "x.zip", SIZE))


def test_rois_drawn_by_hand_are_cells(tmp_path: Path) -> None:
    drawn = roifile.ImagejRoi.frompoints(
        np.array([[3.6, 2.4], [10.2, 2.4], [10.2, 8.9]]), name="mine"
    )
    rectangle = roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT, left=20, top=5, right=25, bottom=9, name="box"
    )
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("mine.roi", drawn.tobytes())
        file.writestr("box.roi", rectangle.tobytes())
    cells = read_rois(tmp_path / "x.zip", SIZE)
    assert cells.boxes[1].tolist() == [20, 5, 25, 9]
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = shapely.contains_xy(shapely.Polygon(drawn.coordinates()), columns + 0.5, rows + 0.5)
    assert np.array_equal(cells.mask(0), inside)


def test_nothing_found_is_read_back_as_nothing(tmp_path: Path) -> None:
    none = Instances.empty(SIZE, ("a",))
    write_geojson(tmp_path / "x.geojson", none)
    assert len(read_geojson(tmp_path / "x.geojson", SIZE)) == 0


def feature(**changes: Any) -> dict[str, Any]:
    return to_geojson(some_cells()[1])["features"][0] | changes


def test_a_class_that_is_a_number_is_called_so(tmp_path: Path) -> None:
    content = to_geojson(some_cells())
    for feature in content["features"]:
        feature["properties"]["classification"] = {"name": 0.5}
    (tmp_path / "x.geojson").write_text(json.dumps(content))
    found = read_geojson(tmp_path / "x.geojson", SIZE)
    assert (found.names, set(found.classes)) == (("0.5",), {0})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": 1}, "not a GeoJSON"),
        ([feature(geometry={"type": "Point", "coordinates": [1, 2]})], "feature 1: a Point"),
        ([feature(), feature(geometry=None)], "feature 2: not a polygon"),
        ([feature(properties={"measurements": {"Score": 7}})], "score of 7"),
        ([feature(properties={"classification": {"name": "z"}})], "class 'z' is none of a, b"),
        (
            [feature(geometry={"type": "Polygon", "coordinates": [[[70, 1], [90, 1], [90, 9]]]})],
            "60×40",
        ),
    ],
)
def test_bad_geojson_is_told_in_one_line(tmp_path: Path, content: Any, reason: str) -> None:
    path = tmp_path / "x.geojson"
    path.write_text(json.dumps(content))
    with pytest.raises(SomasegError, match=reason) as error:
        read_geojson(path, SIZE, ("a", "b"))
    assert str(path) in str(error.value)


def test_bad_rois_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    line = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.LINE, x1=1, y1=2, x2=3, y2=4, name="scale")

    def hold(content: bytes) -> Callable[[], None]:
        def write() -> None:
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("1.roi", content)

        return write

    def squeezed() -> None:
        """A stream that deflate cannot have written."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("1.roi", bytes(500))
            begin = file.infolist()[0].header_offset + 30 + len("1.roi")
        data = bytearray(path.read_bytes())
        data[begin] = 0xFF
        path.write_bytes(data)

    def write_text(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.txt", "nothing")

    for write, reason in [
        (hold(line.tobytes()), "'scale': a line, which has no area"),
        (hold(b"Iout" + bytes(9)), "damaged"),
        (squeezed, "damaged"),
        (lambda: path.write_bytes(b"PK nonsense"), "not ImageJ ROIs"),
        (lambda: write_text(path), "no .roi"),
    ]:
        write()
        with pytest.raises(SomasegError, match=reason) as error:
            read_rois(path, SIZE)
        assert str(path) in str(error.value)
