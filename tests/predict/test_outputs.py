import json
import tracemalloc

import cv2
import numpy as np
import pytest
import tifffile

from somaseg.data.formats.results import read_results, write_results
from somaseg.data.formats.submission import write_submission
from somaseg.data.types import Sample
from somaseg.decide import SettleSettings
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.predict import pictures
from somaseg.predict.outputs import segment_samples
from somaseg.predict.predictor import Predictor
from somaseg.predict.segmenter import Segmenter
from somaseg.report.overlays import overlay
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
    assert large.total == large.cells["a"] == whole.total > 60
    assert told[-1][0] == "a"
    assert told[-1][1] == told[-1][2] == len(told)
    paths = [tmp_path / x / "labels" / "a.tif" for x in ("whole", "large")]
    one, other = map(tifffile.imread, paths)
    assert one.shape == other.shape == SIZE
    assert one.dtype == other.dtype == np.uint16
    assert np.array_equal(one, other)
    for table in ("predictions.json", "submission.csv"):
        assert (tmp_path / "large" / table).read_text() == (tmp_path / "whole" / table).read_text()
    found = read_results(tmp_path / "large" / "predictions.json")["a"]
    assert len(found) == whole.total
    # In the order of the labels.
    assert all((other[found.mask(k)] == k + 1).all() for k in range(len(found)))
    assert not (tmp_path / "large" / ".predict" / "tiles").exists()


def test_the_tables_are_those_of_before(tmp_path):
    """Joined from shards, they are what the writers of whole tables write."""
    samples = [sample(tmp_path, name, seed) for seed, name in enumerate("abc")]
    samples.append(blank(tmp_path, "none"))
    segment_samples(segmenter(), samples, tmp_path / "out", overlays=False)
    cells = {one.id: segmenter()(one.image()) for one in samples}
    write_results(tmp_path / "predictions.json", cells)
    write_submission(tmp_path / "submission.csv", cells)
    for table in ("predictions.json", "submission.csv"):
        assert (tmp_path / "out" / table).read_text() == (tmp_path / table).read_text()
    assert "none,\n" in (tmp_path / "submission.csv").read_text()
    for name, found in cells.items():
        labels = tifffile.imread(tmp_path / "out" / "labels" / f"{name}.tif")
        assert np.array_equal(labels, found.to_labels())
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert images == {one.id: str(one.image_path) for one in samples}


def blank(folder, name):
    path = folder / f"{name}.tif"
    tifffile.imwrite(path, np.zeros((60, 50), np.uint8))
    return Sample(name, (60, 50), path)


@pytest.mark.parametrize("bright", [250, 90])
def test_overlays_of_large_images_have_no_seams(tmp_path, bright, monkeypatch):
    one = sample(tmp_path, "a", bright=bright)
    image = one.image()
    expected = overlay(image, segmenter()(image), fill=0.15)
    for x, limit in (("whole", 1 << 24), ("large", 1000)):
        monkeypatch.setattr(pictures, "STRIP", limit)
        segment_samples(segmenter(), [one], tmp_path / x, large=limit)
    whole = cv2.imread(str(tmp_path / "whole" / "overlays" / "a.png"))[..., ::-1]
    large = tifffile.imread(tmp_path / "large" / "overlays" / "a.tif")
    assert np.array_equal(whole, expected)
    assert np.array_equal(large, expected)


def test_a_killed_prediction_goes_on(tmp_path):
    samples = [sample(tmp_path, "a"), sample(tmp_path, "b", 1)]
    model = FakeRegion()

    order = []  # large images are done one after the other, whichever thread comes first

    def stop(name, done, total):
        if name not in order:
            order.append(name)
        if order.index(name) == 1 and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_samples(
            segmenter(model), samples, tmp_path / "out", large=1000, tell=stop, workers=1
        )
    assert not (tmp_path / "out" / "predictions.json").exists()
    model.shapes.clear()
    done = segment_samples(segmenter(model), samples, tmp_path / "out", large=1000)
    tiles = len(segmenter().predictor.grid(SIZE))
    assert 0 < len(model.shapes) <= tiles // 2 + 4  # none of the first image's
    assert done.done == (order[1],)
    alone = segment_samples(segmenter(), samples, tmp_path / "again", large=1000)
    assert done.cells == alone.cells
    for name in ("labels/a.tif", "labels/b.tif", "predictions.json", "submission.csv"):
        one, other = (tmp_path / x / name for x in ("out", "again"))
        assert one.read_bytes() == other.read_bytes()


