"""How many settings a second does the tuner score, next to computing IoUs anew for each?

    python benchmarks/tuning.py DATA [--copies 3] [--sample 20]

DATA is a data set of any format. Its raw predictions are made up: three soft masks for each true
cell, jittered, one in five in a wrong place, as an ensemble or a two-stage network leaves them. The
whole of `tune` is timed: every setting of every class, and the nested estimate over three folds.

Beside it stands what pycocotools needs for the IoUs alone, when they are computed anew for each
setting: of the predictions with each other, for suppression, and of those that are left with the
truth. Encoded masks it gets for nothing; thresholds, sharing out pixels and scores are not counted.
A random sample of each class's settings is timed in the same process and multiplied up. CPU time of
all threads: other work on the machine does not count. Of the sample the tuner's scores are compared
with those of settled predictions.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_tools
from scipy.ndimage import distance_transform_edt, gaussian_filter

from somaseg.data import make_folds
from somaseg.data.types import Dataset
from somaseg.decide import SettleSettings, default_settings, has_one_class, settle_all
from somaseg.decide.apply import vote
from somaseg.decide.grid import SettingGrid, make_grid
from somaseg.decide.table import score_table
from somaseg.decide.tune import tune
from somaseg.instances import Instances
from somaseg.scoring import compare, competition_score
from somaseg.scoring.inputs import read_truth

PAD = 8


def raw_predictions(
    cells: Instances, rng: np.random.Generator, copies: int = 3, spurious: float = 0.2
) -> Instances:
    """Make raw predictions of the true cells: ``copies`` soft, overlapping masks of each.

    Each copy is shifted, grown or shrunk, and bent by smooth noise; the further from the truth,
    the lower its score, on average; some are in a wrong place.
    """
    height, width = cells.size
    boxes, crops, scores, classes = [], [], [], []
    for _ in range(copies):
        for i in range(len(cells)):
            crop = np.pad(cells.crop(i), PAD)
            inside = distance_transform_edt(crop) - distance_transform_edt(crop == 0)
            error = rng.gamma(2.0, 0.5)
            noise = gaussian_filter(rng.normal(size=crop.shape), 3) * 10
            logits = inside + 0.9 * error * noise + rng.normal(0, 0.6 * error)
            soft = (255 / (1 + np.exp(-logits / rng.uniform(0.5, 1.5)))).astype(np.uint8)
            shift = rng.normal(0, 0.7 * error, 2)
            score = np.clip(0.95 - 0.22 * error + rng.normal(0, 0.12), 0.01, 0.99)
            if rng.random() < spurious:
                shift += rng.uniform(-40, 40, 2)
                score = rng.beta(2, 4)
            x, y = (cells.boxes[i, :2] - PAD + np.rint(shift).astype(int)).tolist()
            x0, y0 = max(x, 0), max(y, 0)
            x1, y1 = min(x + crop.shape[1], width), min(y + crop.shape[0], height)
            if x1 > x0 and y1 > y0 and (part := soft[y0 - y : y1 - y, x0 - x : x1 - x]).max() > 20:
                boxes.append([x0, y0, x1, y1])
                crops.append(part)
                scores.append(score)
                classes.append(cells.classes[i])
    return Instances.from_crops(
        cells.size,
        np.array(boxes, np.int32).reshape(-1, 4),
        crops,
        np.array(scores, np.float32),
        np.array(classes, np.int16),
        cells.names,
        soft=True,
    )


class Peer:
    """IoUs by pycocotools, computed anew for each setting."""

    def __init__(self, raw: dict[str, Instances], truths: dict[str, Instances]) -> None:
        self.raw = raw
        self.truths = {name: self.encoded(truth) for name, truth in truths.items()}
        self.masks: dict[tuple[str, float], list[dict]] = {}
        self.seconds = 0.0

    @staticmethod
    def encoded(cells: Instances) -> list[dict]:
        return [
            mask_tools.encode(np.asfortranarray(cells.mask(i), np.uint8)) for i in range(len(cells))
        ]

    def iou(self, a: list[dict], b: list[dict]) -> np.ndarray:
        if not a or not b:
            return np.zeros((len(a), len(b)))
        begun = time.process_time()
        table = mask_tools.iou(a, b, np.zeros(len(b), np.uint8))
        self.seconds += time.process_time() - begun
        return table

    def run(self, name: str, setting: SettleSettings) -> None:
        """Compute the IoUs that a setting needs of one image."""
        raw, key = self.raw[name], (name, setting.mask_threshold)
        hard = raw.binary(setting.mask_threshold, keep_empty=True)
        if key not in self.masks:
            self.masks[key] = self.encoded(hard)
        fits = (raw.scores >= np.float32(setting.score)) & (hard.areas >= setting.min_area)
        if setting.max_area is not None:
            fits &= hard.areas <= setting.max_area
        rows = np.flatnonzero(fits)
        rows = rows[np.argsort(-raw.scores[rows], kind="stable")]
        masks = [self.masks[key][i] for i in rows]
        over = self.iou(masks, masks) > setting.nms_iou
        kept: list[int] = []
        for i in range(len(masks)):
            if not over[i, kept].any():
                kept.append(i)
        self.iou([masks[i] for i in kept], self.truths[name])


def check(
    dataset: Dataset,
    raw: dict[str, Instances],
    ids: Sequence[str],
    grid: SettingGrid,
    places: np.ndarray,
) -> float:
    """Largest difference between the tuner's scores and those of settled predictions."""
    tables = np.mean([score_table(raw[i], dataset[i].annotated(), grid) for i in ids], axis=0)
    subset, worst = dataset.subset(ids), 0.0
    names = list(default_settings(dataset.names))
    for place in places:
        settings = dict.fromkeys(names, grid.settings(place.tolist()))
        final = settle_all({i: raw[i] for i in ids}, dict.fromkeys(ids, settings), True)
        worst = max(
            worst, abs(competition_score(compare(subset, final)).map - tables[tuple(place)])
        )
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--copies", type=int, default=3, help="raw predictions of each cell")
    parser.add_argument(
        "--sample", type=int, default=20, help="settings of each class for the peer"
    )
    options = parser.parse_args()

    dataset = read_truth(options.data)
    dataset = dataset.subset([s.id for s in dataset if s.instances is not None])
    rng = np.random.default_rng(0)
    raw = {s.id: raw_predictions(s.annotated(), rng, options.copies) for s in dataset}
    cells = sum(len(s.annotated()) for s in dataset)
    print(f"{len(dataset)} images, {cells} cells, {sum(map(len, raw.values()))} raw predictions")
    one_class, folds = has_one_class(dataset), make_folds(dataset, 3)

    first = dataset.ids[:1]
    tune({i: raw[i] for i in first}, dataset, folds, one_class)  # compile
    begun, clock = time.process_time(), time.perf_counter()
    tuned = tune(raw, dataset, folds, one_class)
    cpu, wall = time.process_time() - begun, time.perf_counter() - clock
    print(
        f"somaseg: {tuned.tried:,} settings, nested estimate too, in {cpu:.1f} CPU-s "
        f"({wall:.1f} s): {tuned.tried / cpu:,.0f} a CPU-second"
    )

    groups: dict[int, list[str]] = defaultdict(list)
    for name in raw:
        groups[vote(raw[name]) if one_class else -1].append(name)
    peer = Peer(raw, {s.id: s.annotated() for s in dataset})
    needed, difference = 0.0, 0.0
    for ids in groups.values():
        grid = make_grid([raw[i] for i in ids], [dataset[i].annotated() for i in ids])
        places = np.stack([rng.integers(0, n, options.sample) for n in grid.shape], axis=1)
        peer.seconds = 0.0
        for place in places:
            for name in ids:
                peer.run(name, grid.settings(place.tolist()))
        needed += peer.seconds / options.sample * grid.size
        difference = max(difference, check(dataset, raw, ids, grid, places[:5]))
    print(
        f"pycocotools, IoUs alone: {needed:,.0f} CPU-s ({needed / 3600:.0f} h) for as many, from "
        f"{options.sample} settings of each class: {needed / cpu:,.0f}× the time"
    )
    print(f"largest difference from settled and scored predictions: {difference:.1e}")


if __name__ == "__main__":
    main()
