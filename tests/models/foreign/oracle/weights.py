"""Remake the weights of each oracle from names and shapes alone: no other library is needed.

``state`` has the library's own names. ``answer`` is the .npz: the image (gray uint8, at network
scale), and what the library made of it.
"""

import ast
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
D2 = [
    ("fpn_", 0.5),
    ("bbox_pred", 0.9),
    ("cls_score", 2.0),
    ("anchor_deltas", 0.35),
    ("objectness_logits", 1.0),
    ("mask_head.predictor", 1.5),
    ("point_head.predictor", 1.5),
]
MM = [
    ("neck.", 0.5),
    ("fc_reg", 0.9),
    ("fc_cls", 2.0),
    ("rpn_reg", 0.35),
    ("rpn_cls", 1.0),
    ("conv_logits", 1.5),
    ("mask_iou_head.fc_mask_iou", 0.3),
    ("point_head.fc_logits", 1.5),
]


def value(name, shape, gain):
    u = (
        np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        .random(int(np.prod(shape)) if len(shape) else 1)
        .reshape(shape)
    )
    tail = name.rsplit(".", 1)[-1]
    if tail == "running_var":
        return (0.5 + u).astype(np.float32)
    if tail in ("running_mean", "bias"):
        return (0.2 * (u - 0.5)).astype(np.float32)
    if len(shape) == 1:
        return (
            (0.2 + 0.2 * u) if ".conv3.norm." in name or ".bn3." in name else (0.8 + 0.4 * u)
        ).astype(np.float32)
    return ((u - 0.5) * 2 * np.sqrt(3.0 / int(np.prod(shape[1:]))) * np.sqrt(2.0) * gain).astype(
        np.float32
    )


def load(oracle):
    answer = dict(np.load(HERE / f"{oracle}.npz"))
    d2 = oracle.startswith("d2_")
    gains = ([("fpn_", 0.15)] if "R_101" in oracle else []) + (D2 if d2 else MM)
    stem = "backbone.bottom_up.stem.conv1.norm.running_var" if d2 else "backbone.bn1.running_var"
    factor = 20000.0 if d2 or "caffe" in oracle else 8.0
    state = {}
    for line in (HERE / f"{oracle[3:] if d2 else oracle}.keys.txt").read_text().splitlines():
        name, shape = line.split("\t")
        shape = ast.literal_eval(shape)
        if name.endswith("num_batches_tracked"):
            continue
        v = value(name, shape, next((g for p, g in gains if p in name), 1.0))
        state[name] = torch.from_numpy(v * np.float32(factor) if name == stem else v)
    for key, v in answer.items():
        if key.startswith("set:"):
            state[key[4:]] = torch.from_numpy(v)
    return state, answer
