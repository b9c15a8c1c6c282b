import dataclasses

import numpy as np
import pytest

from somaseg.data import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from tests.data.make import write_image

EMPTY = Instances.empty((4, 5), ("cort",))


def sample(name, **fields):
    return Sample(name, (4, 5), **({"instances": EMPTY} | fields))


def test_a_dataset_is_a_sequence_with_names():
    dataset = Dataset((sample("a"), sample("b", image_class="cort")), ("cort",), "here")
    assert len(dataset) == 2
    assert dataset.ids == ["a", "b"]
    assert dataset["b"] is dataset[1] is list(dataset)[1]
    assert "a" in dataset
    assert "c" not in dataset
    assert dataset.image_classes == {"a": None, "b": "cort"}
    assert dataset.subset(["b"]).ids == ["b"]
    assert repr(dataset) == "Dataset(2 images, 0 instances of cort)"
    with pytest.raises(SomasegError, match="here: no image 'c' among its 2"):
        dataset["c"]


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(SomasegError, match="two images are called 'a'"):
        Dataset((sample("a"), sample("a")), ("cort",), "here")
    with pytest.raises(SomasegError, match="image a has classes"):
        Dataset((sample("a"),), ("astro",), "here")
    with pytest.raises(SomasegError, match="image a is of class 'astro', not one of cort"):
        Dataset((sample("a", image_class="astro"),), ("cort",), "here")
    with pytest.raises(SomasegError, match=r"image a: size \(9, 9\), but its instances lie on"):
        Sample("a", (9, 9), instances=EMPTY)


def test_images_are_read_when_asked_for(tmp_path):
    path = tmp_path / "a.png"
    lazy = Sample("a", (12, 16), path)
    image = write_image(path)
    np.testing.assert_array_equal(lazy.image(), image)
    with pytest.raises(SomasegError, match=r"a\.png: 16×12 pixels, but annotated on 16×13"):
        dataclasses.replace(lazy, size=(13, 16)).image()
    with pytest.raises(SomasegError, match="image a: not annotated"):
        lazy.annotated()
