"""Damage small sound inputs of every reader, and see what the readers do.

    python -m tests.fuzz.fuzz --count 100000 --seed 0

Each input is read in a worker whose memory and time are bounded. Right is a result or a
SomasegError in one message; anything else is a finding: another exception, a worker that died,
one that took longer than the time or more memory than a gigabyte above what it began with. The
findings' inputs are kept in ``--keep``. What is counted is printed, by reader.
"""

import argparse
import contextlib
import gzip
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import yaml
from PIL import Image

from somaseg.data.folds import load_folds
from somaseg.data.formats.results import read_results
from somaseg.data.images import image_header, read_image, read_labels
from somaseg.data.load import read_dataset
from somaseg.data.types import Dataset, Sample
from somaseg.data.windows import map_image
from somaseg.decide.settings import parse_settings
from somaseg.errors import SomasegError
from somaseg.files import read_json
from somaseg.instances import Instances
from somaseg.models.registry import load_preset
from somaseg.predict.store import load_predictions, save_predictions
from somaseg.runs.ledger import read_ledger
from somaseg.runs.run import Run

FOLDED = Dataset(tuple(Sample(name, (3, 4)) for name in "abc"), (), "memory")
MEMORY = 1 << 30
SECONDS = 20


def picture(path: Path) -> None:
    for read in (image_header, read_image, read_labels, map_image):
        with contextlib.suppress(SomasegError):
            read(path)


def table(path: Path) -> None:
    for images in (True, False):
        read_dataset(path, need_images=images)


READERS: dict[str, Callable[[Path], object]] = {
    "picture": picture,
    "competition": table,
    "coco": table,
    "labels": table,
    "results": read_results,
    "arrays": load_predictions,
    "preset": load_preset,
    "run": lambda path: Run.open(path).config,
    "settle": lambda path: parse_settings(read_json(path), ("cell",)),
    "folds": lambda path: load_folds(path, FOLDED),
    "ledger": lambda path: read_ledger(path.parent),
}


