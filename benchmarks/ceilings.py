"""Score of perfect models by what they predict: how much each way to tell cells apart can give.

    python benchmarks/ceilings.py [DATA [CLASS=WEIGHT ...]]

Each image's true label image goes the way of a training target: to the working scale and stride of
a model, made into its maps, brought back to the image's pixels, decoded and settled as predictions
are, and scored. Without DATA 12 synthetic images. With weights, the first column is the weighted
mean of the classes, else the mean over the images.
"""

import sys

import numpy as np

from somaseg.data import load_dataset
from somaseg.data.synthetic import KINDS, make_samples
from somaseg.data.types import Dataset, Sample
from somaseg.decide import SettleSettings, settle
from somaseg.instances import Instances
from somaseg.models.dense import resize_maps
from somaseg.models.flow.targets import label_flows
from somaseg.models.registry import build_model, parse_config
from somaseg.models.semantic.model import SemanticModel
from somaseg.models.semantic.targets import semantic_targets
from somaseg.models.training.info import learn_info
from somaseg.scoring import compare, competition_score

UNET = {"family": "semantic", "pretrained": "none"}
ATTENTION = {"family": "semantic", "network": "attention_unet", "diameter": 18}
ROWS = {
    "foreground, connected components": {**UNET, "border": False, "seeds": False},
    "+ seeds": {**UNET, "border": False},
    "+ border": {**UNET, "seeds": False},
    "+ border and seeds": UNET,
    "flows": {"family": "flow", "pretrained": "none"},
    "at stride 1: components": {**ATTENTION, "border": False, "seeds": False},
    "at stride 1: + border and seeds": ATTENTION,
}


def on_grid(model, labels):
    """The labels on the grid of the model's output, and the part of it that the image covers."""
    axes, extent = [], []
    for side in labels.shape:
        scaled = max(round(side * model.scale), 1)
        count = -(-scaled // model.label_stride)
        middles = np.arange(count) * model.label_stride + (model.label_stride - 1) / 2
        axes.append(np.clip(np.rint((middles + 0.5) * side / scaled - 0.5), 0, side - 1))
        extent.append(scaled / model.label_stride)
    return labels[np.ix_(*(axis.astype(int) for axis in axes))], tuple(extent)


def perfect_maps(model, labels, classes):
    """What a network that knows everything says of a label image."""
    if isinstance(model, SemanticModel):
        targets = semantic_targets(labels)
        known = logits(np.stack([getattr(targets, name) for name in model.channels]))
    else:
        known = np.concatenate([5 * label_flows(labels), logits((labels > 0)[None])])
    of_pixel = np.append(-1, classes)[labels]
    votes = [np.where(of_pixel == k, 4, 0) for k in range(len(model.names))]
    return np.concatenate([known, votes]).astype(np.float32)


def logits(shares):
    return np.log((shares + 1e-4) / (1 - shares + 1e-4))


def score(dataset, weights, predict):
    found = {sample.id: predict(sample.instances) for sample in dataset}
    return competition_score(compare(dataset, found), weights=weights)


def show(name, scored):
    total = scored.map if scored.weighted is None else scored.weighted
    columns = "".join(f"{value:9.3f}" for value in scored.by_class.values())
    print(f"{name:36}{total:9.3f}{columns}", flush=True)


def read(arguments):
    if arguments:
        dataset = load_dataset(arguments[0])
        annotated = dataset.subset([s.id for s in dataset if s.instances is not None])
        pairs = (argument.split("=") for argument in arguments[1:])
        return annotated, {name: float(weight) for name, weight in pairs} or None
    made = [Sample(m.id, m.image.shape, None, m.instances, m.kind) for m in make_samples(4)]
    return Dataset(tuple(made), KINDS, "synthetic"), None


def main():
    dataset, weights = read(sys.argv[1:])
    info = learn_info(dataset.samples)
    settings = dict.fromkeys(info.names, SettleSettings(score=0.05, min_area=15))

    def predict(model, truth: Instances):
        labels, extent = on_grid(model, truth.to_labels("smallest_first"))
        maps = perfect_maps(model, labels, truth.classes)
        raw = model.decode(resize_maps(maps, truth.size, extent))
        return settle(raw, settings, one_class=info.one_class)

    print(f"{'perfect':36}{'all':>9}" + "".join(f"{name:>9}" for name in dataset.names))
    show("masks made disjoint", score(dataset, weights, lambda t: t.disjoint()[0]))
    for name, config in ROWS.items():
        model = build_model(parse_config(config), info)
        show(name, score(dataset, weights, lambda truth, model=model: predict(model, truth)))


if __name__ == "__main__":
    main()
