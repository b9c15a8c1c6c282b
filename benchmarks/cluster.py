"""Predict many small images, and a slide, on a Dask cluster of two workers with one thread each.

    python benchmarks/cluster.py --images 20000 [--model MODEL] [--work FOLDER]
    python benchmarks/cluster.py --slide 20000 [--tile 1024] [--model MODEL] [--work FOLDER]

The scheduler and the workers are started here. ``--images``: the command is killed with SIGKILL at
a third of the images, at two thirds all of the cluster is (scheduler, workers and command); each
time the same command goes on. Told are: images finished, and how often; seconds, processor time and
bytes on the disk of an image; and the memory of the command and of the largest task over the images
done. Exit code 1 if an image is missing or was done twice.

``--slide``: an OME-Zarr of so many pixels a side is made block by block and predicted by one
process of one thread, then by the two workers. Told are: seconds of both, the largest memory of a
worker with its task, and of the command. Exit code 1 if a label differs.
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
import zarr

from somaseg.data.synthetic import make_image
from somaseg.runs.child import THREADS

KINDS = 100  # images that differ; the others are links to them
BLOCK = 1000  # side of what a slide is made of, and is compared by


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
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", type=int)
    what.add_argument("--slide", type=int, help="side in pixels, a multiple of 1000")
    parser.add_argument("--side", type=int, default=64, help="of an image, in pixels")
    parser.add_argument("--tile", default="1024", help="side of a slide's tiles, in pixels")
    parser.add_argument("--model", default="", help="without, the one that comes along")
    parser.add_argument("--work", type=Path, default=Path("cluster"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ |= dict.fromkeys(THREADS, "1")
    model = ("--model", given.model) if given.model else ()
    return predict_slide(given, model) if given.slide else predict_many(given, model)


def predict_slide(given: argparse.Namespace, model: tuple[str, ...]) -> int:
    work, slide = given.work, given.work / "slide.ome.zarr"
    write_slide(slide, given.slide)
    found, seconds = [], []
    for name in ("one", "two"):
        out = work / name
        shutil.rmtree(out, ignore_errors=True)
        words = ["somaseg", "predict", str(slide), "--out", str(out), "--write", "ome-zarr", *model]
        words += ["--tile", given.tile]
        processes = []
        if name == "two":
            address, processes = start_cluster(work)
            words += ["--cluster", address]
        begun = time.monotonic()
        command = start(work, *words)
        largest = dict.fromkeys(["command", "worker"], 0.0)
        while command.poll() is None:
            largest["command"] = max(largest["command"], resident(command.pid, alone=True))
            for process in processes[1:]:
                largest["worker"] = max(largest["worker"], resident(process.pid))
            time.sleep(1)
        seconds.append(time.monotonic() - begun)
        for process in processes:
            process.kill()
        if command.returncode:
            print(f"{name}: exit code {command.returncode}; see {work / 'log.txt'}")
            return 1
        memory = ", ".join(f"{who} {size:.0f} MB" for who, size in largest.items() if size)
        print(f"{name}: {seconds[-1]:.0f} s; {memory}", flush=True)
        found.append(zarr.open_array(out / "ome-zarr/slide.ome.zarr/labels/cells/0", mode="r"))
    differ = cells = 0
    for y in range(0, given.slide, BLOCK):
        one, two = (labels[y : y + BLOCK] for labels in found)
        differ += int((one != two).sum())
        cells = max(cells, int(one.max()))
    print(f"{cells} cells, {differ} pixels differ; {seconds[0] / seconds[1]:.2f} times as fast")
    return int(differ > 0)


def write_slide(path: Path, side: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    root = zarr.open_group(path, mode="w", zarr_format=2)
    options = {
        "chunks": (BLOCK, BLOCK),
        "dtype": "uint8",
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    }
    array = root.create_array("0", shape=(side, side), **options)
    blocks = [make_image("cort", number, (BLOCK, BLOCK))[0] for number in range(8)]
    for y in range(0, side, BLOCK):
        for x in range(0, side, BLOCK):
            number = y // BLOCK * (side // BLOCK) + x // BLOCK
            array[y : y + BLOCK, x : x + BLOCK] = blocks[number * 5 % 8]
    axes = [{"name": name, "type": "space"} for name in "yx"]
    scale = {"type": "scale", "scale": [1.0, 1.0]}
    level = {"path": "0", "coordinateTransformations": [scale]}
    root.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]


def resident(pid: int, alone: bool = False) -> float:
    """Resident memory, in MB, of a process, with those that it has started."""
    total = 0.0
    try:
        first = psutil.Process(pid)
        for process in [first, *([] if alone else first.children(recursive=True))]:
            total += process.memory_info().rss / 1e6
    except psutil.NoSuchProcess:
        pass  # it has ended meanwhile
    return total


def predict_many(given: argparse.Namespace, model: tuple[str, ...]) -> int:
    work, out = given.work, given.work / "masks"
    write_images(work / "images", given.images, given.side)
    shutil.rmtree(out, ignore_errors=True)
    memory, begun = Memory(), time.monotonic()
    address, processes = start_cluster(work)
    words = ("somaseg", "predict", str(work / "images"), "--out", str(out), "--no-overlays", *model)
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
