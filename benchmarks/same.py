"""Do two versions of somaseg find the same? The whole way with each, and what differs.

    git worktree add /tmp/old 30eba71
    python benchmarks/same.py /tmp/old/src src --work /tmp/same

OLD and NEW are source folders (or interpreters, in whose environment somaseg is installed). Both
get the same synthetic images and go the whole way with tiny networks, through the command line:
`fit` of two families, `train` and `tune` of a run, `ensemble` of members with annotations, with
`predict` of new images by each. Then scores, settings, folds and choices (JSON and YAML, but for
times), raw predictions, final masks and submissions are compared, value for value. What exists in
the work folder is not made again: delete WORK/new to compare another version with the same old one.
Exit code 1 if anything differs.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml

FLOW = {"family": "flow", "decoder": [32, 32, 16, 16], "diameter": 16}
SEMANTIC = {"family": "semantic"}
TRAINING = {"batch": 2, "crop": 128, "log_every": 5, "average": 0.9, "rate": 2e-3}

RAW, LABELS, TABLE = "predictions.npz", "labels", "submission.csv"
PLACES = {
    "fit": ("scores.json", "ensemble.yaml", "faults.json"),
    "fit/members/flow": ("scores.json", "settle.json", "folds.json"),
    "fit/members/semantic": ("scores.json", "settle.json", "folds.json"),
    "run": ("scores.json", "settle.json", "folds.json"),
    "tuned": ("scores.json", "settle.json"),
    "joined": ("scores.json", "settle.json", "folds.json", "ensemble.yaml"),
    "selected": ("scores.json", "settle.json", "ensemble.yaml"),
}
"""Folders, and what must be the same in each."""
RENAMED = {"fit/ensemble.yaml": "fit/choice.yaml"}
"""Files that are called otherwise since."""
TIMES = {"seconds", "cpu_seconds", "minutes", "somaseg", "path", "about"}
"""Fields that say when, where and by whom: not compared."""


def way(data: Path, out: Path, steps: int) -> list[tuple[str, list[Any]]]:
    """The commands, and the folder that each of them leaves."""
    training = TRAINING | {"steps": steps}
    plan = {
        "data": {"path": str(data.resolve())},
        "folds": 3,
        "jobs": 2,
        "weights": {"cort": 2.0, "shsy5y": 1.0, "astro": 1.0},
        "members": [
            {"name": "flow", "model": FLOW, "training": training},
            {"name": "semantic", "model": SEMANTIC, "training": training, "views": "flips"},
        ],
    }
    (out / "plan.yaml").write_text(yaml.safe_dump(plan))
    (out / "tiny.yaml").write_text(yaml.safe_dump({"model": FLOW, "training": training}))
    run, fit, members = out / "run", out / "fit", [out / "fit/members/flow", out / "run"]
    members.append(out / "fit/members/semantic")
    train = ["--model", out / "tiny.yaml", "--folds", 3, "--jobs", 2, "--seed", 1]
    annotated = ["--data", data]
    return [
        ("fit", ["fit", "--plan", out / "plan.yaml", "--out", fit]),
        ("masks-fit", ["predict", data / "test", "--model", fit]),
        ("run", ["train", data, "--seed", 0, *train[:-2]]),
        ("masks-run", ["predict", data / "test", "--model", run]),
        ("masks-flips", ["predict", data / "test", "--model", run, "--tta", "flips"]),
        ("masks-model", ["predict", data / "test", "--model", run / "fold1/model.safetensors"]),
        ("joined", ["ensemble", *members, *annotated, "--method", "nmw,nms,wbf"]),
        ("selected", ["ensemble", *members, *annotated, "--method", "nmw", "--select"]),
        ("tuned", ["tune", out / "tuned", "--weights", "cort=3,shsy5y=1,astro=1"]),
        ("masks-tuned", ["predict", data / "test", "--model", out / "tuned"]),
    ]


def go(source: Path, data: Path, out: Path, steps: int) -> None:
    """Go the whole way with one version."""
    out.mkdir(parents=True, exist_ok=True)
    for name, words in way(data, out, steps):
        if (out / f"{name}.done").exists():
            continue
        if name == "tuned":
            subprocess.run(["cp", "-r", str(out / "run"), str(out / name)], check=True)
            words = [*words]
        else:
            words = [*words, "--out", out / name]
        print(f"{out.name}: {name}", flush=True)
        call(source, *words)
        (out / f"{name}.done").touch()


def call(source: Path, *words: Any) -> None:
    """Run somaseg's command line with one version."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    interpreter = str(source)
    if source.is_dir():
        interpreter, environment["PYTHONPATH"] = sys.executable, str(source.resolve())
    command = [interpreter, "-m", "somaseg", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def differences(old: Any, new: Any, where: str) -> list[str]:
    """Name what differs in nested values, times left out; floats must be equal to the last bit."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in sorted((old.keys() | new.keys()) - TIMES, key=str):
            if key not in new:
                out.append(f"{where}.{key}: gone")
            elif key in old:  # what has come since is no difference
                out += differences(old[key], new[key], f"{where}.{key}")
        return out
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{where}[{i}]")]
    same = old == new or (isinstance(old, float) and isinstance(new, float) and math.isnan(old))
    return [] if same else [f"{where}: {str(old)[:60]} != {str(new)[:60]}"]


def read(path: Path) -> Any:
    """Values of a file, whatever its format."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {key: file[key].tolist() for key in file.files}
    if path.suffix == ".tif":
        return tifffile.imread(path).tolist()
    text = path.read_text("utf-8")
    if path.suffix == ".csv":
        return sorted(map(tuple, csv.reader(text.splitlines())))
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


def compare(old: Path, new: Path) -> tuple[int, list[str]]:
    """How many files were compared, and what differs."""
    files = [f"{place}/{name}" for place, names in PLACES.items() for name in names]
    patterns = (f"**/{RAW}", f"**/{LABELS}/*.tif", f"**/{TABLE}")
    files += [str(p.relative_to(old)) for pattern in patterns for p in sorted(old.glob(pattern))]
    found: list[str] = []
    for name in files:
        if not (old / name).exists():
            raise SystemExit(f"{old / name}: the old version has not written it")
        place = new / name
        if not place.exists():
            place = new / RENAMED.get(name, name)
        if not place.exists():
            found.append(f"{name}: not there")
            continue
        found += differences(read(old / name), read(place), name)
    return len(files), found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--work", type=Path, default=Path("same"))
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    data = given.work / "data"
    if not data.exists():
        make = "from somaseg.data.synthetic import write_dataset as w; import sys; "
        make += "w(sys.argv[1], n_per_class=4, size=(160, 192), n_test=1)"
        environment = os.environ | {"PYTHONPATH": str(given.old.resolve())}
        python = sys.executable if given.old.is_dir() else str(given.old)
        subprocess.run([python, "-c", make, str(data)], env=environment, check=True)
    for source, name in ((given.old, "old"), (given.new, "new")):
        go(source, data, given.work / name, given.steps)
    count, found = compare(given.work / "old", given.work / "new")
    cells = [tifffile.imread(p).max() for p in (given.work / "old").glob("masks-*/labels/*.tif")]
    score = read(given.work / "old/fit/scores.json")["nested"]["map"]
    print(f"nested mAP {score:.4f}; {sum(map(int, cells))} cells in {len(cells)} label images")
    print("\n".join(found[:40]))
    print(f"{count} files compared, {len(found)} differences")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
