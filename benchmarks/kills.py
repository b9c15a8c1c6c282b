"""Kill somaseg at random moments: does everything resume to the same result?

    python benchmarks/kills.py --kills 60 --work /tmp/kills [--only train,predict] [--seed 0]

Every command (train, fit, predict, search, ledger, convert, clean) first runs undisturbed on
synthetic images with tiny networks. Then it is started anew and killed with SIGKILL at a random
moment, up to three times in one folder: its whole process group, or (every other time) the command
alone, so that its trainings must end by themselves. Then the same command runs to its end. All that
it leaves (JSON, YAML, tables, label images, raw predictions, model files) must be the same as
without, to the last bit but for times, and nothing of a killed writer may be left. Of the ledger,
every entry that was confirmed must be there. Exit code 1 if anything differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

from same import differences, read
from somaseg.data.synthetic import write_dataset
from somaseg.folders import is_leftover

FLOW = {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16, "pretrained": "none"}
SEMANTIC = {"family": "semantic", "pretrained": "none"}
TRAINING = {"steps": 12, "batch": 1, "crop": 64, "log_every": 1, "checkpoint_minutes": 0.0001}
SHARES = {
    "train": 12,
    "fit": 8,
    "predict": 10,
    "search": 8,
    "ledger": 8,
    "convert": 7,
    "clean": 7,
}
"""Kills of each command, of sixty."""
COMPARED = (".json", ".yaml", ".csv", ".tif", ".npz", ".safetensors", ".png")
TIMED = ("metrics.csv", "tuning.png")
"""Files that tell how long something took, or are drawn."""


def write_material(work: Path) -> None:
    """Images, a preset, a plan and a space, the same for all."""
    if (work / "plan.yaml").exists():
        return
    data = write_dataset(work / "data", n_per_class=2, size=(96, 96), n_test=2)
    for name, model in (("flow", FLOW), ("semantic", SEMANTIC)):
        preset = {"model": model, "training": TRAINING}
        (work / f"{name}.yaml").write_text(yaml.safe_dump(preset))
    (work / "space.yaml").write_text("training.rate: {choices: [0.001, 0.002]}\n")
    plan = {
        "data": {"path": str(data.resolve())},
        "folds": 2,
        "jobs": 2,
        "members": [
            {"name": "flow", "model": FLOW, "training": TRAINING},
            {"name": "semantic", "model": SEMANTIC, "training": TRAINING, "views": "flips"},
        ],
    }
    (work / "plan.yaml").write_text(yaml.safe_dump(plan))


def words(kind: str, work: Path, out: Path) -> list[Any]:
    """The command of a kind."""
    data = work / "data"
    train = ["--folds", 2, "--jobs", 2]
    return {
        "train": ["train", data, "-m", work / "semantic.yaml", *train, "--refit", "--out", out],
        "fit": ["fit", "--plan", work / "plan.yaml", "--out", out],
        "predict": ["predict", data / "test", "--out", out],
        "search": [
            *("search", data, "-m", work / "flow.yaml", "--space", work / "space.yaml"),
            *(*train, "--trials", 2, "--out", out),
        ],
        "convert": ["data", "convert", data, out, "--to", "coco"],
        "clean": ["data", "clean", data, out, "--slivers", 9],
        "ledger": ["ledger", "add", out, "--public", 0.5],
    }[kind]


def start(command: list[Any]) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    environment = {name: value for name, value in os.environ.items() if "THREADS" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "somaseg", *map(str, command)],
        stdout=quiet,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )


def finish(command: list[Any]) -> str:
    """Run to the end; the error, if there is one."""
    process = start(command)
    _, errors = process.communicate()
    return errors.decode()[-500:] if process.returncode else ""


def kill(command: list[Any], after: float, alone: bool) -> float | None:
    """Start and kill; the seconds that it took where it came to its end before."""
    begun = time.monotonic()
    process = start(command)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        if alone:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    process.communicate()
    return time.monotonic() - begun


def compare(expected: Path, found: Path) -> list[str]:
    """What differs in two folders, times left out."""
    out = [f"{path}: left by a killed writer" for path in found.rglob("*") if is_leftover(path)]
    for path in sorted(p for p in expected.rglob("*") if p.suffix in COMPARED):
        if path.name in TIMED or path.name.startswith("."):
            continue
        name = path.relative_to(expected)
        other = found / name
        if not other.exists():
            out.append(f"{name}: not there")
        elif path.suffix == ".safetensors":
            one, two = load_file(path), load_file(other)
            if one.keys() != two.keys():
                out.append(f"{name}: other tensors")
                continue
            for key, tensor in one.items():
                if not np.array_equal(tensor, two[key]):
                    gap = np.abs(tensor.astype(float) - two[key].astype(float)).max()
                    out.append(f"{name}: {key} differs by {gap:.2g}")
        elif path.suffix == ".png":
            if path.read_bytes() != other.read_bytes():
                out.append(f"{name}: other pixels")
        else:
            out += differences(read(path), read(other), str(name))
    return out


def campaign(kind: str, kills: int, work: Path, rng: random.Random) -> tuple[int, list[str]]:
    """Kill a command so many times; kills that met a running process, and what differed."""
    expected = work / "undisturbed" / kind
    begun = time.monotonic()
    if not expected.exists() and (error := finish(words(kind, work, expected))):
        raise SystemExit(f"{kind}: {error}")
    took = time.monotonic() - begun
    took = took if took > 0.5 else 20.0
    done, sequence, found = 0, 0, []
    while done < kills:
        out = work / "killed" / f"{kind}{sequence}"
        shutil.rmtree(out, ignore_errors=True)
        command = words(kind, work, out)
        for _ in range(rng.randint(1, 3)):
            if done < kills:
                ended = kill(command, rng.uniform(0.15, 1.0) * took, rng.random() < 0.5)
                done += ended is None
                # The first run compiled kernels, perhaps: later ones tell how long there is.
                took = min(took, ended or took)
        error = finish(command)
        differ = [f"did not resume: {error}"] if error else compare(expected, out)
        found += [f"{kind}{sequence}: {line}" for line in differ]
        print(f"{kind}{sequence}: {done} kills, {len(differ)} differences", flush=True)
        if not differ:
            shutil.rmtree(out)
        sequence += 1
    return done, found


def ledger(kills: int, work: Path, rng: random.Random) -> tuple[int, list[str]]:
    """Kill commands that add entries; all that were confirmed must be there, in a whole file."""
    run = work / "undisturbed" / "ledger"
    run.mkdir(parents=True, exist_ok=True)
    (run / "plan.yaml").write_text("budget: 2h")
    (run / "leaderboard.json").unlink(missing_ok=True)
    begun = time.monotonic()
    done, confirmed = 0, []
    finish([*words("ledger", work, run), "--note", "first"])
    took = time.monotonic() - begun
    number = 0
    while done < kills:
        command = [*words("ledger", work, run), "--note", str(number)]
        ended = kill(command, rng.uniform(0.3, 1.0) * took, False)
        if ended is None:
            done += 1
        else:
            confirmed.append(str(number))
            took = min(took, ended)
        number += 1
    finish([*words("ledger", work, run), "--note", "last"])
    notes = [entry["note"] for entry in json.loads((run / "leaderboard.json").read_text())]
    lost = set(confirmed) - set(notes)
    twice = [note for note, count in Counter(notes).items() if count > 1]
    wrong = [f"ledger: entry {note} lost" for note in lost]
    wrong += [f"ledger: entry {note} is there twice" for note in twice]
    ends = [] if {"first", "last"} <= set(notes) else ["ledger: first or last entry lost"]
    return done, wrong + ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("kills"))
    parser.add_argument("--only", default=",".join(SHARES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_material(given.work)
    kinds = given.only.split(",")
    whole = sum(SHARES[kind] for kind in kinds)
    total, found = 0, []
    for kind in kinds:
        count = max(1, round(given.kills * SHARES[kind] / whole))
        rng = random.Random(f"{given.seed} {kind}")
        way = ledger(count, given.work, rng) if kind == "ledger" else None
        done, differ = way or campaign(kind, count, given.work, rng)
        print(f"{kind}: {done} kills, {len(differ)} differences", flush=True)
        total, found = total + done, found + differ
    print("\n".join(found[:60]))
    print(f"{total} kills, {len(found)} differences")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
