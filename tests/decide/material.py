"""Members that find synthetic cells more or less well."""

import numpy as np

from somaseg.data.synthetic import KINDS, make_image
from somaseg.data.types import Dataset, Sample
from somaseg.instances import Instances


def truth(per_kind=2, size=(96, 112)):
    """Annotated synthetic images, two of each kind, in two folds."""
    samples = []
    for k in range(per_kind):
        for kind in KINDS:
            cells = make_image(kind, k, size)[1].disjoint(largest_piece=True, min_area=12)[0]
            samples.append(Sample(f"{kind}{k}", cells.size, None, cells, kind))
    dataset = Dataset(tuple(samples), samples[0].instances.names, "truth")
    return dataset, {sample.id: k % 2 for k, sample in enumerate(samples)}


def member(dataset, seed, shift=1, found=0.8, made_up=3, sure=0.5):
    """Each cell with a chance of ``found``, moved by up to ``shift`` pixels; some made up."""
    rng = np.random.default_rng(seed)
    out = {}
    for sample in dataset:
        cells = sample.instances
        cells = cells[rng.random(len(cells)) < found]
        moved = [
            one.window(cells.size, tuple(rng.integers(-shift, shift + 1, 2)))[0] for one in cells
        ]
        wrong = [
            Instances.from_crops(
                cells.size,
                np.array([[x, y, x + 9, y + 9]]),
                [np.ones((9, 9), bool)],
                names=cells.names,
                classes=0,
            )
            for x, y in rng.integers(0, 80, (made_up, 2))
        ]
        both = Instances.concat([Instances.empty(cells.size, cells.names), *moved, *wrong])
        scores = np.concatenate(
            [
                rng.uniform(sure, 1, len(both) - made_up),
                rng.uniform(0.05, sure + 0.1, made_up),
            ]
        )
        both = both.with_scores(scores).with_classes(dataset.names.index(sample.image_class))
        out[sample.id] = both.replace(pixels=both.pixels * np.uint8(230), soft=True)
    return out
