import numpy as np
import pytest
from hypothesis import given, settings

from somaseg.data import Dataset, Sample, load_dataset
from somaseg.data.facts import diameters, measure, overlap_share
from somaseg.data.fingerprint import summarise
from somaseg.instances import Instances
from tests.data.make import competition, instances, labels_folder, masks_of, write_image


def in_figures(dataset):
    return summarise(dataset, measure(dataset, decode=False))


@settings(max_examples=60, deadline=None)
@given(instances())
def test_claims_are_the_sum_of_the_masks(found):
    claims = masks_of(found).sum(0)
    np.testing.assert_array_equal(found.claims(), claims)
    shared, share = overlap_share(found)
    assert shared == (claims > 1).sum()
    assert share == (shared / (claims > 0).sum() if claims.any() else 0)


def test_figures_by_class_and_in_total(tmp_path):
    rows = ["a,1 4,16,12,astro", "a,3 4 20 1,16,12,astro", "b,1 9,16,12,cort", "c,,16,12,cort"]
    competition(tmp_path, rows, images="abc")
    write_image(tmp_path / "train" / "b.png", dtype=np.uint16)
    facts = in_figures(load_dataset(tmp_path))
    total = facts.overall
    assert (total.images, total.annotated, total.cells, total.cells_per_image.max) == (3, 3, 3, 2)
    assert total.cells_per_image.mean == 1
    assert total.area.median == 5
    assert total.diameter.median == pytest.approx(2 * np.sqrt(5 / np.pi))
    assert total.overlap_share == pytest.approx(2 / (7 + 9))
    astro, cort = facts.by_class["astro"], facts.by_class["cort"]
    assert (astro.images, astro.cells, astro.area.median) == (1, 2, 4.5)
    assert (cort.images, cort.cells, cort.cells_per_image.mean) == (2, 1, 0.5)
    assert cort.overlap_share == 0
    assert [(size.width, size.height, size.images) for size in facts.sizes] == [(16, 12, 3)]
    assert facts.pixel_types == {"uint8 gray": 2, "uint16 gray": 1}


def test_classes_mixed_in_images_and_images_that_cannot_be_read(tmp_path):
    both = Instances.from_runs((2, 4), ["1 2", "5 1"], classes=[0, 1], names=("x", "y"))
    none = Instances.empty((2, 4), ("x", "y"))
    (tmp_path / "b.png").write_bytes(b"?")
    samples = (
        Sample("a", (2, 4), None, both, group="w"),
        Sample("b", (2, 4), tmp_path / "b.png", none, group="v"),
        Sample("c", (3, 3)),
    )
    facts = in_figures(Dataset(samples, ("x", "y"), "memory"))
    assert (facts.overall.images, facts.overall.annotated, facts.overall.cells) == (3, 2, 2)
    assert [group.cells for group in facts.by_class.values()] == [1, 1]
    assert facts.by_class["x"].area.median == 2
    assert facts.pixel_types == {"unreadable": 1}


def test_label_images_have_no_overlap(tmp_path):
    labels_folder(tmp_path, {"a": np.arange(12).reshape(3, 4)})
    facts = in_figures(load_dataset(tmp_path))
    assert facts.overall.cells == 11
    assert facts.overall.overlap_share == 0
    assert diameters(np.array([np.pi]))[0] == pytest.approx(2)
