"""What the cells' diameter brings on data of other magnifications: score without, given, auto.

    python benchmarks/diameter.py DATA [DATA …] [--model MODEL] [--images 6] [--tta none]

Of each data set some images, evenly spread. The given diameter is the median of the annotated
cells of each image: what a user would measure.
"""

import argparse
import time

import numpy as np

import somaseg
from somaseg.scoring import compare, competition_score, panoptic_score


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--model")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--tta", default="none")
    options = parser.parse_args()
    segment = somaseg.load(options.model, options.tta)
    print(f"the model knows cells of {segment.predictor.diameter:.1f} px")
    print("data                images  true px  taken px   plain   given    auto  CPU-s an image")
    for path in options.data:
        dataset = somaseg.read(path, strict=False)
        step = max(1, len(dataset) // options.images)
        some = dataset.subset(dataset.ids[::step][: options.images])
        truth = {sample.id: diameter_of(sample.annotated()) for sample in some}
        taken, scores, seconds = [], [], []
        for way in ("plain", "given", "auto"):
            began = time.process_time()
            found = {}
            for sample in some:
                wanted = {"plain": None, "given": truth[sample.id], "auto": "auto"}[way]
                bands = segment.bands(sample.image(), diameter=wanted)
                cells = bands.whole()
                found[sample.id] = cells.with_classes(-1 if len(some.names) != 1 else 0, some.names)
                if way == "auto" and bands.diameter is not None:
                    taken.append(bands.diameter)
            seconds.append((time.process_time() - began) / len(some))
            result = compare(some, found)
            half = next(row for row in panoptic_score(result).rows if row.threshold == 0.5)
            scores.append((competition_score(result).map, half.f1))
        figures = "".join(f"  {score:.3f}/{f1:.2f}"[1:] for score, f1 in scores)
        print(
            f"{path[-18:]:20}{len(some):5}{np.median(list(truth.values())):9.1f}"
            f"{np.median(taken or [np.nan]):10.1f} {figures}  "
            + " ".join(f"{value:.1f}" for value in seconds),
            flush=True,
        )


def diameter_of(cells):
    """Median diameter of discs as large as the cells."""
    return float(np.median(2 * np.sqrt(cells.areas / np.pi))) if len(cells) else None


if __name__ == "__main__":
    main()
