"""Cheap models whose prediction is a known function of the image, one a kind of family."""

import cv2
import numpy as np
import torch
from pydantic import Field

from somaseg.instances import Instances
from somaseg.models.base import Dense, Region
from somaseg.models.config import ModelConfig, ModelInfo
from somaseg.models.dense import soften
from somaseg.models.flow.decode import decode_flows
from somaseg.models.flow.targets import label_flows

INFO = ModelInfo(names=("small", "large"), diameter=8.0)


class FakeConfig(ModelConfig):
    family: str = "fake"
    threshold: float = Field(0.5)


class _Fake:
    def __init__(self, info=INFO, threshold=0.5, scale=1.0, multiple=1):
        self.config, self.info = FakeConfig(threshold=threshold), info
        self.multiple, self._scale = multiple, scale
        self.shapes = []

    @property
    def scale(self):
        return self._scale

    @property
    def parameter_count(self):
        return 1

    def tensors(self):
        return {"threshold": torch.tensor([self.config.threshold])}

    @classmethod
    def build(cls, config, info, tensors):
        return cls(info, config.threshold)


class FakeDense(_Fake, Dense):
    """Flows of the bright pieces of the image."""

    vectors = ((0, 1),)

    def maps(self, gray):
        self.shapes.append(gray.shape)
        labels = pieces(gray, self.config.threshold)
        return np.concatenate([label_flows(labels), np.clip(gray, 0, 1)[None]])

    def decode(self, maps):
        decoded = decode_flows(maps[:2], maps[2] > self.config.threshold, min_area=5)
        n = int(decoded.labels.max(initial=0))
        areas = np.bincount(decoded.labels.ravel(), minlength=n + 1)[1:]
        return soften(
            decoded.labels,
            maps[2],
            np.exp(-decoded.errors),
            (areas > 80).astype(np.int16),
            self.names,
        )


class FakeRegion(_Fake, Region):
    """The bright pieces of the image, each a soft mask with a margin of a pixel."""

    def find(self, gray):
        self.shapes.append(gray.shape)
        hard = Instances.from_labels(pieces(gray, self.config.threshold))
        masks = [hard.mask(i) for i in range(len(hard))]
        soft = [
            cv2.dilate(m.astype(np.uint8), np.ones((3, 3))) * np.clip(gray, 0, 1) for m in masks
        ]
        if not masks:
            return Instances.empty(gray.shape, self.names, soft=True)
        areas = np.array([m.sum() for m in masks])
        found = Instances.from_masks(np.round(np.stack(soft) * 255).astype(np.uint8), soft=True)
        return found.with_scores(1 - 1 / (1 + areas)).with_classes(
            (areas > 80).astype(np.int16), self.names
        )


def pieces(gray, threshold):
    return cv2.connectedComponents((gray > threshold).astype(np.uint8), connectivity=8)[1]


def discs(size, count, seed=0, radius=(3, 7), gap=2):
    """An image float32 (h, w) of bright discs that do not touch, and their labels."""
    rng = np.random.default_rng(seed)
    gray = np.zeros(size, np.float32)
    labels = np.zeros(size, np.int32)
    y, x = np.mgrid[: size[0], : size[1]]
    for _ in range(count * 20):
        a, b = rng.uniform(*radius, 2)
        cy, cx = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        far = ((y - cy) / (a + gap)) ** 2 + ((x - cx) / (b + gap)) ** 2 < 1
        disc = ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1
        if labels[far].any() or disc.sum() < 12:
            continue
        labels[disc] = labels.max() + 1
        gray[disc] = rng.uniform(0.7, 1)
        if labels.max() == count:
            break
    return gray, labels