def shapes_of(samples, out, settings=SETTINGS, **options):
    """Predict again; how many tiles the network saw."""
    model = FakeRegion()
    again = segmenter(model)
    again.settings = settings
    segment_samples(again, samples, out, **options)
    return len(model.shapes)


def test_nothing_is_done_twice(tmp_path):
    samples = [sample(tmp_path, name, seed, size=(60, 50)) for seed, name in enumerate("abc")]
    out = tmp_path / "out"
    assert shapes_of(samples[:2], out, overlays=False) == 2
    before = (out / "predictions.json").read_text()
    assert shapes_of(samples[:2], out, overlays=False) == 0
    assert (out / "predictions.json").read_text() == before
    assert shapes_of(samples, out, overlays=False) == 1  # one more image
    assert shapes_of(samples, out) == 3  # their overlays
    (out / "labels" / "b.tif").unlink()
    assert shapes_of(samples, out) == 1
    changed = sample(tmp_path, "a", 7, size=(60, 50))
    assert shapes_of([changed, *samples[1:]], out) == 1
    few = {name: SettleSettings(score=0.99) for name in INFO.names}
    assert shapes_of(samples, out, few) == 3
    alone = tmp_path / "alone"
    shapes_of(samples, alone, few)
    assert (out / "predictions.json").read_text() == (alone / "predictions.json").read_text()


def test_what_a_killed_writer_left_is_cut_off(tmp_path):
    samples = [sample(tmp_path, name, seed, size=(60, 50)) for seed, name in enumerate("ab")]
    out, alone = tmp_path / "out", tmp_path / "alone"
    segment_samples(segmenter(), samples, alone)
    segment_samples(segmenter(), samples[:1], out)
    shard = out / ".predict" / "1-of-1"
    for name, rest in (
        ("index.jsonl", '{"id": "b", "ke'),
        ("results.jsonl", "{"),
        ("rows.csv", "b"),
    ):
        with (shard / name).open("a") as file:
            file.write(rest)
    segment_samples(segmenter(), samples, out)
    for table in ("predictions.json", "submission.csv"):
        assert (out / table).read_text() == (alone / table).read_text()


def test_shards_of_several_processes_are_joined(tmp_path):
    samples = [sample(tmp_path, name, seed, size=(60, 50)) for seed, name in enumerate("abcde")]
    out, alone = tmp_path / "out", tmp_path / "alone"
    for k in (2, 1, 3):
        part = segment_samples(segmenter(), samples, out, overlays=False, shard=(k, 3))
        assert part.done == tuple("abcde"[k - 1 :: 3])
        assert not (out / "predictions.json").exists()
    assert shapes_of(samples, out, overlays=False) == 0
    segment_samples(segmenter(), samples, alone, overlays=False)
    for table in ("predictions.json", "submission.csv"):
        assert (out / table).read_text() == (alone / table).read_text()


