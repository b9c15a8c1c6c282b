"""Fusion of masks beside ensemble-boxes and the plain dense way (stacked masks).

    python benchmarks/ensemble.py                          3 members with 800 cells each
    python benchmarks/ensemble.py --cells 50000            as dense, in a larger image
    python benchmarks/ensemble.py --competition train.csv  the fullest annotated image of the file,
                                                           as three members that nearly agree

ensemble-boxes (``pip install ensemble-boxes``; its column is empty without) has no masks: it is
timed with the boxes of the same instances, up to 5,000 of them. The dense results are compared
with ours before they are timed. Times are CPU milliseconds of one thread in this process, the best
of several; a ratio is how many times as long the peer takes.
"""

import argparse
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402

from masks import cells, cpu_ms, nudged, read_competition  # noqa: E402
from somaseg.decide import Fusion, fuse  # noqa: E402
from somaseg.instances import Instances  # noqa: E402

try:
    import ensemble_boxes
except ImportError:
    ensemble_boxes = None

IOU = 0.55
MOST_BOXES = 5000


def members(found: Instances) -> list[Instances]:
    """Three members that found the same cells, each a little elsewhere, with soft edges."""
    moved = [found.with_scores(np.random.default_rng(0).random(len(found)))]
    moved += [nudged(found, seed) for seed in (1, 2)]
    return [soft(one, seed) for seed, one in enumerate(moved)]


def soft(instances: Instances, seed: int) -> Instances:
    """Probabilities as a network gives them: each mask has its own level."""
    levels = np.random.default_rng(seed).integers(180, 255, len(instances)).astype(np.uint8)
    pixels = instances.pixels * np.repeat(levels, np.diff(instances.offsets))
    return instances.replace(pixels=pixels, soft=True)


# ---- the plain dense way ----


