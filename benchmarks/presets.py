"""What each preset costs: parameters, memory, time a step, time an image.

    python benchmarks/presets.py            all presets
    python benchmarks/presets.py --only flow_lite unet_lite --steps 5

Each preset is trained for some steps in a process of its own, on one processor thread, at its own
crop and batch, on synthetic images; then it predicts one of 704×520 pixels (hardly trained, so a
family whose time grows with the number of cells may take longer or shorter when it is). Encoder
weights that cannot be had without a download are left out: they change no figure. The results go
into the package, where `somaseg models` finds them. No preset may need more than 12 GiB.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
SIZE = (520, 704)
LIMIT = 12


def build(preset, info):
    """Build the preset's model; without pretrained weights if they are not at hand."""
    from somaseg.errors import SomasegError
    from somaseg.models.registry import build_model, parse_config

    try:
        return build_model(parse_config(preset.model), info)
    except SomasegError:
        if preset.model.get("pretrained", "none") == "none":
            raise
        # Statistics of a batch norm that are kept as pretrained must come from somewhere.
        norm = {"norm": "batch"} if preset.model.get("family") == "rcnn" else {}
        return build_model(parse_config({**preset.model, "pretrained": "none", **norm}), info)


def measure(name, steps):
    """Train and predict in this process."""
    import torch

    from somaseg.data import load_dataset
    from somaseg.data.synthetic import make_image, write_dataset
    from somaseg.models.registry import load_preset
    from somaseg.models.training.fit import train_model
    from somaseg.models.training.info import learn_info
    from somaseg.models.training.journal import METRICS, MetricsFile
    from somaseg.models.training.settings import TrainSettings

    preset = load_preset(name)
    fields = {"steps": steps, "log_every": 1, "checkpoint_minutes": 1e9}
    settings = TrainSettings.model_validate({**preset.training, **fields})
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(f"{folder}/data", n_per_class=1, size=SIZE, n_test=0)
        samples = list(load_dataset(f"{folder}/data"))
        torch.manual_seed(0)
        model = build(preset, learn_info(samples))
        clock = []

        def tick(done, total, loss):
            if done:
                clock.append(time.process_time())

        train_model(model, samples, settings, f"{folder}/run", progress=tick)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        losses = [values["total"] for _, values in MetricsFile(Path(folder, "run", METRICS)).rows()]
    image = make_image("shsy5y", 0, SIZE)[0]
    model.predict([image])  # kernels and buffers
    began = time.process_time()
    model.predict([image])
    return {
        "parameters": model.parameter_count,
        "pretrained": getattr(model.config, "pretrained", ""),
        "steps": steps,
        # The first step also makes buffers.
        "step_seconds": round((clock[-1] - clock[0]) / (len(clock) - 1), 3),
        "train_bytes": peak,
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
        "predict_seconds": round(time.process_time() - began, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--measure", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps: 2 or more, because the first is not timed")
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.steps)))
        return 0

    from somaseg.files import write_json
    from somaseg.models.catalogue import Measured, measured_file, read_measured
    from somaseg.models.registry import preset_names

    unknown = set(arguments.only or ()) - set(preset_names())
    if unknown:
        parser.error(f"--only {' '.join(unknown)}: presets are {', '.join(preset_names())}")
    found = read_measured()
    # Without a network: weights that would be downloaded fail at once.
    environment = os.environ | dict.fromkeys(THREADS, "1") | {"HF_HUB_OFFLINE": "1"}
    print(
        f"{'preset':28}{'M param.':>9}{'weights':>10}{'GiB':>6}{'s/step':>8}{'first':>9}{'last':>9}"
        f"{'s/image':>9}",
        flush=True,
    )
    failed = []
    for name in arguments.only or preset_names():
        done = subprocess.run(
            [sys.executable, __file__, "--measure", name, "--steps", str(arguments.steps)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        if done.returncode:
            failed.append(name)
            print(
                f"{name:28}failed: {(done.stderr.strip() or 'killed').splitlines()[-1]}", flush=True
            )
            continue
        one = Measured.model_validate_json(done.stdout.splitlines()[-1])
        found[name] = one
        print(
            f"{name:28}{one.parameters / 1e6:9.2f}{one.pretrained:>10}"
            f"{one.train_bytes / 2**30:6.2f}{one.step_seconds:8.2f}{one.first_loss:9.3f}"
            f"{one.last_loss:9.3f}{one.predict_seconds:9.2f}",
            flush=True,
        )
        write_json(measured_file(), {k: found[k].model_dump() for k in sorted(found)})
        if one.train_bytes > LIMIT * 2**30:
            failed.append(name)
    if failed:
        print(f"failed, or needs more than {LIMIT} GiB: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
