"""What the offset of the annotations brings: tuned with and without it, nested.

    python benchmarks/offset.py DATA A.npz [B.npz …] [--weights cort=320,…]

Each ``.npz`` holds raw predictions of images that its model has not seen, as a run's folds do; of
several members their NMW is measured, too. Errors are standard errors over the images.
"""

import argparse
import time

import numpy as np

from somaseg.cli.scores import parse_weights
from somaseg.data.folds import make_folds
from somaseg.data.types import Dataset
from somaseg.decide import Decision, Fusion, decide, fuse_images
from somaseg.decide.grid import AXES, SEARCHED
from somaseg.decide.nested import Predictions
from somaseg.decide.offset import distances
from somaseg.predict.store import load_predictions
from somaseg.scoring.inputs import read_truth


def gain(one: Decision, other: Decision, classes: np.ndarray, weights: dict[str, float]) -> str:
    """By class, and weighted: mean ± standard error of the images' gains."""
    before = {image.id: image.score for image in one.nested.images}
    gains = np.array([image.score - before[image.id] for image in other.nested.images])
    total, mean, variance, text = sum(weights.values()), 0.0, 0.0, ""
    for name, weight in weights.items():
        mine = gains[classes == name]
        error = mine.std(ddof=1) / np.sqrt(len(mine))
        mean += weight / total * mine.mean()
        variance += (weight / total * error) ** 2
        text += f"  {name} {mine.mean():+.4f} ± {error:.4f}"
    return f"{mean:+.4f} ± {np.sqrt(variance):.4f}{text}"


def measure(name: str, raw: Predictions, truth: Dataset, weights: dict[str, float] | None) -> None:
    """Print one member."""
    classes = np.array([sample.image_class or "" for sample in truth])
    parts = weights or {c: float((classes == c).sum()) for c in np.unique(classes)}
    for label in parts:
        found = [distances(raw[s.id], s.annotated()) for s in truth if s.image_class == label]
        means = np.array([one.mean(0) for one in found if len(one)])
        error = means.std(0, ddof=1) / np.sqrt(len(means))
        print(f"{name} {label}: annotations lie {means.mean(0).round(2)} ± {error.round(2)} px")
    folds, decisions = make_folds(truth, 3), []
    for search in (AXES, SEARCHED):
        begun = time.process_time()
        decisions.append(decide({name: raw}, truth, folds, class_weights=weights, search=search))
        seconds = time.process_time() - begun
        score = decisions[-1].nested
        value = score.map if score.weighted is None else score.weighted
        print(f"{name}: nested {value:.4f} in {seconds:.1f} CPU-s")
    print(f"{name}: gain {gain(*decisions, classes, parts)}")
    offsets = {k: s.offset for k, s in decisions[1].choice.settings.items()}
    print(f"{name}: {offsets}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("predictions", nargs="+")
    parser.add_argument("--weights")
    options = parser.parse_args()
    members = {path: load_predictions(path) for path in options.predictions}
    truth = read_truth(options.data)
    truth = truth.subset([i for i in truth.ids if all(i in raw for raw in members.values())])
    if len(members) > 1:
        members["nmw"] = fuse_images(list(members.values()), None, Fusion(method="nmw"))
    for name, raw in members.items():
        measure(name, raw, truth, parse_weights(options.weights))


if __name__ == "__main__":
    main()
