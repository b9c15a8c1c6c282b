"""Processor seconds to segment an image, beside torchvision's Mask R-CNN on ResNet-50.

    python benchmarks/predict.py FOLDER [--images 3] [--model MODEL]

One thread, each in a process of its own, after a first image that is not counted.
``freed`` is without telling glibc to keep memory (``somaseg.models.device.keep_memory``).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

KINDS = {"somaseg": {}, "somaseg, no views": {}, "somaseg, freed": {"MALLOC_ARENA_TEST": "8"},
         "Mask R-CNN R50": {}}  # fmt: skip


def child(kind, paths, model):
    import torch

    from somaseg.data.images import read_image

    torch.set_num_threads(1)
    images = [read_image(path) for path in paths]
    if kind == "Mask R-CNN R50":
        from torchvision.models.detection import maskrcnn_resnet50_fpn

        network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()

        def segment(image):
            gray = torch.from_numpy(image).float()[None] / 255
            with torch.inference_mode():
                return network([gray.expand(3, -1, -1)])

    else:
        from somaseg.predict.load import load_segmenter

        segment = load_segmenter(model, "none" if kind.endswith("no views") else None)
    segment(images[0])
    began, system = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_stime
    for image in images:
        segment(image)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "seconds": (time.process_time() - began) / len(images),
                "system": (usage.ru_stime - system) / len(images),
                "memory": usage.ru_maxrss * 1024,
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--model")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    paths = sorted(options.folder.glob("*.png"))[: options.images]
    if options.child:
        child(options.child, paths, options.model)
        return
    found = {}
    for kind, changes in KINDS.items():
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--child", kind],
            env={**os.environ, **threads, **changes},
            stdout=subprocess.PIPE,
            check=True,
        )
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    theirs = found["Mask R-CNN R50"]["seconds"]
    print("                     CPU s an image   system   × Mask R-CNN R50   peak memory")
    for kind, one in found.items():
        seconds, memory = one["seconds"], one["memory"] / 2**30
        print(
            f"{kind:<20} {seconds:14.2f} {one['system']:8.2f} {seconds / theirs:18.2f}"
            f" {memory:9.2f} GiB"
        )


if __name__ == "__main__":
    main()
