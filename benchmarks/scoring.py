"""How fast is scoring, next to plain NumPy, pycocotools and faster-coco-eval, and do they agree?

    python benchmarks/scoring.py DATA [--slow] [--no-peers]

DATA is a data set of any format; each of its images is scored against its own cells, moved by up to
two pixels, some lost, with random scores. Files are read before the clock starts; each contestant
then gets what it works on (run lengths for the COCO tools, boolean stacks for NumPy) for nothing.
CPU time of all threads (the smallest of a few rounds): other work on the machine does not count.

``--slow`` also runs NumPy on all images (seconds each where there are hundreds of cells); without,
it is timed on one image of median size for each class and multiplied up.
"""

import argparse
import contextlib
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from somaseg.data.types import Dataset
from somaseg.instances import Instances
from somaseg.scoring import coco_score, compare, competition_score, explain_score
from somaseg.scoring.inputs import read_truth

UNCAPPED = 100_000
Shared = Callable[[np.ndarray, np.ndarray], np.ndarray]


def moved(cells: Instances, rng: np.random.Generator) -> Instances:
    """The cells, nine in ten of them, each moved by up to two pixels, with random scores."""
    parts = [
        cells[i].window(cells.size, tuple(int(d) for d in rng.integers(-2, 3, 2)))[0]
        for i in np.flatnonzero(rng.random(len(cells)) < 0.9)
    ]
    together = Instances.concat(parts) if parts else cells[:0]
    return together.with_scores(rng.random(len(together)).astype(np.float32))


def cpu_seconds(work: Callable[[], Any], rounds: int) -> tuple[float, float, Any]:
    """Smallest CPU and wall time of a few rounds, and the result."""
    cpu, wall, result = [], [], None
    for _ in range(rounds):
        begun, clock = time.process_time(), time.perf_counter()
        result = work()
        cpu.append(time.process_time() - begun)
        wall.append(time.perf_counter() - clock)
    return min(cpu), min(wall), result


def shared_by_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shared pixels of boolean masks (n, pixels) and (m, pixels), pair by pair."""
    return np.array([[np.count_nonzero(x & y) for y in b] for x in a])


def shared_by_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same as one product of matrices (float32 is exact up to 2²⁴ pixels)."""
    return (a.astype(np.float32) @ b.astype(np.float32).T).astype(np.int64)


def numpy_score(truths: np.ndarray, predictions: np.ndarray, shared_pixels: Shared) -> float:
    """The metric as it is usually written: stacked boolean masks, one matrix of IoUs."""
    n, m = len(truths), len(predictions)
    if n == 0 or m == 0:
        return float(n == m)
    a, b = truths.reshape(n, -1), predictions.reshape(m, -1)
    shared = shared_pixels(a, b)
    union = a.sum(1)[:, None] + b.sum(1)[None] - shared
    scores = []
    for percent in range(50, 100, 5):
        hit = 100 * shared > percent * union
        # One to one: strike out row and column of the best remaining pair.
        iou = np.where(hit, shared / union, 0)
        tp = 0
        while iou.any():
            i, j = np.unravel_index(iou.argmax(), iou.shape)
            iou[i], iou[:, j] = 0, 0
            tp += 1
        scores.append(tp / (n + m - tp))
    return float(np.mean(scores))


def coco_entries(ids: Sequence[str], images: Sequence[Instances], scored: bool) -> list[dict]:
    """What the COCO tools read: encoded masks."""
    entries: list[dict] = []
    for name, cells in zip(ids, images, strict=True):
        for i in range(len(cells)):
            code = mask_tools.encode(np.asfortranarray(cells.mask(i).astype(np.uint8)))
            entry = {
                "id": len(entries) + 1,
                "image_id": ids.index(name) + 1,
                "category_id": int(cells.classes[i]) + 1,
                "segmentation": code,
                "area": float(cells.areas[i]),
                "bbox": mask_tools.toBbox(code).tolist(),
                "iscrowd": 0,
            }
            entries.append(entry | ({"score": float(cells.scores[i])} if scored else {}))
    return entries


def coco_tool(
    coco_type: type, eval_type: type, dataset: Dataset, truths: list[dict], found: list[dict]
) -> Callable[[], float]:
    """One evaluation by a COCO tool, without areas and caps; returns its AP."""
    content = {
        "info": {},
        "images": [
            {"id": k + 1, "height": s.size[0], "width": s.size[1]} for k, s in enumerate(dataset)
        ],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(dataset.names)],
        "annotations": truths,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_type()
        truth.dataset = content
        truth.createIndex()
        results = truth.loadRes(found)

    def work() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            tool = eval_type(truth, results, "segm")
            tool.params.maxDets = [UNCAPPED]
            tool.params.areaRng, tool.params.areaRngLbl = [[0, 1e10]], ["all"]
            tool.evaluate()
            tool.accumulate()
        precision = np.asarray(tool.eval["precision"])
        return float(precision[precision > -1].mean())

    return work