def make_seeds(folder: Path) -> list[tuple[str, Path, Path]]:
    """Write the sound inputs: (reader, what it reads, the file to damage)."""
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 255, (24, 30), dtype=np.uint8)
    labels = np.zeros((24, 30), np.uint8)
    labels[2:9, 3:12], labels[12:20, 8:25] = 1, 2
    seeds = []

    def add(reader: str, path: Path, damaged: Path | None = None) -> None:
        seeds.append((reader, path, damaged or path))

    pictures = folder / "picture"
    pictures.mkdir()
    for name, mode in (("l", "L"), ("p", "P"), ("rgb", "RGB"), ("la", "LA"), ("one", "1")):
        Image.fromarray(gray).convert(mode).save(pictures / f"{name}.png")
    Image.fromarray(gray.astype(np.uint16) * 200).save(pictures / "deep.png")
    for name, more in (("a", {}), ("progressive", {"progressive": True})):
        Image.fromarray(gray).save(pictures / f"{name}.jpg", **more)
    Image.fromarray(gray).convert("RGB").save(pictures / "colour.jpg")
    Image.fromarray(gray).save(pictures / "a.bmp")
    Image.fromarray(gray).save(pictures / "a.webp")
    for name, compression in (("plain", None), ("zip", "zlib")):
        for kind in (np.uint8, np.uint16, np.float32):
            image = gray.astype(kind)
            path = pictures / f"{name}_{np.dtype(kind).name}.tif"
            tifffile.imwrite(path, image, compression=compression, rowsperstrip=6)
    tifffile.imwrite(pictures / "white.tif", gray, photometric="miniswhite")
    tifffile.imwrite(pictures / "tiles.tif", gray, tile=(16, 16), compression="zlib")
    for name, mode in (("lzw", "L"), ("palette", "P"), ("bits", "1")):
        Image.fromarray(gray).convert(mode).save(pictures / f"{name}.tif", compression="tiff_lzw")
    for path in sorted(pictures.iterdir()):
        add("picture", path)

    root = folder / "competition"
    (root / "train").mkdir(parents=True)
    Image.fromarray(gray).save(root / "train" / "a.png")
    text = (
        "id,annotation,width,height,cell_type\n"
        "a,1 4 31 4,30,24,cort\na,100 3 130 3,30,24,cort\nb,5 9,30,24,astro\n"
    )
    (root / "train.csv").write_text(text)
    add("competition", root / "train.csv")
    (root / "packed.csv.gz").write_bytes(gzip.compress(text.encode()))
    add("competition", root / "packed.csv.gz")

    root = folder / "coco"
    (root / "images").mkdir(parents=True)
    Image.fromarray(gray).save(root / "images" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 30, "height": 24}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0,
             "segmentation": [[2, 2, 9, 2, 9, 9, 2, 9]]},
            {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 1,
             "segmentation": {"size": [24, 30], "counts": [100, 5, 615]}},
            {"id": 3, "image_id": 1, "category_id": 1,
             "segmentation": {"size": [24, 30], "counts": "T35c?"}},
        ],
    }  # fmt: skip
    (root / "coco.json").write_text(json.dumps(content))
    add("coco", root / "coco.json")
    results = [
        {"image_id": "a", "category_id": 1, "score": 0.5,
         "segmentation": {"size": [24, 30], "counts": [100, 5, 615]}},
        {"image_id": 2, "category": "cell", "score": 1,
         "segmentation": {"size": [24, 30], "counts": [10, 5, 705]}},
    ]  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    add("results", folder / "results.json")

    root = folder / "labels"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    Image.fromarray(gray).save(root / "images" / "a.png")
    Image.fromarray(labels).save(root / "labels" / "a.png")
    (root / "classes.csv").write_text("id,class,group\na,cort,w1\n")
    (root / "instances.csv").write_text("id,label,class,score\na,1,cort,0.5\na,2,astro,0.7\n")
    for path in (root / "classes.csv", root / "instances.csv", root / "labels" / "a.png"):
        add("labels", root, path)

    found = Instances.from_labels(labels.astype(np.int32), names=("cell",))
    save_predictions(folder / "predictions.npz", {"a": found, "b": found})
    add("arrays", folder / "predictions.npz")
    # The same without packing: damage then meets the content, not the packing's sums.
    with (
        zipfile.ZipFile(folder / "predictions.npz") as packed,
        zipfile.ZipFile(folder / "open.npz", "w") as opened,
    ):
        for name in packed.namelist():
            opened.writestr(name, packed.read(name))
    add("arrays", folder / "open.npz")

    preset = {"base": "flow_lite", "training": {"steps": 5}, "about": "small"}
    (folder / "preset.yaml").write_text(yaml.safe_dump(preset))
    add("preset", folder / "preset.yaml")
    run = folder / "run"
    run.mkdir()
    whole = load_preset("flow_lite")
    (run / "config.yaml").write_text(yaml.safe_dump({
        "data": {"path": str(folder / "labels")}, "model": whole.model,
        "training": whole.training, "folds": 3,
    }))  # fmt: skip
    add("run", run, run / "config.yaml")
    settle = {"cell": {"score": 0.5, "mask_threshold": 0.5, "nms_iou": 0.5, "min_area": 5}}
    (folder / "settle.json").write_text(json.dumps(settle))
    add("settle", folder / "settle.json")
    (folder / "folds.json").write_text(json.dumps({"a": 0, "b": 1, "c": 2}))
    add("folds", folder / "folds.json")
    ledger = folder / "ledger"
    ledger.mkdir()
    (ledger / "ledger.csv").write_text("name,cv,public,private,note\nrun1,0.3,0.31,0.32,first\n")
    add("ledger", ledger / "ledger.csv")
    return seeds


TOKENS = (
    b"", b"0", b"-1", b"1e999", b"NaN", b"4294967296", b"9223372036854775808", b"9" * 4500, b"null",
    b"true", b"[]", b"{}", b"[[[]]]", b'"\\ud800"', b"\xff\xfe", b"\0", b'""', b"'", b'"', b",",
    b"\n", b"[" * 3000, b"{\"a\":" * 3000, b"*a", b"&a [*a]", b"!!timestamp x", b"a" * 300, b"../",
    b"60000", b"2147483648", b"0.5", b"- ", b": ",
)  # fmt: skip


