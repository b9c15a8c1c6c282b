"""The pixel forest's model: fitting, maps and decoding."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from somaseg.data.augment import prepare_image
from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.models.base import Dense, Estimator, Gray, Maps, Table, fill
from somaseg.models.config import ModelInfo
from somaseg.models.dense import cell_means, enlarge, run_scaled, soften
from somaseg.models.device import predicting
from somaseg.models.nn.encoders import Encoder
from somaseg.models.pixel_forest import boosting
from somaseg.models.pixel_forest.config import PixelForestConfig
from somaseg.models.pixel_forest.features import STRIDE, PixelFeatures
from somaseg.models.pixel_forest.pixels import (
    BORDER,
    INTERIOR,
    KINDS,
    draw_pixels,
    label_kinds,
    pieces,
    shares,
)
from somaseg.models.watershed import watershed_instances

PIECE = 1024
"""Side of what is made features of at a time in training, in image pixels: bounds the memory."""

STRIP = 64
"""Rows of the features' grid that the trees take at a time in prediction: bounds the memory."""


class PixelForest(Dense, Estimator):
    """Probabilities of each pixel, by boosted trees: background, interior, border; each class.

    The ``pixels`` forest tells the three kinds apart, the ``classes`` forest the classes of cell
    pixels (where there are several). Maps: background, interior, border, then one a class.
    """

    def __init__(self, config: PixelForestConfig, info: ModelInfo) -> None:
        self.config: PixelForestConfig = config
        self.info = info
        encoder = Encoder(config.encoder, config.pretrained, depth=config.levels)
        self.net = PixelNet(PixelFeatures(encoder, config.sigmas), len(info.names))

    @property
    def scale(self) -> float:
        """Working pixels per image pixel: brings cells to the config's diameter."""
        return self.config.diameter / self.info.diameter

    def draw(self, samples: Sequence[Sample], seed: int) -> Iterator[Table]:
        """Features, kinds, classes and weights of some pixels of each image.

        Yields:
            an image at a time: ``features`` float32 (n, f), ``kinds`` uint8 (n,), ``classes``
            int16 (n,) with −1 in the background, ``weights`` float32 (n,).
        """
        for i, (sample, count) in enumerate(
            zip(samples, shares(samples, self.config.pixels), strict=True)
        ):
            rng = np.random.default_rng((seed, i))
            gray = prepare_image(sample.image())
            cells = sample.annotated()
            labels = cells.to_labels("smallest_first")
            for piece in pieces(sample.size, PIECE):
                part = count * labels[piece].size // labels.size
                yield self._pixels(gray[piece], labels[piece], cells.classes, part, rng)

    def _pixels(
        self,
        gray: Gray,
        labels: npt.NDArray[np.int32],
        classes: npt.NDArray[np.int16],
        count: int,
        rng: np.random.Generator,
    ) -> Table:
        """Draw pixels of one piece of an image."""
        working, extent = enlarge(gray, self.scale, self.net.multiple)
        device = next(self.net.parameters()).device
        with predicting(device):
            image = torch.from_numpy(working)[None, None].to(device)
            features = self.net.features(image)[0].numpy()
        # The labels at the middle of each pixel of the features' grid; its padding has none.
        y, x = (
            np.minimum(
                ((np.arange(round(side / STRIDE)) + 0.5) * STRIDE * n / side).astype(int), n - 1
            )
            for side, n in zip(extent, labels.shape, strict=True)
        )
        owner = labels[np.ix_(y, x)]
        kinds = label_kinds(owner)
        chosen, weights = draw_pixels(kinds, count, self.config.prior, rng)
        return {
            "features": features[:, : len(y), : len(x)].reshape(len(features), -1).T[chosen],
            "kinds": kinds.ravel()[chosen],
            "classes": np.append(np.int16(-1), classes)[owner.ravel()[chosen]],
            "weights": weights,
        }

    def rounds(self, table: Table, count: int) -> Iterator[dict[str, float]]:
        """Fit the small forest of the classes, if it is not there, then that of the pixels."""
        config, net = self.config, self.net
        settings: dict[str, Any] = {
            "depth": config.depth,
            "rate": config.rate,
            "names": net.features.names,
        }
        known = table["classes"] >= 0
        if len(self.names) > 1 and net.classes is None:
            if not known.any():
                raise SomasegError("no cell is of a known class, so classes cannot be learned")
            fitting = boosting.boost(
                None,
                table["features"][known],
                table["classes"][known],
                None,
                kinds=len(self.names),
                rounds=config.class_rounds,
                **settings,
            )
            for net.classes, _ in fitting:
                pass
        fitting = boosting.boost(
            net.pixels,
            table["features"],
            table["kinds"],
            table["weights"],
            kinds=len(KINDS),
            rounds=count,
            **settings,
        )
        for net.pixels, loss in fitting:
            yield {"pixels": loss}

    def maps(self, gray: Gray) -> Maps:
        """Probabilities of background, interior, border and of each class: (3 + classes, h, w)."""
        return run_scaled(self.net, gray, self.scale, self.net.multiple)

    def decode(self, maps: Maps) -> Instances:
        """Seeds where the interior is sure, then a watershed over the rest of the cells."""
        interior, border = maps[INTERIOR], maps[BORDER]
        cell = interior + border
        found = watershed_instances(
            cell,
            # The share of a cell's pixel that is border: what is left of the cell is interior.
            border / np.maximum(cell, np.float32(1e-6)),
            foreground_threshold=self.config.probability,
            seed_threshold=self.config.seed_probability,
            min_area=self.config.min_area,
        )
        classes = cell_means(found.labels, maps[len(KINDS) :]).argmax(axis=1).astype(np.int16)
        return soften(found.labels, cell, found.scores, classes, self.names)

    def place(self, device: torch.device) -> None:
        """Bring the encoder to a device; trees stay on the processor."""
        self.net.to(device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the frozen encoder's weights."""
        return self.net.state_dict()

    def parts(self) -> dict[str, bytes]:
        """Return the forests, as XGBoost's own JSON."""
        forests = {"pixels": self.net.pixels, "classes": self.net.classes}
        return {
            f"{name}.json": bytes(forest.save_raw("json"))
            for name, forest in forests.items()
            if forest is not None
        }

    def take_parts(self, parts: dict[str, bytes]) -> None:
        """Read the forests."""
        kinds = {"pixels.json": len(KINDS), "classes.json": len(self.names)}
        super().take_parts({name: data for name, data in parts.items() if name not in kinds})
        for name, data in parts.items():
            forest = boosting.read_forest(data, name, len(self.net.features.names), kinds[name])
            setattr(self.net, name.removesuffix(".json"), forest)

    @classmethod
    def build(cls, config: Any, info: ModelInfo, tensors: dict[str, Tensor]) -> Self:
        """Make the model without its forests, which are parts."""
        # Every tensor comes from the file: nothing to fetch first.
        fresh = cls(config.model_copy(update={"pretrained": "none"}), info)
        fresh.config = config
        fill(fresh.net, tensors)
        return fresh

    @property
    def parameter_count(self) -> int:
        """Weights of the encoder, splits and leaves of the trees."""
        weights = sum(one.numel() for one in self.net.parameters())
        forests = [one for one in (self.net.pixels, self.net.classes) if one is not None]
        return weights + sum(boosting.count_nodes(forest) for forest in forests)


class PixelNet(nn.Module):
    """Features of a working image, and the forests' probabilities from them.

    Args:
        features: of the pixels.
        classes: how many.

    Attributes:
        pixels: the fitted forest of pixel kinds, or none.
        classes: the fitted forest of cell classes, or none.
    """

    def __init__(self, features: PixelFeatures, classes: int) -> None:
        super().__init__()
        self.features = features
        self.class_count = classes
        self.pixels: boosting.Booster | None = None
        self.classes: boosting.Booster | None = None
        # The coarsest level's stride: then no level is cut.
        self.multiple = max(*features.encoder.strides, STRIDE)

    def forward(self, image: Tensor) -> Tensor:
        """Turn (1, 1, h, w) into probabilities (1, 3 + classes, h / 2, w / 2).

        Raises:
            SomasegError: no forest has been fitted.
        """
        if self.pixels is None:
            raise SomasegError("this pixel forest is not fitted yet; train it first")
        features = self.features(image)[0].numpy()
        count, height, width = features.shape
        out = np.ones((height, width, len(KINDS) + self.class_count), np.float32)
        # Trees take the features pixel by pixel, which is a copy: a strip of the image at a time.
        for y in range(0, height, STRIP):
            strip = features[:, y : y + STRIP]
            rows = np.ascontiguousarray(strip.reshape(count, -1).T)
            place = out[y : y + STRIP]
            place[..., : len(KINDS)] = boosting.probabilities(self.pixels, rows).reshape(
                *strip.shape[1:], -1
            )
            if self.classes is not None:
                place[..., len(KINDS) :] = boosting.probabilities(self.classes, rows).reshape(
                    *strip.shape[1:], -1
                )
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(out, -1, 0)))[None]
