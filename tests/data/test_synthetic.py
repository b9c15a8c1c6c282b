import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from somaseg.data import load_dataset
from somaseg.data.synthetic import KINDS, make_image, make_samples, write_dataset
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.pieces import count_pieces
from somaseg.scoring import Overlaps

SEEDS = range(4)


def cover(instances: Instances) -> np.ndarray:
    """How many instances lie on each pixel, written independently of the package."""
    count = np.zeros(instances.size, int)
    for i in range(len(instances)):
        x0, y0, x1, y1 = instances.boxes[i]
        count[y0:y1, x0:x1] += np.asarray(instances.crop(i), int)
    return count


def otsu_pieces(image: np.ndarray, dark: bool) -> Instances:
    """What a beginner would try: blur, Otsu's threshold, connected components."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5)
    kind = cv2.THRESH_BINARY_INV if dark else cv2.THRESH_BINARY
    _, binary = cv2.threshold(smooth, 0, 255, kind | cv2.THRESH_OTSU)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=4)
    small = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < 30)
    labels[np.isin(labels, small)] = 0
    return Instances.from_labels(labels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(260, 352), (96, 64)])
def test_image_is_gray_and_masks_lie_inside(kind, size):
    for seed in SEEDS:
        image, cells = make_image(kind, seed, size)
        assert image.dtype == np.uint8
        assert image.shape == size == cells.size
        assert 123 < image.mean() < 133
        assert len(cells) > 0
        assert cells.names == KINDS
        assert set(cells.classes.tolist()) == {KINDS.index(kind)}
        assert not cells.soft
        assert np.array_equal(cells.scores, np.ones(len(cells), np.float32))
        assert (cells.boxes[:, :2] >= 0).all()
        assert (cells.boxes[:, 2] <= size[1]).all()
        assert (cells.boxes[:, 3] <= size[0]).all()
        assert cells.areas.min() >= 30
        assert (count_pieces(*cells.flat) == 1).all()
        tight, rows = cells.tightened()
        assert np.array_equal(tight.boxes, cells.boxes)
        assert len(rows) == len(cells)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_pixels_and_another_seed_others(kind):
    image, cells = make_image(kind, 3)
    again, cells_again = make_image(kind, 3)
    other, _ = make_image(kind, 4)
    assert np.array_equal(image, again)
    assert np.array_equal(cells.boxes, cells_again.boxes)
    assert np.array_equal(cells.pixels, cells_again.pixels)
    assert not np.array_equal(image, other)


def test_another_process_draws_the_same():
    code = (
        "import hashlib\nfrom somaseg.data.synthetic import make_image\n"
        "image, cells = make_image('shsy5y', (5, 2), (96, 128))\n"
        "print(hashlib.sha256(image.tobytes() + cells.pixels.tobytes()).hexdigest())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    image, cells = make_image("shsy5y", (5, 2), (96, 128))
    here = hashlib.sha256(image.tobytes() + cells.pixels.tobytes()).hexdigest()
    assert result.stdout.strip() == here


def test_kinds_differ_as_the_cell_types_do():
    count, area, shared, foreground = {}, {}, {}, {}
    for kind in KINDS:
        scenes = [make_image(kind, seed, (520, 704))[1] for seed in SEEDS]
        covers = [cover(cells) for cells in scenes]
        count[kind] = np.mean([len(cells) for cells in scenes])
        area[kind] = np.median(np.concatenate([cells.areas for cells in scenes]))
        shared[kind] = sum((c > 1).sum() for c in covers) / sum((c > 0).sum() for c in covers)
        foreground[kind] = np.mean([(c > 0).mean() for c in covers])
    # Measured on the real images: 34, 338 and 88 cells; 203, 196 and 557 pixels.
    assert 22 < count["cort"] < 48
    assert 250 < count["shsy5y"] < 430
    assert 60 < count["astro"] < 120
    assert 150 < area["cort"] < 260
    assert 150 < area["shsy5y"] < 260
    assert 430 < area["astro"] < 720
    # Overlapping pixels, as a share of the foreground: 0.6, 2.2 and 2.4 percent.
    assert shared["cort"] < 0.015
    assert 0.008 < shared["shsy5y"] < 0.05
    assert 0.012 < shared["astro"] < 0.06
    assert foreground["cort"] < 0.05 < foreground["astro"]
    assert foreground["shsy5y"] > 0.12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dark", [True, False])
def test_no_plain_threshold_finds_the_cells(kind, dark):
    scores = []
    for seed in SEEDS:
        image, truth = make_image(kind, seed)
        overlaps = Overlaps.between(truth, otsu_pieces(image, dark))
        scores.append(overlaps.counts().accuracy.mean())
    assert np.mean(scores) < 0.35


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_where_the_picture_shows_cells(kind):
    for seed in SEEDS:
        image, cells = make_image(kind, seed)
        inside = cover(cells) > 0
        ring = cv2.dilate(inside.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & ~inside
        far = ~cv2.dilate(inside.astype(np.uint8), np.ones((21, 21), np.uint8)).astype(bool)
        # A bright halo around dark bodies, both away from the gray of the background.
        assert image[ring].mean() > np.median(image[far]) + 1
        assert image[inside].mean() < np.median(image[far]) - 1


def test_a_larger_set_begins_with_the_smaller():
    small = list(make_samples(1, (64, 64), seed=7))
    large = list(make_samples(2, (64, 64), seed=7))
    assert [sample.id for sample in small] == ["astro-000", "cort-000", "shsy5y-000"]
    assert len(large) == 6
    for one, two in zip(small, large, strict=False):
        assert (one.id, one.kind) == (two.id, two.kind)
        assert np.array_equal(one.image, two.image)
    assert not np.array_equal(large[0].image, large[3].image)


@pytest.mark.parametrize("format", ["competition", "coco"])
def test_a_written_set_reads_back_the_same(tmp_path, format):
    folder = write_dataset(tmp_path / "set", 2, (80, 96), seed=1, format=format)
    dataset = load_dataset(folder)
    samples = {sample.id: sample for sample in make_samples(2, (80, 96), seed=1)}
    assert set(dataset.ids) == set(samples)
    assert dataset.names == KINDS
    for sample in dataset:
        drawn = samples[sample.id]
        assert np.array_equal(sample.image(), drawn.image)
        read = sample.annotated()
        assert np.array_equal(read.boxes, drawn.instances.boxes)
        assert np.array_equal(read.pixels, drawn.instances.pixels)
        assert np.array_equal(read.classes, drawn.instances.classes)


def test_label_images_lose_the_overlaps_only(tmp_path):
    folder = write_dataset(tmp_path, 1, (128, 128), seed=2, format="labels")
    dataset = load_dataset(folder)
    for drawn in make_samples(1, (128, 128), seed=2):
        read = dataset[drawn.id].annotated()
        assert np.array_equal(cover(read) > 0, cover(drawn.instances) > 0)
        assert cover(read).max() == 1
        assert 0 < len(read) <= len(drawn.instances)


def test_test_images_continue_the_series_without_annotation(tmp_path):
    write_dataset(tmp_path, 1, (64, 80), seed=3, n_test=1)
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [
        "astro-000.png", "cort-000.png", "shsy5y-000.png",
    ]  # fmt: skip
    tests = sorted((tmp_path / "test").iterdir())
    assert [path.name for path in tests] == ["astro-001.png", "cort-001.png", "shsy5y-001.png"]
    drawn = [sample.image for sample in make_samples(2, (64, 80), seed=3)]
    assert np.array_equal(cv2.imread(str(tests[0]), cv2.IMREAD_UNCHANGED), drawn[3])
    assert "-001" not in (tmp_path / "train.csv").read_text()
    header = (tmp_path / "train.csv").read_text().splitlines()[0]
    assert header == "id,annotation,width,height,cell_type"


def test_what_cannot_be_drawn_is_said(tmp_path):
    with pytest.raises(SomasegError, match=r"no synthetic cells of kind 'hela'.*cort"):
        make_image("hela", 0)
    with pytest.raises(SomasegError, match=r"20 × 300 is too small; use 48"):
        make_image("cort", 0, (20, 300))
    with pytest.raises(SomasegError, match="unknown format 'zip'; choose competition"):
        write_dataset(tmp_path, format="zip")
    with pytest.raises(SomasegError, match="at least one image"):
        write_dataset(tmp_path, 0)
    with pytest.raises(SomasegError, match="labels layout has no folder for test images"):
        write_dataset(tmp_path, 1, format="labels", n_test=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(SomasegError, match="cannot be written"):
        write_dataset(tmp_path / "file" / "set", 1, (64, 64))


def test_numpy_seeds_do_and_negative_ones_do_not():
    assert np.array_equal(make_image("cort", np.int64(3), (64, 64))[0],
                          make_image("cort", 3, (64, 64))[0])  # fmt: skip
    with pytest.raises(SomasegError, match="seed -1 is negative"):
        make_image("cort", -1)
