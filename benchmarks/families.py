"""Every family on real images: train one fold of each preset, and print the table of the docs.

    python benchmarks/families.py ../shared/data/sartorius --out runs/families
    python benchmarks/families.py ../shared/data/sartorius --out runs/families --only flow unet

Each row is `somaseg train DATA --fold 0` with a light preset, on one processor thread. The heads of
the two-stage family are compared on one trunk: `mask_rcnn_lite` is trained once, and each variant
goes on from its weights (of the same fold, so the scored images stay unseen) for the same number of
steps; "Mask R-CNN, as long" is the plain model trained on likewise. Rows that are trained already
are only scored.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CLASS_WEIGHTS = {"cort": 320.0, "shsy5y": 155.0, "astro": 131.0}


@dataclass(frozen=True)
class Row:
    title: str
    name: str
    preset: str
    options: tuple[str, ...] = ()
    after: str | None = None
    """Row whose model the training starts from."""


FLIPS = ("--views", "flips")
SHORT = (*FLIPS, "--steps", "1000")
HEADS = ("--steps", "200", "--set", "training.warmup=0.1")
# The preset's box heads are half as wide, to ship small; here they start from the trunk's own.
WIDE = (*HEADS, "--set", "model.box_dim=512")
ROWS = (
    Row("attention residual U-Net, foreground only", "attention", "attention_unet_lite", SHORT),
    Row("the same with border and seeds", "attention_border", "attention_unet_border_lite", SHORT),
    Row("U-Net, pretrained encoder, border and seeds", "unet", "unet_lite", FLIPS),
    Row("encoder features + XGBoost", "forest", "pixel_forest"),
    Row("flows, pretrained encoder", "flow", "flow_lite", FLIPS),
    Row("modified Cellpose, from noise", "cellpose_modified", "cellpose_modified"),
    Row("the same, half as wide", "cellpose_modified_lite", "cellpose_modified_lite"),
    Row("Mask R-CNN", "mask_rcnn", "mask_rcnn_lite"),
    Row("Mask R-CNN, as long as the next", "mask_rcnn_on", "mask_rcnn_lite", HEADS, "mask_rcnn"),
    Row("Mask Scoring R-CNN", "ms_rcnn", "ms_rcnn_lite", HEADS, "mask_rcnn"),
    Row("Cascade R-CNN", "cascade", "cascade_rcnn_lite", WIDE, "mask_rcnn"),
    Row("Cascade Mask Scoring R-CNN", "cascade_ms", "cascade_ms_rcnn_lite", HEADS, "mask_rcnn"),
    Row("PointRend", "pointrend", "pointrend_lite", HEADS, "mask_rcnn"),
)


def train(row: Row, data: Path, out: Path) -> None:
    """Train fold 0 of a row through the command line, as a user would."""
    command = [sys.executable, "-m", "somaseg", "train", str(data), "--out", str(out / row.name)]
    command += ["--model", row.preset, "--fold", "0", "--jobs", "1", *row.options]
    command += ["--weights", ",".join(f"{k}={v:g}" for k, v in CLASS_WEIGHTS.items())]
    if row.after:
        command += ["--from", str(out / row.after / "fold0" / "model.safetensors")]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    subprocess.run(command, check=True, env=os.environ | threads)


def measure(row: Row, out: Path) -> list[str]:
    """Score a trained row; a line of the table."""
    import numba
    import torch

    from somaseg.files import read_json
    from somaseg.models.bundle import load_model
    from somaseg.predict.predictor import Predictor
    from somaseg.runs.run import Run
    from somaseg.runs.tuning import decide_run

    run = Run.open(out / row.name)
    dataset = run.dataset()
    scores = decide_run(run, dataset, CLASS_WEIGHTS)
    note = read_json(run.part(0) / "training.json")
    minutes = note["cpu_seconds"] / 60
    if row.after:
        minutes += read_json(out / row.after / "fold0" / "training.json")["cpu_seconds"] / 60
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    predictor = Predictor([load_model(run.model_path(0))], run.config.views)
    images = [dataset[name].image() for name in list(run.raw_predictions())[:3]]
    predictor(images[0])  # kernels and buffers
    began = time.process_time()
    for image in images:
        predictor(image)
    seconds = (time.process_time() - began) / len(images)
    by_class = [f"{scores.nested.by_class[name]:.3f}" for name in CLASS_WEIGHTS]
    return [
        row.title,
        f"`{row.preset}`",
        *by_class,
        f"**{scores.nested.weighted:.3f}**",
        f"{scores.untuned.weighted:.3f}",
        f"{minutes:.0f}",
        f"{seconds:.2f}",
        f"{note['parameters'] / 1e6:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS])
    parser.add_argument("--score-only", action="store_true", help="leave out rows not trained yet")
    arguments = parser.parse_args()
    heads = (
        "family",
        "preset",
        *CLASS_WEIGHTS,
        "mix",
        "mix, untuned",
        "CPU-min",
        "s/image",
        "M par.",
    )
    print("|", " | ".join(heads), "|")
    print("|", " | ".join(["---"] * len(heads)), "|", flush=True)
    for row in ROWS:
        if arguments.only and row.name not in arguments.only:
            continue
        if not (arguments.out / row.name / "fold0" / "predictions.npz").exists():
            if arguments.score_only:
                continue
            train(row, arguments.data, arguments.out)
        print("|", " | ".join(measure(row, arguments.out)), "|", flush=True)


if __name__ == "__main__":
    main()
