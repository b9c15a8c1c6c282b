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
