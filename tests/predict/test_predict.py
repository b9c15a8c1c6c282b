import numpy as np
import pytest

from somaseg.data.augment import prepare_image
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.overlap import pairwise_iou
from somaseg.models.base import Dense
from somaseg.models.config import ModelInfo
from somaseg.predict.predictor import Predictor, default_overlap, predict_images
from tests.predict.fakes import INFO, FakeDense, FakeRegion, _Fake, discs

KINDS = (FakeDense, FakeRegion)


class Gradients(_Fake, Dense):
    """Maps that turn with the image to the last bit, and drift with ``drift`` across it."""

    vectors = ((0, 1),)
    drift = 0.0

    def maps(self, gray):
        padded = np.pad(gray, 1, mode="edge")
        dy, dx = padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
        slope = self.drift * np.linspace(0, 1, gray.shape[1], dtype=np.float32)
        return np.stack([dy, dx + slope, gray + slope])

    def decode(self, maps):
        self.decoded = maps
        return Instances.empty(maps.shape[1:], self.names, soft=True)


def same(one, other, least=0.999):
    """Whether each instance of one is one of the other, IoU at least ``least``."""
    if len(one) != len(other):
        return False
    iou = pairwise_iou(one, other)
    return bool((iou.max(axis=0) >= least).all() and (iou.max(axis=1) >= least).all())


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_give_what_the_whole_image_gives(kind):
    gray, labels = discs((190, 230), 90, radius=(3, 10))
    model = kind()
    whole = Predictor([model], tile=256)(gray)
    model.shapes.clear()
    tiled = Predictor([model], tile=64, overlap=21)(gray)
    assert max(max(shape) for shape in model.shapes) <= 64
    assert len(set(model.shapes)) == 1  # all tiles are alike, also those that stick out
    assert len(whole) == labels.max()
    assert same(whole, tiled, 0.9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mosaic_has_the_cells_of_its_parts(kind):
    parts = [discs((60, 80), 12, seed)[0] for seed in range(25)]
    # Levels differ from part to part: those of the mosaic hold for all.
    mosaic = np.block([parts[5 * i : 5 * i + 5] for i in range(5)])
    predictor = Predictor([kind()], tile=96, overlap=24)
    found = predictor(mosaic)
    assert len(predictor.grid(mosaic.shape)) > 12
    prepared = prepare_image(mosaic)
    for k in range(25):
        y, x = k // 5 * 60, k % 5 * 80
        alone = predictor.find(prepared[y : y + 60, x : x + 80])
        inner = alone[
            (alone.boxes[:, :2] > 1).all(axis=1)
            & (alone.boxes[:, 2] < 79)
            & (alone.boxes[:, 3] < 59)
        ]
        assert len(inner) > 3
        here, _ = found.window((60, 80), (-x, -y))
        assert (pairwise_iou(inner, here).max(axis=1) > 0.9).all()
        # None of them twice.
        assert ((pairwise_iou(inner, here) > 0.5).sum(axis=1) == 1).all()


@pytest.mark.parametrize("views", ["flips", "all"])
def test_views_change_nothing_for_a_model_that_turns_with_the_image(views):
    gray = discs((40, 56), 8)[0]
    model = Gradients()
    Predictor([model])(gray)
    plain = model.decoded
    Predictor([model], views)(gray)
    assert np.abs(model.decoded - plain).max() < 1e-6


@pytest.mark.parametrize("views", ["flips", "all"])
def test_symmetric_images_give_symmetric_maps_whatever_the_model(views):
    quarter = discs((24, 24), 6)[0]
    quarter = np.maximum(quarter, quarter.T)
    half = np.concatenate([quarter, quarter[::-1]])
    gray = np.concatenate([half, half[:, ::-1]], axis=1)
    model = Gradients()
    model.drift = 1.0
    Predictor([model], views)(gray)
    scalar, (dy, dx) = model.decoded[2], model.decoded[:2]
    assert np.abs(scalar - scalar[:, ::-1]).max() < 1e-5
    assert np.abs(scalar - scalar[::-1]).max() < 1e-5
    assert np.abs(dx + dx[:, ::-1]).max() < 1e-5
    assert np.abs(dy + dy[::-1]).max() < 1e-5
    Predictor([model])(gray)
    assert np.abs(model.decoded[2] - model.decoded[2][:, ::-1]).max() > 0.5


@pytest.mark.parametrize("views", ["flips", "all"])
def test_views_of_a_region_family_change_nothing_for_a_model_that_turns_with_the_image(views):
    gray = discs((80, 110), 25)[0]
    plain = Predictor([FakeRegion()])(gray)
    model = FakeRegion()
    found = Predictor([model], views)(gray)
    assert len(model.shapes) == {"flips": 4, "all": 8}[views]
    order = np.lexsort(found.boxes.T), np.lexsort(plain.boxes.T)
    for field in ("boxes", "classes"):
        assert np.array_equal(getattr(found, field)[order[0]], getattr(plain, field)[order[1]])
    assert np.allclose(found.scores[order[0]], plain.scores[order[1]])
    one, other = found[order[0]], plain[order[1]]
    assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_views_find_the_same_cells(kind):
    gray, labels = discs((90, 120), 20, radius=(6, 10))
    plain = Predictor([kind()])(gray)
    model = kind()
    found = Predictor([model], "flips+scales")(gray)
    assert len(model.shapes) == 12
    assert len(found) == labels.max()
    assert same(plain, found, 0.8)


def test_cells_that_some_views_miss_are_found_once_with_a_lower_score():
    class Forgetful(FakeRegion):
        """Does not see what lies in the upper left quarter."""

        def find(self, gray):
            found = super().find(gray)
            h, w = gray.shape
            hidden = (found.boxes[:, 2] < w / 2) & (found.boxes[:, 3] < h / 2)
            return found[~hidden]

    gray, labels = discs((80, 80), 16)
    whole = Predictor([FakeRegion()])(gray)
    alone = Predictor([Forgetful()])(gray)
    found = Predictor([Forgetful()], "flips")(gray)
    assert len(alone) < len(found) == labels.max()
    best = pairwise_iou(whole, found).argmax(axis=1)
    share = found.scores[best] / whole.scores
    upper_left = (whole.boxes[:, 2] < 40) & (whole.boxes[:, 3] < 40)
    assert np.allclose(share[upper_left], 0.75, atol=0.01)
    assert share.max() < 1.001


@pytest.mark.parametrize("kind", KINDS)
def test_equal_members_are_as_good_as_one(kind):
    gray = discs((60, 90), 14)[0]
    one, three = Predictor([kind()])(gray), Predictor([kind() for _ in range(3)])(gray)
    assert same(one, three)
    assert np.allclose(np.sort(one.scores), np.sort(three.scores))


def test_overlap_follows_the_cells():
    small = FakeDense(ModelInfo(names=(), diameter=10))
    large = FakeDense(ModelInfo(names=(), diameter=16.4))
    assert default_overlap([small]) == 80
    assert default_overlap([small, large]) == 131
    assert default_overlap([large], tile=150) == 50
    assert Predictor([small]).overlap == 80
    assert Predictor([small], overlap=7).overlap == 7


def test_tiles_lie_on_the_networks_grid():
    model = FakeDense(scale=1.6, multiple=32)
    predictor = Predictor([model], tile=100, overlap=10)
    assert {part.start % 20 for part in predictor.grid((333, 333)).rows} == {0}
    predictor(discs((130, 130), 9)[0])
    assert set(model.shapes) == {(80, 80)}


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprint_tells_what_predictions_depend_on(kind):
    def of(model=None, **options):
        return Predictor([model or kind()], **options).fingerprint()

    others = [
        of(kind(threshold=0.4)),
        of(kind(ModelInfo(names=("small", "large"), diameter=9))),
        of(kind(ModelInfo(names=("large", "small"), diameter=8))),
        of(views="flips"),
        of(tile=512),
        of(overlap=30),
        Predictor([kind(), kind()]).fingerprint(),
    ]
    assert of() == of()
    assert len({of(), *others}) == 8


def test_mistakes():
    with pytest.raises(SomasegError, match="no model"):
        Predictor([])
    with pytest.raises(SomasegError, match="views 'some': not one of none, flips, all, scales"):
        Predictor([FakeDense()], "some")
    with pytest.raises(SomasegError, match="somaseg ensemble"):
        Predictor([FakeDense(), FakeRegion()])
    with pytest.raises(SomasegError, match="somaseg ensemble"):
        Predictor([FakeDense(), FakeDense(ModelInfo(names=("other",), diameter=8))])
    with pytest.raises(SomasegError, match="tiles of 128 pixels overlap by 0 … 42, not 60"):
        Predictor([FakeDense()], tile=128, overlap=60)


def test_many_images_are_read_when_their_turn_comes():
    read, told = [], []

    def reader(seed):
        read.append(seed)
        return discs((40, 40), 3, seed)[0]

    images = [(str(seed), lambda seed=seed: reader(seed)) for seed in range(3)]
    found = predict_images(
        Predictor([FakeRegion()]), images, 3, lambda *x: told.append((*x, len(read)))
    )
    assert list(found) == ["0", "1", "2"]
    assert told == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]
    assert INFO.names == found["0"].names
