"""Predict many small images on a Dask cluster, killed twice: is each done exactly once?

    python benchmarks/cluster.py --images 20000 --work /tmp/cluster

A scheduler and two workers of one thread are started here. The command is killed with SIGKILL at a
third of the images, at two thirds all of the cluster is (scheduler, workers and command); each time
the same command goes on. Told are: images finished, and how often; seconds, processor time and
bytes on the disk of an image; and the memory of the command and of the largest task over the images
done. Exit code 1 if an image is missing or was done twice.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import psutil

from somaseg.data.synthetic import make_image

KINDS = 100  # images that differ; the others are links to them


def write_images(folder: Path, count: int, side: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:06d}.png"
        if number < KINDS:
            cv2.imwrite(str(path), make_image("cort", number, (side, side))[0])
        else:
            os.link(folder / f"{number % KINDS:06d}.png", path)


def start(work: Path, *words: str) -> subprocess.Popen[bytes]:
    log = (work / "log.txt").open("ab")
    return subprocess.Popen([sys.executable, "-m", *words], stdout=log, stderr=log)


def start_cluster(work: Path) -> tuple[str, list[subprocess.Popen[bytes]]]:
    told = work / "scheduler.json"
    told.unlink(missing_ok=True)
    here = ("--host", "127.0.0.1", "--no-dashboard")
    file = ("--scheduler-file", str(told))
    processes = [start(work, "dask", "scheduler", *here, "--port", "0", *file)]
    while not (told.exists() and told.read_text().endswith("}")):
        time.sleep(0.1)
    address = json.loads(told.read_text())["address"]
    local = ("--local-directory", str(work / "scratch"))
    processes += [
        start(work, "dask", "worker", address, *here, "--nthreads", "1", *local) for _ in range(2)
    ]
    return address, processes


def finished(out: Path) -> Counter[str]:
    """How often each image is in an index."""
    counts: Counter[str] = Counter()
    for path in out.glob(".predict/*/index.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                counts[json.loads(line)["id"]] += 1
    return counts


class Memory:
    """Largest resident memory, in MB, of the command and of a task, by tenth of the images done."""

    def __init__(self) -> None:
        self.rows: dict[int, list[float]] = {}
        self.seconds: dict[int, float] = {}

    def look(self, command: int, tenth: int) -> None:
        row = self.rows.setdefault(tenth, [0.0, 0.0])
        for process in psutil.process_iter(["pid", "cmdline", "memory_info", "cpu_times"]):
            facts = process.info
            if not facts["memory_info"]:
                continue
            size = facts["memory_info"].rss / 1e6
            if facts["pid"] == command:
                row[0] = max(row[0], size)
            elif "somaseg.runs.predicting" in (facts["cmdline"] or ()):
                row[1] = max(row[1], size)
                times = facts["cpu_times"]
                self.seconds[facts["pid"]] = times.user + times.system


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=64, help="of an image, in pixels")
    parser.add_argument("--work", type=Path, default=Path("cluster"))
    given = parser.parse_args()
    work, out = given.work, given.work / "masks"
    work.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    write_images(work / "images", given.images, given.side)
    shutil.rmtree(out, ignore_errors=True)
    memory, begun = Memory(), time.monotonic()
    address, processes = start_cluster(work)
    words = ("somaseg", "predict", str(work / "images"), "--out", str(out), "--no-overlays")
    for share in (1 / 3, 2 / 3, 2.0):
        command = start(work, *words, "--write", "cells", "--cluster", address)
        joining: float | None = None
        while command.poll() is None:
            done = len(finished(out))
            memory.look(command.pid, 10 * done // given.images)
            if done >= given.images:
                joining = joining or time.monotonic()
            if done >= share * given.images:
                print(f"killed at {done} images, {time.monotonic() - begun:.0f} s", flush=True)
                command.kill()
                if share > 0.5:
                    for process in processes:
                        process.send_signal(signal.SIGKILL)
                break
            time.sleep(2)
        code = command.wait()
        if share == 2 / 3:
            for process in processes:
                process.wait()
            address, processes = start_cluster(work)
    took = time.monotonic() - begun
    for process in processes:
        process.kill()
    counts = finished(out)
    size = sum(path.lstat().st_size for path in out.rglob("*") if path.is_file())
    twice = sum(count > 1 for count in counts.values())
    print(f"exit code {code}; {len(counts)} of {given.images} images finished, {twice} twice")
    print(
        f"{took:.0f} s in all, {took / given.images * 1000:.0f} ms an image; processor time of "
        f"tasks {sum(memory.seconds.values()) / given.images * 1000:.0f} ms an image; "
        f"{size / given.images / 1000:.1f} KB an image on the disk; tables joined in "
        f"{time.monotonic() - joining if joining else 0:.0f} s or less"
    )
    for tenth, (mine, task) in sorted(memory.rows.items()):
        print(f"{10 * tenth:3d} % of the images: command {mine:.0f} MB, largest task {task:.0f} MB")
    return int(code != 0 or twice > 0 or len(counts) < given.images)


if __name__ == "__main__":
    sys.exit(main())