def numpy_seconds(
    dataset: Dataset, found: dict[str, Instances], shared: Shared, slow: bool
) -> float:
    """CPU time of NumPy on all images, measured or multiplied up from one of each class."""
    groups: dict[str, list[str]] = {}
    for sample in dataset:
        groups.setdefault(sample.image_class or "", []).append(sample.id)
    total = 0.0
    for ids in groups.values():
        ids.sort(key=lambda name: len(dataset[name].annotated()))
        chosen = ids if slow else [ids[len(ids) // 2]]
        for name in chosen:
            truths = stacked(dataset[name].annotated())
            predictions = stacked(found[name])
            cpu, _, score = cpu_seconds(
                lambda t=truths, p=predictions: numpy_score(t, p, shared), 1
            )
            total += cpu * len(ids) / len(chosen)
            one = dataset.subset([name])
            ours = competition_score(compare(one, {name: found[name]})).map
            # Greedy and maximum matching may differ where both sides overlap.
            print(f"  image {name}: NumPy {score:.9f}, somaseg {ours:.9f}, {cpu:.2f} s")
    return total


def stacked(cells: Instances) -> np.ndarray:
    return np.array([cells.mask(i) for i in range(len(cells))]).reshape(len(cells), *cells.size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow", action="store_true", help="NumPy on every image")
    parser.add_argument("--no-peers", action="store_true", help="only somaseg")
    options = parser.parse_args()

    begun = time.perf_counter()
    dataset = read_truth(options.data)
    print(f"read {len(dataset)} images in {time.perf_counter() - begun:.2f} s")
    rng = np.random.default_rng(0)
    found = {sample.id: moved(sample.annotated(), rng) for sample in dataset}
    cells = sum(len(sample.annotated()) for sample in dataset)
    print(f"{cells} cells, {sum(map(len, found.values()))} predictions\n")

    compare(dataset.subset(dataset.ids[:1]), found, ignore_unknown=True)  # compile
    competition_score(compare(dataset, found))
    score_cpu, score_wall, score = cpu_seconds(
        lambda: competition_score(compare(dataset, found)), options.rounds
    )
    coco_cpu, coco_wall, coco = cpu_seconds(
        lambda: coco_score(compare(dataset, found)), options.rounds
    )
    comparison = compare(dataset, found)
    explain_score(comparison)
    explain_cpu, explain_wall, _ = cpu_seconds(lambda: explain_score(comparison), options.rounds)
    print(f"somaseg, competition score {score.map:.6f}: {score_cpu:.3f} CPU-s, {score_wall:.3f} s")
    print(f"somaseg, COCO AP {coco.ap:.9f}: {coco_cpu:.3f} CPU-s, {coco_wall:.3f} s")
    print(f"somaseg, explain from overlaps: {explain_cpu:.3f} CPU-s, {explain_wall:.3f} s")
    if options.no_peers:
        return

    images = [dataset[name].annotated() for name in dataset.ids]
    truths = coco_entries(dataset.ids, images, scored=False)
    results = coco_entries(dataset.ids, [found[name] for name in dataset.ids], scored=True)
    tools: dict[str, tuple[type, type]] = {"pycocotools": (COCO, COCOeval)}
    with contextlib.suppress(ImportError):
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster

        tools["faster-coco-eval"] = (FasterCOCO, COCOeval_faster)
    ratios = {}
    for name, (coco_type, eval_type) in tools.items():
        tool = coco_tool(coco_type, eval_type, dataset, truths, results)
        cpu, wall, ap = cpu_seconds(tool, 1 if name == "pycocotools" else 3)
        print(f"{name}, COCO AP {ap:.9f}: {cpu:.3f} CPU-s, {wall:.3f} s")
        ratios[f"COCO AP, {name}"] = cpu / coco_cpu
    print()
    how = "" if options.slow else " (from one image of each class)"
    for name, shared in {"pairs": shared_by_pairs, "product": shared_by_product}.items():
        cpu = numpy_seconds(dataset, found, shared, options.slow)
        print(f"NumPy ({name}), competition score: {cpu:.1f} CPU-s{how}")
        ratios[f"competition score, NumPy ({name})"] = cpu / score_cpu

    print("\nCPU time of the other over ours:")
    for name, ratio in ratios.items():
        print(f"  {name}: {ratio:.0f}×" if ratio >= 10 else f"  {name}: {ratio:.1f}×")


if __name__ == "__main__":
    main()
