"""Mask algebra beside the plain dense way (stacked boolean masks) and pycocotools.

    python benchmarks/masks.py                          800 synthetic cells on 704 x 520
    python benchmarks/masks.py --competition train.csv  the fullest annotated image of the file,
                                                        and the time to decode all of it

Every result is compared before it is timed. Times are CPU milliseconds of one thread, the best of
several; a ratio is how many times as long the peer takes.
"""

import argparse
import csv
import gzip
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
from pycocotools import mask as pycoco  # noqa: E402

from somaseg.instances import Instances  # noqa: E402
from somaseg.masks import overlap, resolve, rle  # noqa: E402


def cells(n: int, size: tuple[int, int], seed: int) -> Instances:
    """n ellipses of the size of cells, at random places."""
    rng = np.random.default_rng(seed)
    boxes, crops = [], []
    for _ in range(n):
        a, b, angle = *rng.uniform(5, 14, 2), rng.uniform(0, np.pi)
        y, x = np.mgrid[-14:15, -14:15]
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        crops.append((u / a) ** 2 + (v / b) ** 2 <= 1)
        x0, y0 = rng.integers(0, size[1] - 29), rng.integers(0, size[0] - 29)
        boxes.append([x0, y0, x0 + 29, y0 + 29])
    scores = rng.random(n)
    return Instances.from_crops(size, np.array(boxes), crops, scores).binary()


def nudged(x: Instances, seed: int) -> Instances:
    """The same cells, each moved by up to two pixels: predictions that are nearly right."""
    rng = np.random.default_rng(seed)
    height, width = x.size
    shift = rng.integers(-2, 3, (len(x), 2))
    low = np.clip(x.boxes[:, :2] + shift, 0, None)
    low = np.minimum(low, [width, height] - (x.boxes[:, 2:] - x.boxes[:, :2]))
    boxes = np.concatenate([low, low + x.boxes[:, 2:] - x.boxes[:, :2]], 1).astype(np.int32)
    return x.replace(boxes=boxes, scores=rng.random(len(x)))


def read_competition(path: Path) -> dict[str, tuple[tuple[int, int], list[str]]]:
    """Size and runs of every image of a train.csv or train.csv.gz."""
    csv.field_size_limit(2**30)
    runs, sizes = defaultdict(list), {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for row in csv.DictReader(file):
            runs[row["id"]].append(row["annotation"])
            sizes[row["id"]] = int(row["height"]), int(row["width"])
    return {image: (sizes[image], texts) for image, texts in runs.items()}


# ---- the plain dense way ----


def dense_decode(texts: list[str], size: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(texts), size[0] * size[1]), bool)
    for mask, text in zip(masks, texts, strict=True):
        numbers = np.array(text.split(), int)
        for start, length in zip(numbers[::2] - 1, numbers[1::2], strict=True):
            mask[start : start + length] = True
    return masks.reshape(-1, *size)


def dense_encode(masks: np.ndarray) -> list[str]:
    texts = []
    for mask in masks:
        padded = np.concatenate([[0], mask.ravel(), [0]])
        changes = np.flatnonzero(padded[1:] != padded[:-1]) + 1
        changes[1::2] -= changes[::2]
        texts.append(" ".join(map(str, changes)))
    return texts


def dense_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    one, two = (m.reshape(len(m), -1).astype(np.float32) for m in (a, b))
    shared = one @ two.T
    return shared / (one.sum(1)[:, None] + two.sum(1)[None] - shared)


def dense_resolve(masks: np.ndarray, order: np.ndarray) -> np.ndarray:
    taken = np.zeros(masks.shape[1:], bool)
    owned = np.zeros_like(masks)
    for row in order:
        owned[row] = masks[row] & ~taken
        taken |= masks[row]
    return owned


def greedy(iou: np.ndarray, order: np.ndarray, threshold: float) -> np.ndarray:
    keep = np.zeros(len(iou), bool)
    for row in order:
        keep[row] = not (iou[row, keep] > threshold).any()
    return keep


# ---- timing ----


def cpu_ms(function: Callable[[], Any], least: float = 0.3, most: int = 50) -> float:
    """Best CPU time of repeated calls, at least ``least`` seconds in all, or one call."""
    function()
    times: list[float] = []
    while sum(times) < least and len(times) < most:
        begun = time.thread_time()
        function()
        times.append(time.thread_time() - begun)
    return 1000 * min(times)


