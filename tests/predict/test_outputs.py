import json

import cv2
import numpy as np
import pytest
import tifffile

from somaseg.data.formats.results import read_results
from somaseg.data.types import Sample
from somaseg.decide import SettleSettings
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.overlap import pairwise_iou
from somaseg.predict.outputs import segment_samples
from somaseg.predict.predictor import Predictor
from somaseg.predict.segmenter import Segmenter
from tests.predict.fakes import INFO, FakeRegion, discs

SETTINGS = {name: SettleSettings(score=0, min_area=5) for name in INFO.names}
SIZE = (310, 280)


def segmenter(model=None):
    predictor = Predictor([model or FakeRegion()], tile=96, overlap=24)
    return Segmenter(predictor, INFO.names, SETTINGS, False)


def sample(folder, name, seed=0, dtype=np.uint8, size=SIZE, bright=250, **options):
    image = np.round(discs(size, 120, seed, radius=(3, 8), gap=0.5)[0] * bright).astype(dtype)
    path = folder / f"{name}.tif"
    tifffile.imwrite(path, image, photometric="minisblack", **options)
    return Sample(name, size, path)


@pytest.mark.parametrize(
    ("dtype", "bright", "options"),
    [(np.uint8, 250, {}), (np.uint16, 4000, {"compression": "zlib"}), (np.float32, 90, {})],
)
def test_large_images_are_written_as_others_are(tmp_path, dtype, bright, options):
    one = sample(tmp_path, "a", dtype=dtype, bright=bright, **options)
    whole = segment_samples(segmenter(), [one], tmp_path / "whole")
    told = []
    large = segment_samples(
        segmenter(), [one], tmp_path / "large", large=1000, tell=lambda *x: told.append(x)
    )
    assert whole.large == {} == large.cells
    assert large.total == large.large["a"] == whole.total == len(whole.cells["a"]) > 60
    assert told[-1][0] == "a"
    assert told[-1][1] == told[-1][2] == len(told)
    paths = [tmp_path / x / "labels" / "a.tif" for x in ("whole", "large")]
    one, other = map(tifffile.imread, paths)
    assert one.shape == other.shape == SIZE
    assert one.dtype == other.dtype == np.uint16
    assert np.array_equal(one > 0, other > 0)
    # The same cells, each with one number of its own.
    pairs = np.unique(np.stack([one, other], -1).reshape(-1, 2), axis=0)
    assert len(pairs) == large.total + 1
    assert set(pairs[:, 1]) == set(range(large.total + 1))
    found = read_results(tmp_path / "large" / "predictions.json")["a"]
    expected = whole.cells["a"]
    iou = pairwise_iou(expected, found)
    assert (iou.max(axis=1) == 1).all()
    assert np.allclose(found.scores[iou.argmax(axis=1)], expected.scores)
    # In the order of the labels.
    assert all((other[found.mask(k)] == k + 1).all() for k in range(len(found)))
    assert not (tmp_path / "large" / ".tiles").exists()
    assert not (tmp_path / "large" / "submission.csv").exists()


def test_overlays_of_large_images_have_no_seams(tmp_path):
    one = sample(tmp_path, "a")
    for x, limit in (("whole", 1 << 24), ("large", 1000)):
        segment_samples(segmenter(), [one], tmp_path / x, large=limit)
    whole = cv2.imread(str(tmp_path / "whole" / "overlays" / "a.png"))[..., ::-1]
    large = tifffile.imread(tmp_path / "large" / "overlays" / "a.tif")
    assert large.shape == whole.shape
    assert np.array_equal(large, whole)


