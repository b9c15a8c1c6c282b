import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from somaseg.data import Dataset, Sample, load_dataset
from somaseg.data.facts import PERCENTILES, diameters, measure, touching
from somaseg.data.fingerprint import Fingerprint, fingerprint, quantiles, summarise
from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.instances import Instances

SIZE = (40, 60)


def square(y, x, side):
    mask = np.zeros(SIZE, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def sample_of(tmp_path, id, image, masks=None, classes=None, names=("a", "b"), **fields):
    path = tmp_path / f"{id}.png"
    cv2.imwrite(str(path), image)
    cells = None
    if masks is not None:
        cells = Instances.from_masks(np.array(masks), classes=classes, names=names)
    return Sample(id, image.shape[:2], path, cells, **fields)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_touching_is_what_dilation_says(seed):
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(int(rng.integers(0, 7))):
        y, x = int(rng.integers(0, 36)), int(rng.integers(0, 56))
        masks.append(square(y, x, int(rng.integers(1, 9))))
    stack = np.array(masks).reshape(-1, *SIZE)
    grown = [binary_dilation(mask, np.ones((3, 3), bool)) for mask in stack]
    expected = [
        any((grown[i] & stack[j]).any() for j in range(len(stack)) if j != i)
        for i in range(len(stack))
    ]
    assert touching(Instances.from_masks(stack)).tolist() == expected


def test_figures_of_one_image_agree_with_dense_masks(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, SIZE, dtype=np.uint8)
    masks = [square(2, 2, 10), square(7, 7, 10), square(25, 40, 4)]
    dataset = Dataset(
        (sample_of(tmp_path, "one", image, masks, classes=[0, 0, 1]),), ("a", "b"), "here", 0.5
    )
    found = fingerprint(dataset)
    count = np.sum(masks, axis=0)
    outside = image[count == 0].astype(float)

    assert (found.images, found.annotated, found.pixel_size) == (1, 1, 0.5)
    assert [(s.height, s.width, s.images) for s in found.sizes] == [(40, 60, 1)]
    assert found.pixel_types == {"uint8 gray": 1}
    for group, rows in [
        (found.overall, [0, 1, 2]), (found.by_class["a"], [0, 1]), (found.by_class["b"], [2]),
    ]:  # fmt: skip
        inside = np.sum([masks[i] for i in rows], axis=0) > 0
        gray = image[inside].astype(float)
        areas = [masks[i].sum() for i in rows]
        assert group.images == 1
        assert group.cells == len(rows)
        assert group.cells_per_image.mean == len(rows)
        assert group.area.median == np.median(areas)
        assert group.area.max == max(areas)
        assert group.diameter.mean == pytest.approx(
            np.mean([2 * (a / np.pi) ** 0.5 for a in areas])
        )
        assert group.density.mean == pytest.approx(inside.mean())
        assert group.overlap.mean == pytest.approx((inside & (count > 1)).sum() / inside.sum())
        assert group.contrast.mean == pytest.approx((gray.mean() - outside.mean()) / outside.std())
        assert group.texture.mean == pytest.approx(gray.std() / outside.std())
        expected = np.percentile(image, PERCENTILES)
        assert list(group.intensity.values()) == pytest.approx(list(expected))
    assert found.overall.touching == pytest.approx(2 / 3)
    assert found.by_class["a"].touching == 1
    assert found.by_class["b"].touching == 0


def test_classes_take_their_own_images(tmp_path):
    flat = np.full(SIZE, 100, np.uint8)
    dataset = Dataset(
        (
            sample_of(tmp_path, "1", flat, [square(0, 0, 5)], classes=[0], image_class="a"),
            sample_of(tmp_path, "2", flat + 50, [square(0, 0, 9)], classes=[1], image_class="b"),
            sample_of(tmp_path, "3", flat + 50, np.zeros((0, *SIZE), bool), image_class="b"),
            sample_of(tmp_path, "4", flat + 90),
        ),
        ("a", "b"),
        "here",
    )
    found = fingerprint(dataset)
    a, b = found.by_class["a"], found.by_class["b"]
    assert (a.images, a.cells, b.images, b.cells) == (1, 1, 2, 1)
    assert a.intensity["p50"] == 100
    assert b.intensity["p50"] == 150
    assert (b.cells_per_image.min, b.cells_per_image.max) == (0, 1)
    assert b.density.min == 0
    assert b.overlap.n == 1  # the image without cells has no foreground to share
    assert a.contrast is None  # a flat background has no spread to measure by
    assert (found.images, found.annotated) == (4, 3)
    assert found.overall.images == 4
    assert found.overall.density.n == 3


def test_annotations_without_images_and_images_without_annotations(tmp_path):
    masks = Instances.from_masks(np.array([square(0, 0, 5)]))
    alone = fingerprint(Dataset((Sample("a", SIZE, None, masks),), (), "here"))
    assert alone.pixel_types == {}
    assert alone.overall.intensity is None
    assert alone.overall.contrast is None
    assert alone.overall.area.median == 25
    assert alone.by_class == {}

    deep = np.random.default_rng(0).integers(0, 60_000, SIZE).astype(np.uint16)
    bare = fingerprint(Dataset((sample_of(tmp_path, "deep", deep),), (), "here"))
    assert bare.annotated == 0
    assert bare.pixel_types == {"uint16 gray": 1}
    assert bare.overall.intensity["p50"] == pytest.approx(np.median(deep), rel=1e-6)
    assert bare.overall.area is None
    assert bare.overall.touching is None
    assert bare.overall.density is None

    nothing = fingerprint(Dataset((), (), "here"))
    assert (nothing.images, nothing.overall.cells, nothing.sizes) == (0, 0, ())


def test_an_image_that_is_all_cell_has_no_contrast(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    sample = sample_of(tmp_path, "full", image, np.ones((1, *SIZE), bool), names=())
    found = fingerprint(Dataset((sample,), (), "here")).overall
    assert found.density.mean == 1
    assert found.contrast is None


def test_json_keeps_everything_and_holds_only_numbers(tmp_path):
    folder = write_dataset(tmp_path, 1, (96, 96), seed=1)
    found = fingerprint(load_dataset(folder))
    text = found.model_dump_json()
    assert Fingerprint.model_validate_json(text) == found
    assert "NaN" not in text
    assert set(json.loads(text)["by_class"]) == {"astro", "cort", "shsy5y"}


def test_threads_change_nothing_and_measuring_is_done_once(tmp_path):
    dataset = load_dataset(write_dataset(tmp_path, 2, (96, 96), seed=2))
    assert fingerprint(dataset, workers=1) == fingerprint(dataset, workers=3)
    assert summarise(dataset, measure(dataset)) == fingerprint(dataset)
    assert [fact.id for fact in measure(dataset, workers=3)] == dataset.ids


def test_synthetic_kinds_are_told_apart(tmp_path):
    found = fingerprint(load_dataset(write_dataset(tmp_path, 2, (260, 352)))).by_class
    assert found["astro"].diameter.median > 1.4 * found["cort"].diameter.median
    assert found["shsy5y"].cells > 5 * found["cort"].cells
    assert found["shsy5y"].touching > 2 * found["cort"].touching
    assert found["astro"].overlap.mean > found["cort"].overlap.mean
    assert all(group.texture.median > 1.5 for group in found.values())


def test_unreadable_image_is_named(tmp_path):
    sample = sample_of(tmp_path, "cut", np.zeros(SIZE, np.uint8), [square(0, 0, 5)])
    sample.image_path.write_bytes(sample.image_path.read_bytes()[:40])
    with pytest.raises(SomasegError, match=r"cut\.png"):
        fingerprint(Dataset((sample,), ("a", "b"), "here"))


def test_quantiles_leave_nan_out():
    assert quantiles([]) is None
    assert quantiles([np.nan]) is None
    found = quantiles([1, 2, 3, np.nan, 4])
    assert (found.n, found.mean, found.min, found.median, found.max) == (4, 2.5, 1, 2.5, 4)


def test_diameter_is_that_of_a_disc():
    rows, columns = np.mgrid[:201, :201]
    area = np.count_nonzero((rows - 100) ** 2 + (columns - 100) ** 2 <= 80**2)
    assert diameters(np.array([area]))[0] == pytest.approx(160, rel=0.01)
