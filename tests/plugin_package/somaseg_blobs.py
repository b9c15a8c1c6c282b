"""A family of models and a format of annotations, brought along by a package that is not somaseg.

The family learns how bright and how contrasty a cell's pixels are (a logistic regression of two
features) and takes connected components. The format is ``discs.csv``: image, x, y, radius.
"""

import csv
import json
from typing import Literal

import cv2
import numpy as np

from somaseg.data.augment import prepare_image
from somaseg.data.formats.registry import Format
from somaseg.data.reading import ImageIndex, Reading, locate
from somaseg.data.types import Dataset, Sample
from somaseg.files import atomic_path, file_name
from somaseg.instances import Instances
from somaseg.models.base import Dense, Estimator
from somaseg.models.config import ModelConfig
from somaseg.models.registry import Family


class BlobsConfig(ModelConfig):
    """Settings of the family."""

    family: Literal["blobs"] = "blobs"
    blur: float = 2.0  # pixels


class Blobs(Estimator, Dense):
    """Pixels by a logistic regression, cells by connected components."""

    def __init__(self, config, info):
        self.config, self.info, self.weights, self.done = config, info, np.zeros(3), 0

    def features(self, gray):
        near, far = (cv2.GaussianBlur(gray, None, self.config.blur * k) for k in (1, 4))
        return np.stack([np.ones_like(near), near, np.abs(gray - far)], axis=-1)

    def draw(self, samples, seed):
        for sample in samples:
            cell = sample.annotated().to_labels() > 0
            features = self.features(prepare_image(sample.image()))
            yield {"x": features[::3, ::3].reshape(-1, 3), "y": cell[::3, ::3].reshape(-1)}

    def rounds(self, table, count):
        x, y = table["x"].astype(float), table["y"].astype(float)
        while self.done < count:
            p = 1 / (1 + np.exp(-x @ self.weights))
            curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(3)
            self.weights = self.weights + np.linalg.solve(curvature, x.T @ (y - p))
            self.done += 1
            yield {"log": float(-np.mean(np.log(np.where(y > 0, p, 1 - p) + 1e-9)))}

    def maps(self, gray):
        return (1 / (1 + np.exp(-self.features(gray) @ self.weights)))[None].astype(np.float32)

    def decode(self, maps):
        _, labels = cv2.connectedComponents((maps[0] > 0.3).astype(np.uint8))
        count = int(labels.max())
        scores = np.bincount(labels.ravel(), maps[0].ravel(), count + 1)[1:]
        scores = scores / np.maximum(np.bincount(labels.ravel(), minlength=count + 1)[1:], 1)
        return Instances.from_labels(labels, scores, np.zeros(count, np.int16), self.names)

    def tensors(self):
        return {}

    def parts(self):
        state = {"weights": self.weights.tolist(), "done": self.done}
        return {"regression": json.dumps(state).encode()}

    def take_parts(self, parts):
        state = json.loads(parts["regression"])
        self.weights, self.done = np.array(state["weights"]), state["done"]

    @classmethod
    def build(cls, config, info, tensors):
        return cls(config, info)

    @property
    def parameter_count(self):
        return 3


def detect(path):
    file = path / "discs.csv" if path.is_dir() else path
    return [file] if file.name == "discs.csv" and file.is_file() else []


def read(path, faults, images=None, need_images=True, sizes=None):
    index = ImageIndex([images] if images else [path.parent / "images", path.parent])
    discs: dict[str, list] = {}
    for row in csv.DictReader(path.open()):
        discs.setdefault(row["image"], []).append([float(row[k]) for k in ("x", "y", "radius")])
    samples = []
    for image, found in discs.items():
        picture, size = locate(image, index, None, need_images, faults, path, image)
        if size is None:
            continue
        y, x = np.mgrid[: size[0], : size[1]]
        masks = [(x - cx) ** 2 + (y - cy) ** 2 <= r * r for cx, cy, r in found]
        cells = Instances.from_masks(np.array(masks), classes=[0] * len(masks), names=("cell",))
        samples.append(Sample(image, size, picture, cells, "cell"))
    return Reading(Dataset(tuple(samples), ("cell",), str(path)), faults)


def write(folder, dataset, order, ending):
    lines = ["image,x,y,radius"]
    for sample in dataset:
        cells = sample.annotated()
        for (x0, y0, x1, y1), area in zip(cells.boxes.tolist(), cells.areas, strict=True):
            centre = f"{(x0 + x1 - 1) / 2},{(y0 + y1 - 1) / 2}"
            lines.append(f"{file_name(sample.id)},{centre},{np.sqrt(area / np.pi):.2f}")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "discs.csv") as temporary:
        temporary.write_text("\n".join(lines) + "\n")


FAMILY = Family("somaseg_blobs:BlobsConfig", "somaseg_blobs:Blobs")
FORMAT = Format("discs", "discs (discs.csv)", detect, read, write, sure=("discs.csv",))
