from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from somaseg.data import prepared
from somaseg.data.augment import AugmentSettings, CropSampler
from somaseg.data.synthetic import make_image
from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from tests.data.make import write_image

STILL = AugmentSettings(
    scale=1, rotate=False, elastic=0, brightness=0, contrast=0, gamma=0, blur=0, noise=0
)


@pytest.fixture
def sample(tmp_path):
    """An image that is bright exactly where its cells are."""
    cells = make_image("cort", 1, (200, 240))[1]
    image = ((cells.to_labels() > 0) * 200 + 20).astype(np.uint8)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image)
    return Sample("a", (200, 240), path, cells, "cort")


def sampler(sample, settings=STILL, **options):
    options = {"size": 64, "scale": 1.0, **options}
    return CropSampler([sample], lambda x: x.to_labels()[None], settings=settings, **options)


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.7])
@pytest.mark.parametrize(
    "settings", [STILL, AugmentSettings(brightness=0, contrast=0, gamma=0, blur=0, noise=0)]
)
def test_labels_move_with_the_image(sample, scale, settings):
    crops = sampler(sample, settings, scale=scale)
    for index in range(10):
        crop = crops.draw(index)
        bright = crop.image > crop.image.mean() + 0.2
        labelled = crop.planes[0] > 0
        # They may differ on outlines, where one is interpolated and the other is not.
        inner = cv2.erode(labelled.astype(np.uint8), np.ones((3, 3))) > 0
        outer = cv2.dilate(labelled.astype(np.uint8), np.ones((3, 3))) > 0
        assert bright[inner].mean() > 0.97 if inner.sum() > 20 else True
        assert bright[~outer].mean() < 0.03


def test_stride_and_margin_cut_the_same_place(sample):
    fine = sampler(sample).draw(3).planes[0]
    coarse = sampler(sample, stride=2, margin=5).draw(3)
    inner = coarse.planes[0][5:-5, 5:-5]
    assert coarse.planes.shape == (1, 42, 42)
    # A label pixel lies between two fine ones each way; outlines differ, the inside does not.
    assert (inner == fine[::2, ::2]).mean() > 0.93
    assert (inner == fine[1::2, 1::2]).mean() > 0.93


def test_crop_depends_on_seed_and_number_alone(sample):
    settings = AugmentSettings()
    one, other = sampler(sample, settings, seed=4), sampler(sample, settings, seed=4)
    for index in (5, 2, 9):
        other.draw(index)
    assert np.array_equal(one.draw(7).image, other.draw(7).image)
    assert np.array_equal(one.draw(7).planes, other.draw(7).planes)
    assert not np.array_equal(one.draw(7).image, one.draw(8).image)
    fifth = sampler(sample, settings, seed=5)
    assert not np.array_equal(one.draw(7).image, fifth.draw(7).image)


def test_classes_are_drawn_alike(tmp_path, sample):
    blank = np.zeros((200, 240), np.uint8)
    cv2.imwrite(str(tmp_path / "b.png"), blank)
    empty = sample.instances[:0]
    rare = Sample("b", (200, 240), tmp_path / "b.png", empty, "shsy5y")
    crops = CropSampler(
        [sample] * 9 + [rare], lambda x: x.to_labels()[None], size=32, scale=1.0, settings=STILL
    )
    # The rare class's only image has no cells, and nothing but cells is bright.
    empty_share = np.mean([np.ptp(crops.draw(i).image) == 0 for i in range(300)])
    assert 0.4 < empty_share < 0.75


def test_image_smaller_than_the_crop(sample):
    crop = sampler(sample, size=512, scale=1.0).draw(0)
    assert crop.image.shape == (512, 512)
    assert np.isfinite(crop.image).all()


def test_no_images():
    with pytest.raises(SomasegError, match="no annotated image"):
        CropSampler([], lambda x: x.layers(), size=32, scale=1.0)


def prepared_sampler(folder, paths, **more):
    samples = [
        Sample(f"a{i}", (60, 50), path, Instances.from_labels(LABELS[:60, :50] * (i > 0)))
        for i, path in enumerate(paths)
    ]
    return CropSampler(
        samples, lambda instances: instances.to_labels()[None], size=32, scale=1.0, cache=folder,
        **more,
    )  # fmt: skip


LABELS = np.zeros((64, 64), np.int32)
LABELS[5:20, 8:30], LABELS[30:50, 20:44] = 1, 2


@pytest.fixture
def image_paths(tmp_path):
    paths = [tmp_path / f"a{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        write_image(path, (60, 50), seed=i)
    return paths


def test_crops_from_mapped_files_are_those_from_memory(tmp_path, image_paths, monkeypatch):
    in_memory = prepared_sampler(None, image_paths)
    monkeypatch.setattr(prepared, "HELD", 0)
    mapped = prepared_sampler(tmp_path / "prepared", image_paths)
    assert len(list((tmp_path / "prepared").glob("*.npy"))) == 3
    assert isinstance(mapped.images[0].image.base, np.memmap | np.ndarray)
    for index in range(20):
        one, two = in_memory.draw(index), mapped.draw(index)
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.planes, two.planes)
        assert one.planes.dtype == np.int32
        np.testing.assert_array_equal(one.classes, two.classes)


def test_prepared_files_are_shared_and_made_anew_when_anything_changed(
    tmp_path, image_paths, monkeypatch
):
    monkeypatch.setattr(prepared, "HELD", 0)
    folder = tmp_path / "prepared"
    prepared_sampler(folder, image_paths)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    prepared_sampler(folder, image_paths[:2])
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.npy")} == before
    write_image(image_paths[0], (60, 50), seed=9)
    prepared_sampler(folder, image_paths)
    assert len(list(folder.glob("*.npy"))) == 4
    prepared_sampler(folder, image_paths, cache_key="other planes")
    assert len(list(folder.glob("*.npy"))) == 7


def test_a_disk_without_room_for_prepared_files_is_told_first(tmp_path, image_paths, monkeypatch):
    monkeypatch.setattr(prepared, "HELD", 0)
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(SomasegError, match="prepared images need 0 MB, 0 are free"):
        prepared_sampler(tmp_path / "prepared", image_paths)
    assert not list((tmp_path / "prepared").glob("*.npy"))