def test_small_and_large_images_together(tmp_path):
    samples = [sample(tmp_path, "a"), sample(tmp_path, "b", 1, size=(90, 90))]
    done = segment_samples(segmenter(), samples, tmp_path / "out", False, large=90 * 90)
    assert list(done.large) == ["a"]
    assert list(done.cells) == ["b"]
    images = [x["image_id"] for x in json.loads((tmp_path / "out/predictions.json").read_text())]
    assert sorted(set(images)) == ["a", "b"]
    assert len(images) == done.total
    rows = (tmp_path / "out" / "submission.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0] for row in rows} == {"b"}
    assert not (tmp_path / "out" / "overlays").exists()


def test_a_killed_prediction_goes_on(tmp_path):
    samples = [sample(tmp_path, "a"), sample(tmp_path, "b", 1)]
    model = FakeRegion()

    def stop(name, done, total):
        if name == "b" and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_samples(segmenter(model), samples, tmp_path / "out", large=1000, tell=stop)
    assert not (tmp_path / "out" / "predictions.json").exists()
    model.shapes.clear()
    done = segment_samples(segmenter(model), samples, tmp_path / "out", large=1000)
    tiles = len(segmenter().predictor.grid(SIZE))
    assert 0 < len(model.shapes) <= tiles // 2 + 4  # none of the first image's
    alone = segment_samples(segmenter(), samples, tmp_path / "again", large=1000)
    assert done == alone
    for name in "ab":
        one, other = (tmp_path / x / "labels" / f"{name}.tif" for x in ("out", "again"))
        assert np.array_equal(tifffile.imread(one), tifffile.imread(other))
    # A changed image under the same name is another image.
    with pytest.raises(KeyboardInterrupt):
        segment_samples(segmenter(), samples, tmp_path / "out", large=1000, tell=stop)
    changed = [sample(tmp_path, "a", 5), samples[1]]
    model.shapes.clear()
    segment_samples(segmenter(model), changed, tmp_path / "out", large=1000)
    assert len(model.shapes) >= tiles


def test_bad_values_name_the_file(tmp_path):
    one = sample(tmp_path, "a", dtype=np.float32)
    image = tifffile.imread(one.image_path)
    image[5, 7] = np.nan
    tifffile.imwrite(one.image_path, image)
    with pytest.raises(SomasegError, match=r"a\.tif: 1 of 86800 values are not finite"):
        segment_samples(segmenter(), [one], tmp_path / "out", large=1000)


def test_no_image_at_all(tmp_path):
    done = segment_samples(segmenter(), [], tmp_path / "out")
    assert done.total == 0
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []
    assert (tmp_path / "out" / "submission.csv").read_text() == "id,predicted\n"


def test_more_cells_than_16_bits_hold(tmp_path):
    from somaseg.predict.large import Bands
    from somaseg.predict.large_outputs import write_large_labels
    from somaseg.predict.store import save_predictions

    n = 70_000
    y, x = np.divmod(np.arange(n, dtype=np.int32), 300)
    boxes = np.stack([2 * x, 2 * y, 2 * x + 1, 2 * y + 1], axis=1)
    size = (int(boxes[:, 3].max()), 600)
    cells = Instances.from_flat(size, _dots(boxes), names=("a",))
    save_predictions(tmp_path / "0.npz", {"band": cells[:30_000]})
    save_predictions(tmp_path / "1.npz", {"band": cells[30_000:]})
    bands = Bands(size, [tmp_path / "0.npz", tmp_path / "1.npz"])
    write_large_labels(tmp_path / "labels.tif", bands)
    labels = tifffile.imread(tmp_path / "labels.tif")
    assert labels.dtype == np.uint32
    assert np.array_equal(labels[boxes[:, 1], boxes[:, 0]], np.arange(1, n + 1))
    assert np.count_nonzero(labels) == n


def _dots(boxes):
    from somaseg.masks.flat import Flat

    return Flat(boxes, np.ones(len(boxes), np.uint8), np.arange(len(boxes) + 1))


IDS = ("/etc/a", "../../a", "a/../../b", "..", "a\\b", "x" * 400, "a\nb", "CON", "é", "e\u0301")


def test_no_id_leads_out_of_the_folder(tmp_path):
    """Ids are data: absolute, with ``../``, longer than a file name, alike but for an accent."""
    (tmp_path / "in").mkdir()
    path = sample(tmp_path / "in", "image", size=(60, 50)).image_path
    out = tmp_path / "deep" / "er" / "out"
    for large in (0, 1 << 24):
        samples = [Sample(name, (60, 50), path) for name in [*IDS, str(tmp_path / "in" / "image")]]
        done = segment_samples(segmenter(), samples, out, large=large)
        assert len(done.large or done.cells) == len(samples)
        assert len(list((out / "labels").iterdir())) == len(samples)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "in"]
        assert [p.name for p in (tmp_path / "in").iterdir()] == ["image.tif"]
        assert [p.name for p in (tmp_path / "deep" / "er").iterdir()] == ["out"]
        found = {entry["image_id"] for entry in json.loads((out / "predictions.json").read_text())}
        assert found == {s.id for s in samples}
    assert tifffile.imread(path).shape == (60, 50)


def test_a_folder_that_bears_an_image_s_name_is_not_deleted(tmp_path):
    """An id that is an absolute path once named the folder that was emptied for its tiles."""
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("years of work")
    path = sample(tmp_path, "image", size=(60, 50)).image_path
    one = Sample(str(foreign), (60, 50), path)
    segment_samples(segmenter(), [one], tmp_path / "out", large=0)
    assert (foreign / "chapter.tex").read_text() == "years of work"
    (tmp_path / "out" / ".tiles").mkdir()
    (tmp_path / "out" / ".tiles" / "mine.txt").write_text("kept")
    with pytest.raises(SomasegError, match=r"\.tiles: holds files that somaseg did not write"):
        segment_samples(segmenter(), [one], tmp_path / "out", large=0)
    assert (tmp_path / "out" / ".tiles" / "mine.txt").read_text() == "kept"
    with pytest.raises(SomasegError, match="thesis: holds files that somaseg did not write"):
        segmenter().large(one.image(), foreign)
    assert (foreign / "chapter.tex").read_text() == "years of work"


def test_a_micrograph_is_never_written_over(tmp_path):
    (tmp_path / "labels").mkdir()
    one = sample(tmp_path / "labels", "a", size=(60, 50))
    before = one.image_path.read_bytes()
    with pytest.raises(SomasegError, match=r"a\.tif: would be written over .*a\.tif"):
        segment_samples(segmenter(), [one], tmp_path)
    assert one.image_path.read_bytes() == before
    # Under another spelling, too.
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(SomasegError, match="would be written over"):
        segment_samples(segmenter(), [one], tmp_path / "link")
    assert one.image_path.read_bytes() == before