def test_threads_change_nothing(tmp_path):
    samples = [sample(tmp_path, f"i{k}", k, size=(90, 80)) for k in range(12)]
    for workers in (1, 4):
        seen = []
        segment_samples(
            segmenter(), samples, tmp_path / str(workers), done=seen.append, workers=workers
        )
        assert sorted(seen) == sorted(one.id for one in samples)
    for path in sorted((tmp_path / "1").rglob("*.*")):
        if ".predict" not in path.parts and path.is_file():
            other = tmp_path / "4" / path.relative_to(tmp_path / "1")
            assert path.read_bytes() == other.read_bytes(), path


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """But for the index, a few kilobytes an image; the masks are 60."""
    small = discs((104, 94), 14, radius=(3, 8), gap=0.5)[0] * 250
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.kron(small, np.ones((3, 3))).astype(np.uint8))
    peaks = []
    for count in (4, 4, 40):  # the first one compiles
        samples = [Sample(f"i{k}", (312, 282), path) for k in range(count)]
        tracemalloc.start()
        out = tmp_path / str(len(peaks))
        segment_samples(segmenter(), samples, out, overlays=False, workers=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Two megabytes would be the masks of 36 more images; the interpreter itself takes some.
    assert peaks[2] < 1.3 * peaks[1] + 1_000_000


def test_an_image_that_cannot_be_read_costs_only_itself(tmp_path):
    samples = [sample(tmp_path, name, seed, size=(60, 50)) for seed, name in enumerate("abc")]
    data = samples[1].image_path.read_bytes()
    samples[1].image_path.write_bytes(data[: len(data) // 2])
    done = segment_samples(segmenter(), samples, tmp_path / "out")
    assert list(done.cells) == ["a", "c"]
    assert list(done.failed) == ["b"]
    assert "b.tif" in done.failed["b"]
    found = {x["image_id"] for x in json.loads((tmp_path / "out/predictions.json").read_text())}
    assert found == {"a", "c"}
    samples[1].image_path.write_bytes(data)
    assert segment_samples(segmenter(), samples, tmp_path / "out").done == ("b",)


def test_files_that_are_not_ours_are_not_written_over(tmp_path):
    one = sample(tmp_path, "a", size=(60, 50))
    for name in ("labels/a.tif", "overlays/a.png", "predictions.json", "submission.csv"):
        out = tmp_path / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("drawn by hand")
        with pytest.raises(SomasegError, match="is there already, and"):
            segment_samples(segmenter(), [one], out)
        assert (out / name).read_text() == "drawn by hand"
        assert [p.name for p in out.iterdir()] == [name.split("/")[0]]
    # What an earlier somaseg wrote may be written again.
    old = tmp_path / "old"
    (old / "labels").mkdir(parents=True)
    (old / "labels" / "a.tif").touch()
    (old / "predictions.json").write_text("[]")
    assert segment_samples(segmenter(), [one], old).done == ("a",)


def test_bad_values_name_the_file(tmp_path):
    one = sample(tmp_path, "a", dtype=np.float32)
    image = tifffile.imread(one.image_path)
    image[5, 7] = np.nan
    tifffile.imwrite(one.image_path, image)
    done = segment_samples(segmenter(), [one], tmp_path / "out", large=1000)
    assert "a.tif: 1 of 86800 values are not finite" in done.failed["a"]


def test_no_image_at_all(tmp_path):
    done = segment_samples(segmenter(), [], tmp_path / "out")
    assert done.total == 0
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []
    assert (tmp_path / "out" / "submission.csv").read_text() == "id,predicted\n"


def test_more_cells_than_16_bits_hold(tmp_path):
    from somaseg.predict.bands import Bands
    from somaseg.predict.pictures import write_label_image
    from somaseg.predict.store import save_predictions

    n = 70_000
    y, x = np.divmod(np.arange(n, dtype=np.int32), 300)
    boxes = np.stack([2 * x, 2 * y, 2 * x + 1, 2 * y + 1], axis=1)
    size = (int(boxes[:, 3].max()), 600)
    cells = Instances.from_flat(size, _dots(boxes), names=("a",))
    save_predictions(tmp_path / "0.npz", {"band": cells[:30_000]})
    save_predictions(tmp_path / "1.npz", {"band": cells[30_000:]})
    bands = Bands(size, [tmp_path / "0.npz", tmp_path / "1.npz"])
    write_label_image(tmp_path / "labels.tif", bands)
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
        assert len(done.cells) == len(samples)
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
    (tmp_path / "new" / ".predict").mkdir(parents=True)
    (tmp_path / "new" / ".predict" / "mine.txt").write_text("kept")
    with pytest.raises(SomasegError, match=r"\.predict: holds files that somaseg did not write"):
        segment_samples(segmenter(), [one], tmp_path / "new", large=0)
    assert (tmp_path / "new" / ".predict" / "mine.txt").read_text() == "kept"
    with pytest.raises(SomasegError, match="thesis: holds files that somaseg did not write"):
        segmenter().bands(one.image(), foreign)
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
