"""Kernels are compiled once: one signature each, kept on disk for the next start."""

import importlib
import pkgutil
import subprocess
import sys

import somaseg.masks

USE_ALL = """
import numpy as np
from somaseg.instances import Instances
from somaseg.masks import overlap, paste, pieces, resolve, rle
masks = np.zeros((3, 9, 9), bool)
masks[0, :5, :5], masks[1, 3:, 2:], masks[2, 6, 1] = True, True, True
masks[0, 2, 2] = False
x = Instances.from_masks(masks, scores=[0.1, 0.2, 0.3])
y = Instances.from_runs(x.size, x.to_runs())
overlap.pairwise_iou(x, y); resolve.mask_nms(x, x.scores, 0.5)
x.disjoint(largest_piece=True, fill_holes=True); x.layers(); x.to_labels()
Instances.from_labels(x.to_labels()); x[[0, 2]]; x.split(); x.window((4, 4))
Instances.from_masks(masks * np.uint8(99), soft=True).binary(0.2)
paste.fuse(*x.flat, [0, 0, 0], [1, 1, 1]); pieces.hole_areas(*x.flat)
rle.coco_counts_to_crop(rle.crops_to_counts(*x.flat, x.size)[0], x.size)
rle.polygon_to_crop([[1, 1, 5, 1, 5, 5]], (9, 9))
"""


def kernels():
    found = {}
    for module in pkgutil.iter_modules(somaseg.masks.__path__):
        names = vars(importlib.import_module(f"somaseg.masks.{module.name}"))
        for name, value in names.items():
            if hasattr(value, "signatures") and value.py_func.__module__.endswith(module.name):
                found[f"{module.name}.{name}"] = value
    return found


def run(code):
    """In a process of its own: what other tests call with other types would be counted."""
    program = f"{USE_ALL}\nfrom tests.masks.test_kernels import kernels\n{code}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_a_kernel_is_compiled_for_one_layout_whatever_comes_in():
    run("""
x = Instances.from_masks(masks[:2])
odd = [np.asfortranarray(x.boxes.astype(np.int64)), x.pixels.astype(bool), x.offsets.copy()]
for array in odd:
    array.flags.writeable = False
overlap.intersections(*odd, *odd)
overlap.areas(*odd[1:])
pieces.largest_piece(*odd)
pieces.fill_holes(*odd)
pieces.split_pieces(*odd)
paste.tighten(*odd)
paste.window(*odd, (5, 5))
rle.crops_to_texts(*odd, (9, 9))
resolve.nms_from_pairs([0, 1], [0], [1], [0.3], 0)
again = Instances((9, 9), *odd, np.ones(2), np.full(2, -1))
again.disjoint(np.array([1, 0], np.int32), largest_piece=True, fill_holes=True)
Instances.from_labels(np.asfortranarray(again.to_labels().astype(np.uint16)))
counts = {name: len(kernel.signatures) for name, kernel in kernels().items()}
assert len(counts) > 20
# 0: a helper of another kernel, which came out of the cache with it.
twice = {name: count for name, count in counts.items() if count > 1}
assert not twice, twice
""")


def test_a_second_start_compiles_nothing():
    run("")  # has compiled and stored them by now
    run("""
misses = {n: k.stats.cache_misses for n, k in kernels().items() if k.stats.cache_misses}
assert not misses, misses
""")


def test_the_import_is_light():
    check = """
import sys
import somaseg.instances
heavy = {"torch", "skimage", "matplotlib", "cv2", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)