def damage(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits, bytes, numbers, tokens, parts cut, doubled or swapped."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        size = max(1, len(out))
        # Headers are short and matter most: half of the changes are among the first bytes.
        at = rng.randrange(min(size, 512)) if rng.random() < 0.5 else rng.randrange(size)
        kind = rng.randrange(8)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + rng.choice((1, 4, 30))]
        elif kind == 4:
            out[at:at] = out[at : at + rng.choice((1, 8, 64))]
        elif kind == 5:
            number = rng.choice((0, 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 70_000))
            out[at : at + 4] = number.to_bytes(4, rng.choice(("little", "big")))
        elif kind == 6:
            out[at:at] = rng.choice(TOKENS)
        else:  # in texts: a value from one blank, comma or bracket to the next becomes a token
            ends = [i for i in range(at, min(size, at + 40)) if out[i : i + 1] in b" ,:]}\n"]
            if len(ends) > 1:
                out[ends[0] + 1 : ends[1]] = rng.choice(TOKENS)
            else:
                out[at : at + 1] = rng.choice(TOKENS)
    return bytes(out)


def attempt(reader: str, path: Path) -> str | None:
    """Read; none if that went as it should, else what happened."""
    try:
        READERS[reader](path)
    except SomasegError:
        return None
    except Exception:
        return traceback.format_exc()
    return None


def worker(folder: Path, first: int, step: int, count: int, seed: int, queue: object) -> None:
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # codecs of libraries print there
    seeds = make_seeds(folder)
    for reader, path, damaged in seeds:  # sound inputs are read; and kernels are compiled
        problem = attempt(reader, path)
        if problem:
            queue.put(("unsound", f"{reader} {damaged.name}", problem, b""))
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * MEMORY, size + 4 * MEMORY))
    for number in range(first, count, step):
        rng = random.Random(f"{seed}-{number}")
        reader = rng.choice(list(READERS))
        _, path, target = rng.choice([found for found in seeds if found[0] == reader])
        sound = target.read_bytes()
        data = damage(sound, rng)
        target.write_bytes(data)
        queue.put(("begin", number, f"{reader} {target.name}", data))
        problem = attempt(reader, path)
        target.write_bytes(sound)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if problem is None and (peak - begin) * 1024 > MEMORY:
            problem, begin = f"took {(peak - begin) >> 10} MiB", peak
        queue.put(("end", number, problem, reader))
    queue.put(("done",))


def fuzz(count: int, seed: int, keep: Path | None = None) -> tuple[Counter, list[str]]:
    """Read ``count`` damaged inputs; return how many of each reader, and the findings."""
    context = multiprocessing.get_context("spawn")
    done: Counter = Counter()
    findings: list[str] = []
    first = 0
    while first < count:
        with tempfile.TemporaryDirectory() as name:
            queue = context.Queue()
            arguments = (Path(name), first, 1, count, seed, queue)
            process = context.Process(target=worker, args=arguments, daemon=True)
            process.start()
            number, what, data, limit = first - 1, "start", b"", 900  # compiles kernels
            while True:
                try:
                    message = queue.get(timeout=limit)
                except Exception:  # queue.Empty: it hangs, or died
                    reason = "hangs" if process.is_alive() else f"died ({process.exitcode})"
                    message = ("end", number, reason, what.split()[0])
                    process.kill()
                if message[0] == "begin":
                    _, number, what, data = message
                    limit = SECONDS
                elif message[0] == "unsound":
                    findings.append(f"sound input refused: {message[1]}: {message[2]}")
                elif message[0] == "end":
                    _, number, problem, reader = message
                    done[reader] += 1
                    if sum(done.values()) % 1000 == 0:
                        print(sum(done.values()), len(findings), flush=True)
                    if problem:
                        findings.append(f"{number} {what}: {problem}")
                        print(findings[-1], flush=True)
                        if keep:
                            keep.mkdir(parents=True, exist_ok=True)
                            (keep / f"{number}-{what.split()[-1]}").write_bytes(data)
                    if problem and problem.startswith(("hangs", "died")):
                        break
                else:
                    break
            process.join(5)
        first = number + 1 if message[0] == "end" else count
    return done, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    done, findings = fuzz(arguments.count, arguments.seed, arguments.keep)
    print(f"{sum(done.values())} inputs, {len(findings)} findings: {dict(done)}")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
