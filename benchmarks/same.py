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

Two things that came on purpose are held still in both, or everything after them would differ: the
annotation offset is not tuned, and OpenCV's exact distances are rounded to roots of whole numbers
(their last bit depends on where in memory an image lies: without that, the old version does not
even find twice the same). A third is allowed for: prediction folds normalisations into
convolutions, so raw scores may differ by 1e-5 of the largest, bytes of soft masks by 1; final masks
may not.
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
STILL = """
import cv2, numpy
exact = cv2.distanceTransform
def steady(image, kind, mask, *rest):
    found = exact(image, kind, mask, *rest)
    if mask == cv2.DIST_MASK_PRECISE:
        found = numpy.sqrt(numpy.rint(found.astype(float) ** 2)).astype(numpy.float32)
    return found
cv2.distanceTransform = steady
try:
    import somaseg.decide.tune as tune
except ImportError:
    pass
else:
    tune._offsets = lambda *given: {}
"""
"""Run by every process of both versions before anything else (`sitecustomize`)."""
FOLDED = 1e-5
"""Largest difference, as a share, that the folding of normalisations into convolutions makes."""
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
    (out / "sitecustomize.py").write_text(STILL)
    for name, words in way(data, out, steps):
        if (out / f"{name}.done").exists():
            continue
        if name == "tuned":
            subprocess.run(["cp", "-r", str(out / "run"), str(out / name)], check=True)
            words = [*words]
        else:
            words = [*words, "--out", out / name]
        print(f"{out.name}: {name}", flush=True)
        call(source, out, *words)
        (out / f"{name}.done").touch()


def call(source: Path, out: Path, *words: Any) -> None:
    """Run somaseg's command line with one version; ``out`` holds what every process runs first."""
    places = [str(out.resolve())]
    interpreter = str(source)
    if source.is_dir():
        interpreter = sys.executable
        places.append(str(source.resolve()))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)}
    command = [interpreter, "-m", "somaseg", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def differences(old: Any, new: Any, where: str, apart: float = 0) -> list[str]:
    """Name what differs in nested values, times left out; floats by more than a share ``apart``."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in sorted((old.keys() | new.keys()) - TIMES, key=str):
            if key not in new:
                out.append(f"{where}.{key}: gone")
            elif key in old:  # what has come since is no difference
                out += differences(old[key], new[key], f"{where}.{key}", apart)
        return out
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [
            d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{where}[{i}]", apart)
        ]
    same = old == new
    if isinstance(old, float) and isinstance(new, float):
        same = math.isclose(old, new, rel_tol=apart) or (math.isnan(old) and math.isnan(new))
    return [] if same else [f"{where}: {str(old)[:60]} != {str(new)[:60]}"]


def raw_differences(old: Path, new: Path, where: str) -> list[str]:
    """Name what differs in raw predictions, but for the rounding of folded normalisations."""
    out = []
    with np.load(old) as before, np.load(new) as now:
        for key in before.files:
            one, other = before[key], now[key]
            if one.shape != other.shape:
                out.append(f"{where}.{key}: {one.shape} != {other.shape}")
            elif one.dtype.kind in "fiu":
                # Soft masks are bytes: a sum that falls on the other side moves one by 1.
                most = 1 if key == "pixels" else FOLDED * np.abs(one).max(initial=0)
                gap = np.abs(one.astype(float) - other.astype(float)).max(initial=0)
                out += [f"{where}.{key}: differs by {gap:.2g}"] if gap > most else []
            else:
                out += differences(one.tolist(), other.tolist(), f"{where}.{key}")
    return out


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


def named(value: Any, root: Path) -> Any:
    """Members are called by their place: of two work folders, the place in them."""
    if isinstance(value, dict):
        return {
            str(key).replace(f"{root.resolve()}/", ""): named(inner, root)
            for key, inner in value.items()
        }
    return value


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
        if name.endswith(RAW):
            found += raw_differences(old / name, place, name)
            continue
        one, other = (named(read(path), root) for path, root in ((old / name, old), (place, new)))
        found += differences(one, other, name, FOLDED)
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