def dense(found: list[Instances]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stacked soft masks uint8 (n, h, w), the number of each one's member, and scores."""
    stack = np.zeros((sum(map(len, found)), *found[0].size), np.uint8)
    k = 0
    for one in found:
        for i, (x0, y0, x1, y1) in enumerate(one.boxes.tolist()):
            stack[k, y0:y1, x0:x1] = one.crop(i)
            k += 1
    member = np.repeat(np.arange(len(found)), [len(one) for one in found])
    return stack, member, np.concatenate([one.scores for one in found]).astype(np.float64)


def dense_iou(stack: np.ndarray) -> np.ndarray:
    flat = (stack >= 128).reshape(len(stack), -1).astype(np.float32)
    shared = flat @ flat.T
    areas = flat.sum(1)
    return shared / (areas[:, None] + areas - shared)


def dense_nms(found: list[Instances]) -> tuple[np.ndarray, np.ndarray]:
    stack, _, scores = dense(found)
    iou = dense_iou(stack)
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        if not (iou[row, kept] > IOU).any():
            kept.append(row)
    return stack[kept], scores[kept]


def dense_soft_nms(found: list[Instances]) -> tuple[np.ndarray, np.ndarray]:
    stack, _, scores = dense(found)
    iou = dense_iou(stack)
    left, kept, lowered = np.ones(len(stack), bool), [], scores.copy()
    while left.any():
        row = int(np.argmax(np.where(left, lowered, -1)))
        left[row] = False
        if lowered[row] > 0.001:
            kept.append(row)
        lowered[left] *= np.exp(-(iou[row, left] ** 2) / 0.5)
    kept = np.array(kept)[np.argsort(-lowered[kept], kind="stable")]
    return stack[kept], lowered[kept]


def dense_means(found: list[Instances], method: str) -> tuple[np.ndarray, np.ndarray]:
    stack, member, scores = dense(found)
    iou = dense_iou(stack) if method == "nmw" else None
    rows: list[list[int]] = []
    pulls: list[list[float]] = []
    sums: list[np.ndarray] = []
    inside: list[np.ndarray] = []
    for row in np.argsort(-scores, kind="stable"):
        best, top = -1, IOU
        if iou is not None:
            heads = np.array([r[0] for r in rows], int)
            if len(heads) and iou[row, heads].max() > top:
                best = int(iou[row, heads].argmax())
                top = float(iou[row, heads[best]])
        elif inside:
            mine = stack[row] >= 128
            means = np.array(inside)
            shared = (means & mine).sum((1, 2))
            values = shared / ((means | mine).sum((1, 2)))
            if values.max() > top:
                best = int(values.argmax())
        pull = 1.0 if method == "average" else scores[row]
        pull = pull * top if method == "nmw" and best >= 0 else pull
        if best < 0:
            rows.append([row])
            pulls.append([pull])
            sums.append(pull * stack[row].astype(np.float32))
            inside.append(stack[row] >= 128)
        else:
            rows[best].append(row)
            pulls[best].append(pull)
            sums[best] += np.float32(pull) * stack[row]
            inside[best] = sums[best] >= 127.5 * sum(pulls[best])
    count = member.max() + 1
    shares = [len(set(member[r].tolist())) / count for r in rows]
    masks = np.array([s / sum(p) * share for s, p, share in zip(sums, pulls, shares, strict=True)])
    if method == "nmw":
        fused = np.array([scores[r[0]] for r in rows])
    else:
        fused = np.array([scores[r].mean() * min(len(r), count) / count for r in rows])
    order = np.argsort(-fused, kind="stable")
    return masks[order], fused[order]


# ---- comparison and timing ----


def check_masks(ours: Instances, theirs: tuple[np.ndarray, np.ndarray]) -> None:
    masks, scores = theirs
    assert len(ours) == len(masks)
    assert np.allclose(ours.scores, scores, atol=1e-6)
    for mask, mine, (x0, y0, x1, y1) in zip(
        masks, map(ours.crop, range(len(ours))), ours.boxes.tolist(), strict=True
    ):
        assert np.abs(mask[y0:y1, x0:x1] - mine.astype(np.float32)).max() <= 1
        assert round(float(mask.sum()) / 255) - round(float(mine.sum()) / 255) <= 2


def peers(found: list[Instances]) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Boxes in 0 … 1, scores and labels, by member."""
    height, width = found[0].size
    scale = np.array([width, height, width, height], float)
    return (
        [one.boxes / scale for one in found],
        [one.scores.astype(float) for one in found],
        [np.zeros(len(one)) for one in found],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--competition", type=Path, help="train.csv or train.csv.gz")
    parser.add_argument("--cells", type=int, default=800)
    parser.add_argument("--dense", action="store_true", help="also time the slow dense way")
    options = parser.parse_args()
    if options.competition:
        images = read_competition(options.competition)
        truth = Instances.from_runs(*max(images.values(), key=lambda image: len(image[1])))
    else:
        grown = max(
            1.0, (options.cells / 800) ** 0.5
        )  # as many cells an area, whatever their number
        truth = cells(options.cells, (round(520 * grown), round(704 * grown)), 0)
    found = members(truth)
    given = peers(found)

    def fresh() -> tuple[list[np.ndarray], ...]:
        return tuple([array.copy() for array in part] for part in given)  # it writes into them

    theirs: dict[str, Callable[[], Any]] = {
        "nms": lambda: ensemble_boxes.nms(*fresh(), iou_thr=IOU),
        "soft-nms": lambda: ensemble_boxes.soft_nms(*fresh(), iou_thr=IOU),
        "nmw": lambda: ensemble_boxes.non_maximum_weighted(*fresh(), iou_thr=IOU),
        "wbf": lambda: ensemble_boxes.weighted_boxes_fusion(*fresh(), iou_thr=IOU),
    }
    stacked: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        "nms": lambda: dense_nms(found),
        "soft-nms": lambda: dense_soft_nms(found),
        **{m: lambda m=m: dense_means(found, m) for m in ("nmw", "wbf", "average")},
    }
    height, width = truth.size
    print(f"3 members, {len(truth)} masks each, {width} x {height}; CPU ms, one thread")
    print(f"{'':10s}{'masks':>8s}{'dense numpy':>20s}{'ensemble-boxes':>20s}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in ("nms", "soft-nms", "nmw", "wbf", "average"):
            fusion = Fusion(method=method, iou=IOU, absent="zero")

            def run(fusion: Fusion = fusion) -> Instances:
                return fuse(found, None, fusion)

            mine = cpu_ms(run)
            text = f"{method:10s}{mine:8.1f}"
            if options.dense:
                check_masks(run(), stacked[method]())
                plain = cpu_ms(stacked[method])
                text += f"{plain:12.0f}{plain / mine:7.0f}x"
            else:
                text += f"{'(--dense)':>20s}"
            if method in theirs and ensemble_boxes and len(truth) <= MOST_BOXES:
                other = cpu_ms(theirs[method])
                text += f"{other:12.1f}{other / mine:7.1f}x"
            print(text, flush=True)


if __name__ == "__main__":
    main()
