import numpy as np
import pytest
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from somaseg.data import Dataset, Sample, load_dataset
from somaseg.data.formats.label_files import Loss, measure_loss, write_labels
from somaseg.data.formats.labels import write_label_folder
from somaseg.data.images import read_labels
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from tests.data.make import assert_same, datasets, instances, masks_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


@settings(max_examples=40, deadline=None)
@given(
    labels=hnp.arrays(
        np.int32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.sampled_from([0, 1, 255, 256, 65_535, 65_536, 2**31 - 1]),
    )
)
def test_tiff_comes_back_with_every_label(folder, labels):
    write_labels(folder / "a.tif", labels)
    np.testing.assert_array_equal(read_labels(folder / "a.tif"), labels)
    stored = tifffile.imread(folder / "a.tif").dtype
    assert stored == (np.uint16 if labels.max() < 65_536 else np.uint32)


def test_png_holds_sixteen_bits(tmp_path):
    labels = np.arange(12).reshape(3, 4) * 5957
    write_labels(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("a.png", np.full((2, 2), 65_536), r"a\.png: label 65536 does not fit the 16 bits"),
        ("a.jpg", np.ones((2, 2), int), r"a\.jpg: label images end with \.tif or \.png"),
        ("a.tif", np.full((2, 2), -1), r"a\.tif: labels are integers \(h, w\) from 0"),
        ("a.tif", np.ones((2, 2)), r"not float64 \(2, 2\)"),
        ("a.tif", np.ones((2, 2, 3), int), r"not int64 \(2, 2, 3\)"),
    ],
)
def test_what_is_no_label_image_is_refused(tmp_path, name, labels, message):
    with pytest.raises(SomasegError, match=message):
        write_labels(tmp_path / name, labels)
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(instances(), st.sampled_from(["smallest_first", "largest_first", "score"]))
def test_the_loss_is_what_the_masks_lack(found, order):
    labels = found.to_labels(order)
    masks = masks_of(found)
    kept = np.array([labels == i + 1 for i in range(len(found))], bool).reshape(masks.shape)
    loss = measure_loss(found, labels)
    assert loss.pixels == (masks & ~kept).sum()
    assert loss.shared == (masks.sum(0) > 1).sum()
    assert loss.hidden == sum(not mask.any() for mask in kept)


@settings(max_examples=40, deadline=None)
@given(dataset=datasets(mixed=True, scored=True), ending=st.sampled_from([".tif", ".png"]))
def test_disjoint_cells_come_back_with_class_score_and_group(tmp_path_factory, dataset, ending):
    samples = tuple(
        Sample(s.id, s.size, None, s.instances.disjoint()[0], None, s.group) for s in dataset
    )
    assume(any(len(sample.instances) > 1 for sample in samples))  # else they may look binary
    whole = Dataset(samples, dataset.names, "memory")
    folder = tmp_path_factory.mktemp("folder")
    assert sum(write_label_folder(folder, whole, ending=ending).values(), Loss()) == Loss()
    again = load_dataset(folder, need_images=False)
    known = tuple(Sample(s.id, s.size, None, s.instances, None, s.group) for s in again)
    assert_same(whole, Dataset(known, again.names, "again"))


@settings(max_examples=30, deadline=None)
@given(dataset=datasets(mixed=True, scored=True))
def test_overlap_is_resolved_in_the_order_named(tmp_path_factory, dataset):
    resolved = {s.id: s.instances.disjoint("largest_first")[0] for s in dataset}
    assume(any(len(found) > 1 for found in resolved.values()))  # else they may look binary
    folder = tmp_path_factory.mktemp("folder")
    losses = write_label_folder(folder, dataset, "largest_first")
    again = load_dataset(folder, need_images=False)
    for sample in dataset:
        expected = resolved[sample.id]
        found = again[sample.id].instances
        np.testing.assert_array_equal(masks_of(expected), masks_of(found))
        lost = sample.instances.areas.sum() - expected.areas.sum()
        assert losses[sample.id].pixels == lost
        assert losses[sample.id].hidden == len(sample.instances) - len(expected)


def test_one_class_of_another_name_is_kept(tmp_path):
    found = Instances.from_runs((2, 4), ["1 2"], names=("cort",))
    samples = (
        Sample("a", (2, 4), None, found, "cort"),
        Sample("b", (2, 4), None, found[:0], "cort"),
    )
    write_label_folder(tmp_path, Dataset(samples, ("cort",), "memory"))
    again = load_dataset(tmp_path, need_images=False)
    assert again.names == ("cort",)
    assert again.image_classes == {"a": "cort", "b": "cort"}
    assert not (tmp_path / "instances.csv").exists()
