"""How many frames of one field the leak finder names, held against a ``group`` column.

    python benchmarks/leaks.py DATA [--every N]

DATA is a data set whose groups are its fields. Pairs within a group that are found count for
recall, pairs found across groups against precision.
"""

import argparse
import dataclasses
import json
import time
from itertools import combinations

from somaseg.data import load_dataset
from somaseg.data.leaks import find_leaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--every", type=int, default=1, help="take every n-th group")
    asked = parser.parse_args()
    dataset = load_dataset(asked.data)
    of = {sample.id: sample.group or sample.id for sample in dataset}
    kept = set(sorted(set(of.values()))[:: asked.every])
    samples = tuple(sample for sample in dataset if of[sample.id] in kept)
    bare = tuple(dataclasses.replace(sample, group=None) for sample in samples)
    start, cpu = time.perf_counter(), time.process_time()
    found = find_leaks(dataclasses.replace(dataset, samples=bare))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    result = {"images": len(samples), "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
    kinds = sorted({sample.image_class or "" for sample in samples})
    for kind in kinds:
        ids = [sample.id for sample in samples if (sample.image_class or "") == kind]
        true = {frozenset(p) for p in combinations(ids, 2) if of[p[0]] == of[p[1]]}
        named = {frozenset((p.first, p.second)): p.peak for p in found if p.first in set(ids)}
        hits = true & set(named)
        wrong = sorted(named[p] for p in set(named) - true)
        result[kind or "all"] = {
            "true": len(true),
            "found": len(named),
            "hits": len(hits),
            "lowest_hit": round(min((named[p] for p in hits), default=0.0), 1),
            "wrong_peaks": [round(x, 1) for x in wrong[-8:]],
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
