"""Each family on a GPU beside the processor: equal within tolerance, and how fast.

    python benchmarks/gpu.py [--steps 20] [--images 8]

Needs a CUDA GPU. For one preset a family: the maps' largest difference (dense families) or the
share of instances found on both (IoU above .5; region families), images and training steps a
second on both devices. Weights are random but for the encoder's, images synthetic.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from somaseg.data.augment import prepare_image
from somaseg.data.synthetic import make_image
from somaseg.data.types import Sample
from somaseg.masks.overlap import iou_pairs
from somaseg.models.base import Dense, Network
from somaseg.models.device import VARIABLE
from somaseg.models.registry import build_model, load_preset, parse_config
from somaseg.models.training.fit import train_model
from somaseg.models.training.info import learn_info
from somaseg.models.training.settings import TrainSettings
from somaseg.predict.predictor import Predictor

PRESETS = ("flow_lite", "unet_lite", "mask_rcnn_lite", "cascade_rcnn_lite", "pixel_forest")


def samples(folder, count):
    found = []
    for seed in range(count):
        kind = ("cort", "shsy5y", "astro")[seed % 3]
        image, cells = make_image(kind, seed, (520, 704))
        path = folder / f"{seed}.png"
        cv2.imwrite(str(path), image)
        found.append(Sample(path.stem, (520, 704), path, cells, kind))
    return found


def train(name, images, settings, device, folder):
    os.environ[VARIABLE] = device
    preset = load_preset(name)
    torch.manual_seed(0)
    model = build_model(parse_config(preset.model), learn_info(images))
    began = time.perf_counter()
    train_model(model, images, settings, folder)
    return model, settings.steps / (time.perf_counter() - began)


def predict(model, images, device):
    predictor = Predictor([model], device=device)
    predictor(images[0].image())  # the first compiles and tunes
    began = time.perf_counter()
    found = [predictor(image.image()) for image in images]
    return found, len(images) / (time.perf_counter() - began)


def difference(model, images):
    out = []
    for device in ("cuda:0", "cpu"):
        model.place(torch.device(device))
        out.append(model.maps(prepare_image(images[0].image())))
    return f"maps differ by {np.abs(out[0] - out[1]).max():.3g} of {np.abs(out[1]).max():.3g}"


def agreement(one, other):
    both = 0
    for a, b in zip(one, other, strict=True):
        i, _, iou = iou_pairs(a, b)
        both += len(np.unique(i[iou > 0.5]))
    return f"{both} of {sum(map(len, one))} instances on both"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA GPU here")
    print(torch.cuda.get_device_name(0))
    print("preset               steps/s cpu   gpu   images/s cpu   gpu   equality")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = samples(folder, options.images)
        for preset in PRESETS:
            plain = load_preset(preset).training
            settings = TrainSettings(**{**plain, "steps": options.steps})
            _, slow = train(preset, images, settings, "cpu", folder / preset / "cpu")
            model, fast = train(preset, images, settings, "cuda:0", folder / preset / "gpu")
            if isinstance(model, Network):
                model.eval()
            on_gpu, images_fast = predict(model, images, "cuda:0")
            on_cpu, images_slow = predict(model, images, "cpu")
            dense = isinstance(model, Dense)
            equal = difference(model, images) if dense else agreement(on_cpu, on_gpu)
            steps, rates = f"{slow:11.2f} {fast:5.1f}", f"{images_slow:14.2f} {images_fast:5.1f}"
            print(f"{preset:<20} {steps} {rates}   {equal}")


if __name__ == "__main__":
    main()
