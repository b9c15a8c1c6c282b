"""``import somaseg``: what it offers, and that it costs nothing."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile

import somaseg
from somaseg.data.synthetic import write_dataset
from tests.predict.test_outputs import segmenter

NAMES = {"Dataset", "Instances", "fit", "load", "read", "score", "write"}


def test_importing_it_costs_nothing():
    program = (
        "import sys, somaseg; dir(somaseg)\n"
        "heavy = {'torch', 'numba', 'numpy', 'cv2', 'scipy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_it_offers():
    assert set(somaseg.__all__) == NAMES <= set(dir(somaseg))
    for name in NAMES:
        assert callable(getattr(somaseg, name))
    with pytest.raises(AttributeError, match="no attribute 'reed'"):
        _ = somaseg.reed


def test_the_whole_way(tmp_path):
    write_dataset(tmp_path / "data", 1, size=(64, 80))
    dataset = somaseg.read(tmp_path / "data")
    assert isinstance(dataset, somaseg.Dataset)
    segment = segmenter()
    found = segment(dataset)
    assert list(found) == dataset.ids
    path = dataset.samples[0].image_path
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    one, two = segment([str(path), image])
    for cells in (one, two, segment(path), segment(image)):
        assert isinstance(cells, somaseg.Instances)
        assert np.array_equal(cells.to_labels(), found[dataset.ids[0]].to_labels())
    truth = {sample.id: sample.annotated().disjoint()[0] for sample in dataset}
    assert somaseg.score(dataset, truth).competition.map > 0.9
    somaseg.write(tmp_path / "masks", truth)
    assert somaseg.score(tmp_path / "data", tmp_path / "masks").competition.map > 0.9
    labels = tifffile.imread(tmp_path / "masks" / "labels" / f"{dataset.ids[0]}.tif")
    assert np.array_equal(labels > 0, truth[dataset.ids[0]].to_labels() > 0)
    assert (tmp_path / "masks" / "submission.csv").is_file()


def test_cells_give_their_table_and_outlines():
    """Without importing anything but somaseg; the pixels read back are those of the masks."""
    program = (
        "import numpy as np, somaseg, sys\n"
        "from somaseg.instances import Instances\n"
        "labels = np.zeros((30, 40), np.int32); labels[3:9, 4:12] = 1; labels[20:25, 30:38] = 2\n"
        "cells = Instances.from_labels(labels)\n"
        "image = np.where(labels == 1, 7, 2).astype(np.uint8)\n"
        "table = cells.table(image, pixel_size=0.5)\n"
        "assert table['area'].tolist() == [48, 40] and table['area_um2'].tolist() == [12, 10]\n"
        "assert table['intensity'].tolist() == [7, 2]\n"
        "import shapely.geometry\n"
        "shapes = [shapely.geometry.shape(f['geometry']) for f in"
        " cells.geojson(table)['features']]\n"
        "rois = [shapely.geometry.Polygon(roi.coordinates()) for roi in cells.rois()]\n"
        "assert [s.bounds for s in shapes] == [(4, 3, 12, 9), (30, 20, 38, 25)]\n"
        "assert all(one.equals(other) for one, other in zip(shapes, rois, strict=True))\n"
        "assert '<' in cells._repr_html_()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
