"""Small data sets on disk, and random overlapping ones for round trips."""

import gzip
import json
from pathlib import Path

import cv2
import numpy as np
from hypothesis import strategies as st

from somaseg.data.types import Dataset, Sample
from somaseg.instances import Instances

SIZE = (12, 16)  # height, width: unequal, so that a swap shows


def write_image(path, size=SIZE, seed=0, dtype=np.uint8):
    image = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, size, dtype=dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, image)
    assert done
    path.write_bytes(data.tobytes())
    return image


def write_table(path, rows, header="id,annotation,width,height,cell_type"):
    """Write a table of runs; a row is text, or id and runs of a 16×12 image of cort."""
    lines = [row if isinstance(row, str) else f"{row[0]},{row[1]},16,12,cort" for row in rows]
    text = "\n".join([header, *lines]) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def competition(root, rows, images=("a", "b"), **more):
    """Write ``train.csv`` and 16×12 images."""
    for seed, name in enumerate(images):
        write_image(root / "train" / f"{name}.png", seed=seed)
    write_table(root / "train.csv", rows, **more)
    return root


def coco(root, annotations, images=("a", "b"), categories=("cell",), **entry):
    """Write ``annotations.json`` with image ids from 11 and category ids from 1, and images."""
    for seed, name in enumerate(images):
        write_image(root / "images" / f"{name}.png", seed=seed)
    content = {
        "images": [
            {"id": 11 + i, "file_name": f"{name}.png", "width": 16, "height": 12, **entry}
            for i, name in enumerate(images)
        ],
        "categories": [{"id": 1 + i, "name": name} for i, name in enumerate(categories)],
        "annotations": [
            {"id": 100 + i, "image_id": 11, "category_id": 1, "iscrowd": 0} | annotation
            for i, annotation in enumerate(annotations)
        ],
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def masks_of(instances):
    return np.array([instances.mask(i) for i in range(len(instances))], bool).reshape(
        -1, *instances.size
    )


def assert_same(one, two, scores=True):
    """Two data sets hold the same images, masks, classes (by name) and groups."""
    assert one.ids == two.ids
    for a, b in zip(one, two, strict=True):
        assert (a.size, a.image_class, a.group) == (b.size, b.image_class, b.group)
        np.testing.assert_array_equal(masks_of(a.instances), masks_of(b.instances))
        names = [[x.names[k] for k in x.classes] for x in (a.instances, b.instances)]
        assert names[0] == names[1]
        if scores:
            np.testing.assert_array_equal(a.instances.scores, b.instances.scores)


@st.composite
def instances(draw, size=SIZE, names=("cell",), most=4, label=None, scored=False):
    """Masks with holes and pieces that may overlap; with classes, or all of class ``label``."""
    height, width = size
    masks, classes, scores = [], [], []
    for _ in range(draw(st.integers(0, most))):
        bits = draw(st.integers(1, (1 << (height * width)) - 1))
        # Sparse masks too: and-ing with another random mask.
        if draw(st.booleans()):
            bits &= draw(st.integers(1, (1 << (height * width)) - 1)) or bits
        bits = bits or 1
        flat = [bits >> k & 1 for k in range(height * width)]
        masks.append(np.array(flat, bool).reshape(size))
        classes.append(draw(st.integers(0, len(names) - 1)) if label is None else label)
        scores.append(draw(st.floats(0, 1, width=32)) if scored else 1.0)
    return Instances.from_masks(
        np.array(masks, bool).reshape(-1, *size),
        scores=np.array(scores, np.float32),
        classes=np.array(classes, np.int16),
        names=names,
    )


@st.composite
def datasets(draw, mixed=False, scored=False):
    """Data sets in memory, without images: one class an image, or classes mixed."""
    names = draw(st.sampled_from([("cell",), ("astro", "cort")]))
    samples = []
    for number in range(draw(st.integers(1, 3))):
        size = draw(st.sampled_from([(3, 5), (7, 4), (1, 6)]))
        label = None if mixed else draw(st.integers(0, len(names) - 1))
        found = draw(instances(size, names, label=label, scored=scored))
        group = draw(st.sampled_from([None, "plate 1", "B, well"]))
        kind = None if mixed else names[label]
        samples.append(Sample(f"image{number}", size, None, found, kind, group))
    if not mixed:  # a class that no image has is no class of a table
        used = {sample.image_class for sample in samples}
        kept = tuple(name for name in names if name in used)
        samples = [
            Sample(s.id, s.size, None, s.instances.rename(kept), s.image_class, s.group)
            for s in samples
        ]
        names = kept
    return Dataset(tuple(samples), names, "memory")


def labels_folder(root: Path, labels, images=True):
    """Write ``labels/NAME.png`` (16 bit) and, if asked for, ``images/NAME.png``."""
    for name, values in labels.items():
        values = np.asarray(values)
        path = root / "labels" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        done, data = cv2.imencode(".png", values.astype(np.uint16))
        assert done
        path.write_bytes(data.tobytes())
        if images:
            write_image(root / "images" / f"{name}.png", values.shape)
    return root
