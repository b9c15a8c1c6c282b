"""Processor seconds, score and memory of a prediction, by engine and precision, beside others.

    python benchmarks/predict.py DATA [--images 3] [--model MODEL] [--fast MODEL] [--folder 40]

DATA is annotated; its images should be such as the model has not seen. One thread, each row in a
process of its own, after a first image that is not counted. MODEL is made ready for int8 by
`somaseg calibrate`; rows that cannot be run here say why. `freed` is without telling glibc to keep
memory (``somaseg.models.device.keep_memory``).

Beside it: torchvision's Mask R-CNN on ResNet-50, as it comes, and the network of Cellpose 3 over
its own tiles at its own scale, both with random weights and without decoding. Last, the wall time
of a folder of images on one core and on two.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
WAYS = [
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
]
RCNN, CELLPOSE = "Mask R-CNN R50", "Cellpose 3's network"


def reference(kind, diameter):
    """What runs another's network over an image."""
    import torch

    if kind == RCNN:
        from torchvision.models.detection import maskrcnn_resnet50_fpn

        network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()

        def segment(image):
            gray = torch.from_numpy(image).float()[None] / 255
            with torch.inference_mode():
                network([gray.expand(3, -1, -1)])

        return segment
    from somaseg.data.augment import prepare_image
    from somaseg.models.flow.tiling import run_tiled

    try:
        from cellpose.resnet_torch import CPnet

        theirs = CPnet([2, 32, 64, 128, 256], 3, 3).eval()
        network = lambda x: theirs(torch.cat([x, torch.zeros_like(x)], 1))[0]  # noqa: E731
    except ImportError:  # Cellpose 4 has it no longer; ours has the same layers
        from somaseg.models.config import WIDTHS
        from somaseg.models.nn.cpnet import CPNet

        network = CPNet(0, WIDTHS).eval()
    return lambda image: run_tiled(network, prepare_image(image), 30 / diameter)


def samples_of(options):
    from somaseg.data import load_dataset

    found = [sample for sample in load_dataset(options.data) if sample.instances is not None]
    step = max(1, len(found) // options.images)
    return found[::step][: options.images]


def child(options):
    import torch

    from somaseg.errors import SomasegError
    from somaseg.predict.load import load_segmenter
    from somaseg.runs.checking import mean_score

    torch.set_num_threads(1)
    samples = samples_of(options)
    images = [sample.image() for sample in samples]
    kind, engine, precision, views = json.loads(options.child)
    try:
        if kind in (RCNN, CELLPOSE):
            diameter = load_segmenter(options.model).predictor.diameter
            segment = reference(kind, diameter)
        else:
            model = options.fast if kind == "fast" else options.model
            segment = load_segmenter(model, views, engine=engine, precision=precision)
        segment(images[0])
    except SomasegError as error:
        print(json.dumps({"error": str(error)}))
        return
    began = time.process_time()
    found = [segment(image) for image in images]
    seconds = (time.process_time() - began) / len(images)
    known = kind not in (RCNN, CELLPOSE)
    score = mean_score([s.instances for s in samples], found) if known else None
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "score": score, "memory": memory}))


def run(arguments, **changes):
    threads = dict.fromkeys(THREADS, "1")
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], *arguments],
        env={**os.environ, **threads, **changes},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def folder_child(options):
    """Wall time of a folder of images on as many cores as are given."""
    from somaseg.predict.load import load_segmenter
    from somaseg.predict.outputs import segment_samples

    cores = int(options.cores)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from somaseg.cli.sources import gather
    from somaseg.data.axes import Choice

    samples = samples_of(options)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "images").mkdir()
        for i in range(options.folder):
            source = samples[i % len(samples)].image_path
            shutil.copy(source, place / "images" / f"{i:03d}{source.suffix}")
        segmenter = load_segmenter(options.model)
        segmenter(samples[0].image())
        given = gather([place / "images"], Choice(None, None, None))
        began = time.perf_counter()
        segment_samples(segmenter, given.samples, place / "out", workers=cores)
        print(json.dumps({"seconds": time.perf_counter() - began}))


def print_row(row, one, known, note=""):
    kind, engine, precision, views = row
    name = ", ".join(filter(None, (kind, views and "no views", note)))
    line = f"{name:<24}{engine:<10}{precision:<10}"
    if "error" in one:
        print(f"{line}  {one['error']}", flush=True)
        return
    rcnn, cellpose = (other["seconds"] for other in known.values())
    numbers = (one["seconds"], one["seconds"] / rcnn, cellpose / one["seconds"])
    score = "" if one["score"] is None else f"{one['score']:.4f}"
    line += "".join(f"{number:12.2f}" for number in numbers)
    print(f"{line}{score:>12}{one['memory'] / 2**30:8.2f} GiB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--model", help="by default the one that comes with somaseg")
    parser.add_argument("--fast", help="one network; by default no such rows")
    parser.add_argument("--folder", type=int, default=40, help="images of the folder; 0: none")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--cores", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    if options.cores:
        folder_child(options)
        return
    others = [(kind, "torch", "float32", None) for kind in (RCNN, CELLPOSE)]
    rows = [*others, *(("ensemble", *way, None) for way in WAYS), ("ensemble", *WAYS[0], "none")]
    rows += [("fast", *way, None) for way in WAYS] if options.fast else []
    heads = ("CPU s", "x R-CNN", "Cellpose x", "score", "memory")
    print(f"{'':<24}{'engine':<10}{'precision':<10}" + "".join(f"{head:>12}" for head in heads))
    known = {row: run(["--child", json.dumps(row)]) for row in others}
    for row in rows:
        print_row(row, known.get(row) or run(["--child", json.dumps(row)]), known)
    freed = ("ensemble", *WAYS[0], None)
    print_row(freed, run(["--child", json.dumps(freed)], MALLOC_ARENA_TEST="8"), known, "freed")
    if options.folder:
        wall = [run(["--cores", cores])["seconds"] for cores in "12"]
        print(
            f"{options.folder} images on one core {wall[0]:.1f} s, on two {wall[1]:.1f} s: "
            f"{wall[0] / wall[1]:.2f}x as fast"
        )


if __name__ == "__main__":
    main()
