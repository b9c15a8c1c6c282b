"""A large mosaic in tiles against its parts alone: cells recovered, time and memory.

    python benchmarks/large_images.py [--parts FOLDER] [--model MODEL] [--side 6000] [--tile 1024]

The mosaic is made of synthetic images, or of those in FOLDER, each stretched to its own levels.
Its parts are whole units of the network's grid, and predicted alone with the mosaic's gray levels:
what differs then comes of the tiles. A cell of a part counts if it is not near the part's border,
where the image itself has a seam. It is at a seam of tiles if its box meets a border between the
cores of two tiles; it is recovered if a cell of the mosaic overlaps it by an IoU above a half.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch

from somaseg.data.augment import prepare_image
from somaseg.data.formats.results import read_results
from somaseg.data.images import list_images, read_image
from somaseg.data.synthetic import KINDS, make_image
from somaseg.data.types import Sample
from somaseg.data.windows import find_levels
from somaseg.decide import SettleSettings, settle
from somaseg.instances import Instances
from somaseg.predict.load import load_segmenter
from somaseg.predict.outputs import segment_samples
from somaseg.predict.predictor import TILE
from somaseg.scoring import Overlaps

AWAY = 40
"""Pixels from a part's border from which a cell counts."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", help="folder of images; without, synthetic ones")
    parser.add_argument("--model")
    parser.add_argument("--side", type=int, default=6000)
    parser.add_argument("--tile", type=int, default=TILE)
    parser.add_argument("--overlap", type=int)
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if options.child:
        child(options, *map(Path, options.child))
        return
    settling()
    with tempfile.TemporaryDirectory() as folder:
        recovery(options, Path(folder))
        if not options.skip_memory:
            memory(options, Path(folder))


def segmenter_of(options):
    segmenter = load_segmenter(options.model, tile=options.tile, overlap=options.overlap)
    segmenter.one_class = False  # the mosaic is of several
    return segmenter


def child(options, image, out):
    """Predict one image in bounded memory; a process of its own, whose peak is its own."""
    segmenter = segmenter_of(options)
    before = resource.getrusage(resource.RUSAGE_SELF)
    sample = Sample(image.stem, tifffile.TiffFile(image).pages.first.shape[:2], image)
    began = time.perf_counter()
    done = segment_samples(segmenter, [sample], out, overlays=False, large=0)
    after = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "cells": done.total,
        "seconds": time.perf_counter() - began,
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak": peak_megabytes(),
    }
    print(json.dumps(figures))


