"""Make ``cpnet.npz`` and ``dynamics.npz``: what the cellpose package says, for tests without it.

    pip install --target CP3 --no-deps cellpose==3.1.1.2
    PYTHONPATH=CP3 python -m tests.models.data.make_cpnet_fixture

Weights and images come from formulas that every machine repeats (:func:`weights`,
:func:`image`, :func:`labels`), so that only the package's answers are stored:

- ``cpnet.npz``: the network's tensors by name and shape; its output; the maps of ``eval`` of an
  image, enlarged and reduced, in plain and in flipped tiles (every fifth pixel); and those of an
  RGB image, cells green and nuclei red.
- ``dynamics.npz``: flows of a label image; the masks of these flows under noise, with and without
  the check of their errors; and those of every second pixel of them, enlarged.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SIZE = (150, 210)
DIAMETERS = (18.0, 45.0)
EVERY = 5
CHECK = 0.3
"""Largest flow error of the checked masks: a tenth of them has more."""


def weights(shapes: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
    """Weights that keep a deep network's values of the order of one, by name."""
    rng = np.random.default_rng(7)
    out = {}
    for name, shape in shapes.items():
        kind = name.rsplit(".", 1)[-1]
        if kind == "running_var" or (kind == "weight" and len(shape) == 1):
            values = 0.5 + rng.random(shape)
        elif len(shape) > 1:
            values = (2 * rng.random(shape) - 1) * np.sqrt(3 / np.prod(shape[1:]))
        else:
            values = 0.4 * rng.random(shape) - 0.2
        out[name] = values.astype(np.float32)
    return out


def image() -> np.ndarray:
    """Blocks of random brightness under noise: uint8."""
    rng = np.random.default_rng(8)
    blocks = np.kron(rng.random((15, 21)), np.ones((10, 10)))
    return (200 * blocks + 50 * rng.random(SIZE)).astype(np.uint8)


def stained() -> np.ndarray:
    """Another picture in each colour: uint8 (h, w, 3)."""
    gray = image()
    return np.stack([gray[::-1] // 2, gray, gray * 0], -1)


def labels() -> np.ndarray:
    """Ellipses that touch, each turned and cut by the next: int32."""
    rng = np.random.default_rng(9)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    out = np.zeros(SIZE, np.int32)
    for k in range(1, 41):
        cy, cx = rng.random(2) * SIZE
        a, b, angle = 5 + 5 * rng.random(), 8 + 10 * rng.random(), np.pi * rng.random()
        v, u = y - cy, x - cx
        along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
        out[(along / b) ** 2 + (across / a) ** 2 < 1] = k
    return np.unique(out, return_inverse=True)[1].reshape(SIZE).astype(np.int32)


def noise() -> np.ndarray:
    """What is added to the flows before masks are made of them: float32 (2, h, w)."""
    return (np.random.default_rng(10).random((2, *SIZE)) - 0.5).astype(np.float32)


def main() -> None:
    import torch
    from cellpose import dynamics, models, version
    from cellpose.resnet_torch import CPnet

    device = torch.device("cpu")
    net = CPnet([2, 32, 64, 128, 256], 3, 3).eval()
    shapes = {
        name: list(value.shape)
        for name, value in net.state_dict().items()
        if "num_batches" not in name and not name.startswith("diam_")
    }
    state = {name: torch.from_numpy(value) for name, value in weights(shapes).items()}
    net.load_state_dict(net.state_dict() | state)
    picture = image()
    plain = torch.from_numpy(picture[:64, :96].astype(np.float32) / 255)
    with torch.inference_mode():
        output = net(torch.stack([plain, plain * 0])[None])[0][0].numpy()
    path = HERE / "random_cellpose_model"
    net.save_model(path)
    model = models.CellposeModel(pretrained_model=str(path), mkldnn=False, device=device)
    path.unlink()
    maps = {}
    for diameter in DIAMETERS:
        for flip in (False, True):
            _, found, _ = model.eval(
                picture, channels=[0, 0], diameter=diameter, augment=flip, compute_masks=False
            )
            whole = np.concatenate([found[1], found[2][None]])
            maps[f"maps_{diameter:g}_{flip}"] = whole[:, ::EVERY, ::EVERY].astype(np.float32)
    # Flipped tiles and an enlarged image at once.
    _, found, _ = model.eval(
        stained(), channels=[2, 1], diameter=DIAMETERS[0], augment=True, compute_masks=False
    )
    whole = np.concatenate([found[1], found[2][None]])
    maps["stained"] = whole[:, ::EVERY, ::EVERY].astype(np.float32)
    np.savez_compressed(
        HERE / "cpnet.npz",
        cellpose=version,
        shapes=json.dumps(shapes),
        output=output.astype(np.float32),
        **maps,
    )

    truth = labels()
    flows = dynamics.labels_to_flows([truth.copy()], device=device)[0][2:4]
    noisy = ((flows + noise()) * (truth > 0)).astype(np.float32)
    logit = np.where(truth > 0, 5.0, -5.0).astype(np.float32)
    masks = {}
    for name, limit in (("all", 0.0), ("checked", CHECK)):
        made = dynamics.compute_masks(
            5 * noisy, logit, flow_threshold=limit, min_size=15, device=device
        )
        masks[f"masks_{name}"] = made.astype(np.uint8)
    made = dynamics.resize_and_compute_masks(
        np.ascontiguousarray(5 * noisy[:, ::2, ::2]),
        np.ascontiguousarray(logit[::2, ::2]),
        flow_threshold=CHECK,
        min_size=15,
        resize=list(SIZE),
        device=device,
    )
    masks["masks_enlarged"] = made.astype(np.uint8)
    np.savez_compressed(
        HERE / "dynamics.npz", cellpose=version, flows=flows.astype(np.float16), **masks
    )


if __name__ == "__main__":
    main()
