"""Damage small sound inputs of every reader, and see what the readers do.

    python -m tests.fuzz.fuzz --count 100000 --seed 0 [--of models] [--keep FOLDER]

Each input is read in a worker whose memory and time are bounded. Right is a result or a
SomasegError in one message; anything else is a finding: another exception, a worker that died,
one that took longer than the time or more memory than a gigabyte above what it began with. The
findings' inputs are kept in ``--keep``. What is counted is printed, by reader. What there is to
read is in ``readers`` (images, tables, results, settings) and ``models`` (model files and runs).
"""

import argparse
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from queue import Empty
from typing import Any

from somaseg.errors import SomasegError

MEMORY = 1 << 30
SECONDS = 20


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


def attempt(readers: Any, reader: str, path: Path) -> str | None:
    """Read; none if that went as it should, else what happened."""
    try:
        readers.READERS[reader](path)
    except SomasegError:
        return None
    except Exception:
        return traceback.format_exc()
    return None


def damaged_file(readers: Any, target: Path, rng: random.Random) -> bytes:
    """Damage a file; a model file now and then within, its checksum that of what it holds then."""
    sound = target.read_bytes()
    if target.suffix != ".safetensors" or target.name == "checkpoint.safetensors":
        return damage(sound, rng)
    way = rng.randrange(4)
    if way < 2:
        return readers.damage_inside(sound, lambda data: damage(data, rng))
    return readers.sign(damage(sound, rng)) if way == 2 else damage(sound, rng)


def worker(*arguments: Any) -> None:
    """Read in a process of its own; what goes wrong with the fuzzer itself is told, too."""
    try:
        read_all(*arguments)
    except BaseException:
        arguments[-1].put(("broken", traceback.format_exc()))
        raise


def read_all(folder: Path, first: int, count: int, seed: int, of: str, queue: Any) -> None:
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # codecs of libraries print there
    readers = import_module(f"tests.fuzz.{of}")
    seeds = readers.make_seeds(folder)
    for reader, path, damaged in seeds:  # sound inputs are read; and kernels are compiled
        problem = attempt(readers, reader, path)
        if problem:
            queue.put(("unsound", f"{reader} {damaged.name}", problem, b""))
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * MEMORY, size + 4 * MEMORY))
    for number in range(first, count):
        rng = random.Random(f"{seed}-{number}")
        reader = rng.choice(list(readers.READERS))
        _, path, target = rng.choice([found for found in seeds if found[0] == reader])
        sound = target.read_bytes()
        data = damaged_file(readers, target, rng)
        target.write_bytes(data)
        queue.put(("begin", number, f"{reader} {target.name}", data))
        problem = attempt(readers, reader, path)
        target.write_bytes(sound)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if problem is None and (peak - begin) * 1024 > MEMORY:
            problem, begin = f"took {(peak - begin) >> 10} MiB", peak
        queue.put(("end", number, problem, reader))
    queue.put(("done",))


def receive(queue: Any, process: Any, limit: float) -> Any:
    """The worker's next message; none if it died, or is at one input for too long.

    That is ``limit`` seconds of its processor's time, or a quarter of an hour: on a busy machine
    the clock says little.
    """
    begun, spent = time.monotonic(), processor_time(process.pid)
    while True:
        try:
            return queue.get(timeout=1)
        except Empty:
            if not process.is_alive():
                try:
                    return queue.get(timeout=1)
                except Empty:
                    return None
            too_long = processor_time(process.pid) - spent > limit
            if too_long or time.monotonic() - begun > 900:
                return None


def processor_time(pid: int) -> float:
    """Seconds that a process has computed."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fuzz(
    count: int, seed: int, keep: Path | None = None, of: str = "readers"
) -> tuple[Counter, list[str]]:
    """Read ``count`` damaged inputs; return how many of each reader, and the findings."""
    context = multiprocessing.get_context("spawn")
    done: Counter = Counter()
    findings: list[str] = []
    first = 0
    while first < count:
        with tempfile.TemporaryDirectory() as name:
            queue = context.Queue()
            arguments = (Path(name), first, count, seed, of, queue)
            process = context.Process(target=worker, args=arguments, daemon=True)
            process.start()
            number, what, data, limit = first - 1, "start", b"", 900.0  # compiles kernels
            while True:
                message = receive(queue, process, limit)
                if message is None:
                    reason = "hangs" if process.is_alive() else f"died ({process.exitcode})"
                    message = ("end", number, reason, what.split()[0])
                    process.kill()
                if message[0] == "begin":
                    _, number, what, data = message
                    limit = float(SECONDS)
                elif message[0] == "broken":
                    raise RuntimeError(message[1])
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
    parser.add_argument("--of", choices=("readers", "models"), default="readers")
    arguments = parser.parse_args()
    done, findings = fuzz(arguments.count, arguments.seed, arguments.keep, arguments.of)
    print(f"{sum(done.values())} inputs, {len(findings)} findings: {dict(done)}")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