def peak_megabytes():
    """Most memory this process had (Linux); getrusage would give its parent's, if that had more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def run_child(options, image, out):
    command = [sys.executable, __file__, "--child", str(image), str(out)]
    command += ["--tile", str(options.tile)]
    command += ["--model", options.model] if options.model else []
    command += ["--overlap", str(options.overlap)] if options.overlap is not None else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def parts(options, unit):
    """8-bit images of whole units, without end."""
    paths = list_images(options.parts) if options.parts else []
    index = 0
    while True:
        if paths:
            image = read_image(paths[index % len(paths)])
        else:
            image = make_image(KINDS[index % 3], index // 3, (520, 704))[0]
        index += 1
        h, w = (side // unit * unit for side in image.shape[:2])
        stretched = (prepare_image(image)[:h, :w] + 1) / 3 * 255
        yield np.round(stretched).astype(np.uint8)


def mosaic(options, unit, shape, path):
    """Write a mosaic of at most ``shape`` and return the size of its parts and of itself."""
    supply = parts(options, unit)
    first = next(supply)
    h, w = first.shape
    rows, columns = shape[0] // h, shape[1] // w
    out = tifffile.memmap(path, shape=(rows * h, columns * w), dtype=np.uint8)
    for k in range(rows * columns):
        y, x = k // columns * h, k % columns * w
        part = first if k == 0 else next(supply)
        if part.shape != first.shape:
            raise SystemExit("the parts must be of one size")
        out[y : y + h, x : x + w] = part
    out.flush()
    return (h, w), out.shape


def recovery(options, folder):
    segmenter = segmenter_of(options)
    predictor = segmenter.predictor
    unit = predictor.grid((1, 1)).unit
    path = folder / "mosaic.tif"
    (h, w), size = mosaic(options, unit, (options.side, options.side), path)
    image = tifffile.memmap(path, mode="r")
    grid = predictor.grid(size)
    print(f"mosaic {size[0]} × {size[1]} of parts {h} × {w}; {len(grid)} tiles of {grid.shape}")
    figures = run_child(options, path, folder / "out")
    print(
        f"predicted: {figures['cells']} cells, {figures['seconds']:.0f} s "
        f"({figures['processor']:.0f} s of one processor), peak {figures['peak']:.0f} MB"
    )
    found = read_results(folder / "out" / "predictions.json")["mosaic"]
    labels = tifffile.imread(folder / "out" / "labels" / "mosaic.tif")
    print(f"cells in the label image: {len(np.unique(labels)) - 1}")
    levels = find_levels(image)
    counts = {True: np.zeros((2, 3), int), False: np.zeros((2, 3), int)}
    for y in range(0, size[0], h):
        for x in range(0, size[1], w):
            prepared = prepare_image(image[y : y + h, x : x + w], levels)
            alone = settle(predictor.find(prepared), segmenter.settings)
            here = found.window((h, w), (-x, -y))[0]
            for k, (one, other) in enumerate(((alone, here), (here, alone))):
                overlaps = Overlaps.between(one, other)
                seam = at_seam(grid, one.boxes + np.array([x, y, x, y]))
                inner = (
                    (one.boxes[:, :2] >= AWAY).all(axis=1)
                    & (one.boxes[:, 2] <= w - AWAY)
                    & (one.boxes[:, 3] <= h - AWAY)
                )
                hits = [overlaps.matches((t,))[0] >= 0 for t in (50, 75)]
                for place in (True, False):
                    chosen = inner & (seam == place)
                    counts[place][k] += [chosen.sum(), *((hit & chosen).sum() for hit in hits)]
    print("                         cells   IoU > .5   > .75")
    for place, words in ((True, "at seams of tiles"), (False, "elsewhere")):
        for k, way in enumerate(("parts' in mosaic", "mosaic's in parts")):
            n, *hits = counts[place][k]
            shares = "".join(f"{hit / max(n, 1):10.2%}" for hit in hits)
            print(f"{words:18} {way:18} {n:6}{shares}")


def at_seam(grid, boxes):
    """Whether boxes meet a border between the cores of two tiles."""
    seam = np.zeros(len(boxes), bool)
    for part in grid.rows[1:]:
        seam |= (boxes[:, 1] < part.first) & (boxes[:, 3] > part.first)
    for part in grid.columns[1:]:
        seam |= (boxes[:, 0] < part.first) & (boxes[:, 2] > part.first)
    return seam


def memory(options, folder):
    unit = segmenter_of(options).predictor.grid((1, 1)).unit
    print("memory: as high as wide, four and sixteen times as high")
    for k, shape in enumerate(((1500, 1500), (6000, 1500), (24000, 1500))):
        path = folder / f"tall{k}.tif"
        _, size = mosaic(options, unit, shape, path)
        figures = run_child(options, path, folder / f"out{k}")
        print(
            f"  {size[0]:6} × {size[1]}: {figures['cells']:6} cells, "
            f"peak {figures['peak']:.0f} MB, {figures['processor']:.0f} s"
        )


def settling():
    """Time to settle one image of many cells, each found three times."""
    print("settling one image: cells, raw instances, seconds, microseconds a cell")
    settings = {"a": SettleSettings(score=0)}
    for n in (12_500, 25_000, 50_000, 100_000, 200_000):
        raw = many_cells(n)
        settle(raw[:100], settings)
        began = time.process_time()
        final = settle(raw, settings)
        seconds = time.process_time() - began
        print(f"  {len(final):7} {len(raw):7} {seconds:7.2f} {seconds / n * 1e6:6.1f}")


def many_cells(n, side=18):
    """Soft discs in rows and columns, three instances of each, on an image as large as needed."""
    across = int(np.ceil(np.sqrt(n)))
    size = (across * side + 4, across * side + 4)
    y, x = np.mgrid[:16, :16] - 7.5
    disc = np.clip((8 - np.hypot(y, x)) * 100, 0, 255).astype(np.uint8)
    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(n), 3)
    corner = np.stack([place % across, place // across], 1) * side + rng.integers(0, 4, (3 * n, 2))
    boxes = np.concatenate([corner, corner + 16], axis=1).astype(np.int32)
    offsets = np.arange(3 * n + 1, dtype=np.int64) * disc.size
    return Instances(
        size,
        boxes,
        np.tile(disc.ravel(), 3 * n),
        offsets,
        rng.random(3 * n, dtype=np.float32),
        np.zeros(3 * n, np.int16),
        ("a",),
        soft=True,
    )


if __name__ == "__main__":
    main()