def line(name: str, ours: Callable, dense: Callable | None, coco: Callable | None) -> None:
    mine = cpu_ms(ours)
    cells = [f"{name:34s}{mine:10.2f}"]
    for peer in (dense, coco):
        if peer is None:
            cells.append(f"{'':10s}{'':>8s}")
        else:
            theirs = cpu_ms(peer)
            cells.append(f"{theirs:10.1f}{theirs / mine:7.0f}x")
    print("".join(cells).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--competition", type=Path, help="train.csv or train.csv.gz")
    parser.add_argument("--cells", type=int, default=800)
    options = parser.parse_args()
    if options.competition:
        images = read_competition(options.competition)
        size, texts = max(images.values(), key=lambda image: len(image[1]))
        x = Instances.from_runs(size, texts)
    else:
        size = (520, 704)
        x = cells(options.cells, size, 0)
        texts = x.to_runs()
    y = nudged(x, 1)
    a, b = (dense_decode(instances.to_runs(), size) for instances in (x, y))
    order = x.order("smallest_first")
    columns = np.asfortranarray(a.transpose(1, 2, 0)).astype(np.uint8)
    a_coco, b_coco = (
        pycoco.encode(np.asfortranarray(m.transpose(1, 2, 0)).astype(np.uint8)) for m in (a, b)
    )
    counts = [coded["counts"].decode() for coded in a_coco]
    crowd = [0] * len(y)

    def coco_decode() -> list:
        return [rle.coco_counts_to_crop(text, size) for text in counts]

    iou = overlap.pairwise_iou(x, y)
    assert np.allclose(iou, dense_iou(a, b), atol=1e-6)
    assert np.allclose(iou, pycoco.iou(a_coco, b_coco, crowd))
    assert x.to_runs() == dense_encode(a) == texts
    assert all((x.mask(i) == mask).all() for i, mask in enumerate(a))
    assert rle.crops_to_counts(*x.flat, size) == counts
    assert all((crop == x.crop(i)).all() for i, (_, crop) in enumerate(coco_decode()))
    disjoint, rows = x.disjoint(order)
    owned = dense_resolve(a, order)
    assert all((disjoint.mask(k) == owned[row]).all() for k, row in enumerate(rows))
    assert owned.any((1, 2)).sum() == len(rows)
    keep = resolve.mask_nms(x, x.scores, 0.1)
    assert (keep == greedy(dense_iou(a, a), x.order("score"), 0.1)).all()

    memory = x.pixels.nbytes / 1e6, a.nbytes / 1e6
    print(f"{len(x)} masks of {size[1]} x {size[0]}: {memory[0]:.2f} MB, dense {memory[1]:.0f} MB")
    print(f"{'CPU ms, one thread':34s}{'somaseg':>10s}{'dense numpy':>18s}{'pycocotools':>18s}")
    line(
        f"IoU {len(x)} x {len(y)}",
        lambda: overlap.pairwise_iou(x, y),
        lambda: dense_iou(a, b),
        lambda: pycoco.iou(a_coco, b_coco, crowd),
    )
    line("pairs that overlap, with IoU", lambda: overlap.iou_pairs(x), None, None)
    line(
        "mask NMS",
        lambda: resolve.mask_nms(x, x.scores, 0.1),
        lambda: greedy(dense_iou(a, a), x.order("score"), 0.1),
        None,
    )
    line(
        "decode runs",
        lambda: Instances.from_runs(size, texts),
        lambda: dense_decode(texts, size),
        None,
    )
    line("encode runs", x.to_runs, lambda: dense_encode(a), None)
    line("decode COCO counts", coco_decode, None, lambda: pycoco.decode(a_coco))
    line(
        "encode COCO counts",
        lambda: rle.crops_to_counts(*x.flat, size),
        None,
        lambda: pycoco.encode(columns),
    )
    line(
        "resolve overlaps",
        lambda: x.disjoint(order),
        lambda: dense_resolve(a, order),
        None,
    )
    line(
        "  + largest piece, fill holes",
        lambda: x.disjoint(order, largest_piece=True, fill_holes=True, min_area=20),
        None,
        None,
    )
    line("to label image", lambda: x.to_labels(), None, None)
    if options.competition:
        masks = sum(len(texts) for _, texts in images.values())
        took = cpu_ms(lambda: [Instances.from_runs(*image) for image in images.values()])
        print(f"all {len(images)} images of the file, {masks} masks: decoded in {took:.0f} ms")


if __name__ == "__main__":
    main()
