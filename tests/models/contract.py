"""What every family must keep; each family's test module inherits :class:`Contract`.

A subclass gives ``config`` (small enough to train in seconds) and how long it must train to
over-fit two images.
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from somaseg.data.augment import AugmentSettings
from somaseg.data.synthetic import make_image
from somaseg.data.types import Dataset, Sample
from somaseg.decide import SettleSettings, settle
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.models.base import Dense, Estimator, Network
from somaseg.models.bundle import load_model
from somaseg.models.config import ModelInfo
from somaseg.models.registry import build_model, parse_config
from somaseg.models.training.fit import train_model
from somaseg.models.training.info import learn_info
from somaseg.models.training.settings import TrainSettings
from somaseg.scoring import compare, competition_score

INFO = ModelInfo(names=("astro", "cort", "shsy5y"), diameter=16.0)
STILL = AugmentSettings(
    scale=1, rotate=False, elastic=0, brightness=0, contrast=0, gamma=0, blur=0, noise=0
)


def training_samples(folder, kinds=("cort", "cort"), size=(96, 96)):
    """Two images on disk that together have a few cells."""
    samples = []
    for seed, kind in enumerate(kinds):
        image, cells = make_image(kind, seed + 1, size)
        path = folder / f"{seed}.png"
        cv2.imwrite(str(path), image)
        samples.append(Sample(path.stem, size, path, cells, kind))
    return samples


def large_cells(folder):
    """Two images with a few large cells: what a network can learn by heart in seconds."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:80, :80]
    samples = []
    for k, cells in enumerate((((22, 22, 15, 12), (55, 50, 13, 18)), ((40, 40, 17, 14),))):
        masks = [((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1 for cy, cx, a, b in cells]
        image = 120 + rng.normal(0, 6, (80, 80)) - 60 * np.any(masks, axis=0)
        path = folder / f"{k}.png"
        cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))
        found = Instances.from_masks(np.array(masks), classes=0, names=("cell",))
        samples.append(Sample(path.stem, (80, 80), path, found, "cell"))
    return samples


class Contract:
    config: dict
    over_fit: TrainSettings
    settings = SettleSettings(score=0.2, min_area=15)

    def fresh(self, info=INFO):
        torch.manual_seed(0)
        return build_model(parse_config(self.config), info)

    def model(self, info=INFO):
        """One that predicts: a network as it was made, what is fitted after a few rounds."""
        model = self.fresh(info)
        if isinstance(model, Network):
            model.eval()
        if isinstance(model, Estimator):
            with tempfile.TemporaryDirectory() as folder:
                samples = training_samples(Path(folder), ("cort", "shsy5y"))
                train_model(model, samples, TrainSettings(steps=3), folder)
        return model

    @pytest.mark.parametrize("shape", [(64, 64), (65, 97), (33, 31)])
    def test_predicts_the_image_it_was_given(self, shape):
        image = make_image("shsy5y", 0, (100, 100))[0][: shape[0], : shape[1]]
        for prediction in self.model().predict([image, np.stack([image] * 3, -1)]):
            assert prediction.size == shape
            assert prediction.names == INFO.names
            assert np.isfinite(prediction.scores).all()

    def test_maps_have_the_images_pixels(self):
        model = self.model()
        if not isinstance(model, Dense):
            pytest.skip("no maps")
        maps = model.maps(np.zeros((49, 70), np.float32))
        assert maps.shape[1:] == (49, 70)
        assert maps.dtype == np.float32

    def test_flat_image(self):
        prediction = self.model().predict([np.full((64, 64), 7, np.uint8)])[0]
        assert prediction.size == (64, 64)

    def test_saved_and_loaded_predicts_the_same(self, tmp_path):
        image = make_image("cort", 2, (80, 96))[0]
        model = self.model()
        model.save(tmp_path / "m.safetensors")
        again = load_model(tmp_path / "m.safetensors")
        assert again.config == model.config
        assert again.info == model.info
        one, other = model.predict([image])[0], again.predict([image])[0]
        for field in ("boxes", "pixels", "scores", "classes"):
            assert np.array_equal(getattr(one, field), getattr(other, field))

    def test_truncated_file(self, tmp_path):
        path = tmp_path / "m.safetensors"
        self.model().save(path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(SomasegError, match=r"m\.safetensors: not a whole safetensors file"):
            load_model(path)

    def test_learns_from_an_image_without_cells(self, tmp_path):
        samples = training_samples(tmp_path)
        samples[0] = Sample("0", samples[0].size, samples[0].image_path, samples[0].instances[:0])
        settings = self.over_fit.model_copy(update={"steps": 2})
        trained = train_model(self.fresh(), samples, settings, tmp_path / "run")
        assert np.isfinite(trained.losses["total"])

    @pytest.mark.parametrize("precision", ["no", "bf16"])
    def test_trains_in_any_precision(self, tmp_path, precision):
        model = self.fresh()
        if not isinstance(model, Network):
            pytest.skip("only networks are trained in a precision")
        settings = self.over_fit.model_copy(update={"steps": 2, "precision": precision})
        trained = train_model(model, training_samples(tmp_path), settings, tmp_path / "run")
        assert np.isfinite(trained.losses["total"])

    def test_over_fits_two_images(self, tmp_path):
        samples = large_cells(tmp_path)
        model = self.fresh(learn_info(samples))
        train_model(model, samples, self.over_fit, tmp_path / "run")
        dataset = Dataset(tuple(samples), samples[0].instances.names, "test")
        found = {
            s.id: settle(model.predict([s.image()])[0], dict.fromkeys(model.names, self.settings))
            for s in samples
        }
        assert competition_score(compare(dataset, found)).map >= 0.9
