"""Sound inputs of every reader, small, and what reads them."""

import contextlib
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import yaml
from PIL import Image

from somaseg.data.axes import Choice
from somaseg.data.faults import Faults
from somaseg.data.folds import load_folds
from somaseg.data.formats.cellpose import read_seg
from somaseg.data.formats.geojson import read_geojson, write_geojson
from somaseg.data.formats.images import read_images
from somaseg.data.formats.labelme import read_shapes
from somaseg.data.formats.results import read_results
from somaseg.data.formats.rois import read_rois, write_rois
from somaseg.data.images import image_header, read_image, read_labels
from somaseg.data.load import read_dataset
from somaseg.data.planes import with_planes
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
from somaseg.runs.space import read_space

SIZE = (24, 30)

FOLDED = Dataset(tuple(Sample(name, (3, 4)) for name in "abc"), (), "memory")


def picture(path: Path) -> None:
    for read in (image_header, read_image, read_labels, map_image):
        with contextlib.suppress(SomasegError):
            read(path)


def table(path: Path) -> None:
    for images in (True, False):
        read_dataset(path, need_images=images)


def stack(path: Path) -> None:
    for sample in with_planes(read_images(path, Faults()), Choice()).dataset:
        sample.image()


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
    "space": read_space,
    "rois": lambda path: read_rois(path, SIZE),
    "geojson": lambda path: read_geojson(path, SIZE),
    "cells": lambda path: read_dataset(path),
    "stack": stack,
    "outlines": lambda path: read_dataset(path, "yolo"),
    "shapes": lambda path: read_shapes(path, SIZE),
    "seg": lambda path: read_seg(path, SIZE),
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
    (folder / "folds.json").write_text(json.dumps({"k": 3, "folds": {"a": 0, "b": 1, "c": 2}}))
    add("folds", folder / "folds.json")
    ledger = folder / "ledger"
    ledger.mkdir()
    (ledger / "ledger.csv").write_text("name,cv,public,private,note\nrun1,0.3,0.31,0.32,first\n")
    add("ledger", ledger / "ledger.csv")
    (folder / "space.yaml").write_text(
        "training.rate: {low: 1.0e-4, high: 1.0e-2, log: true}\n"
        "model.diameter: {choices: [14, 28]}\n"
    )
    add("space", folder / "space.yaml")

    scored = found.with_scores(np.array([0.5, 0.25], np.float32))
    write_rois(folder / "cells.zip", scored)
    add("rois", folder / "cells.zip")
    with zipfile.ZipFile(folder / "cells.zip") as packed:
        (folder / "one.roi").write_bytes(packed.read(packed.namelist()[0]))
    add("rois", folder / "one.roi")
    write_geojson(folder / "cells.geojson", scored)
    add("geojson", folder / "cells.geojson")
    cell = folder / "cells" / "a"
    for name, pixels in (("images/a", gray), ("masks/1", labels == 1), ("masks/2", labels == 2)):
        (cell / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * np.uint8(1)).astype(np.uint8)).save(cell / f"{name}.png")
    add("cells", folder / "cells", cell / "masks" / "1.png")

    stacks = folder / "stacks"
    stacks.mkdir()
    movie = np.stack([gray] * 4).reshape(2, 2, 24, 30)
    tifffile.imwrite(stacks / "a.tif", movie, imagej=True, metadata={"axes": "TCYX"})
    tifffile.imwrite(stacks / "b.ome.tif", movie, metadata={"axes": "ZCYX", "PhysicalSizeX": 0.5})
    for path in sorted(stacks.iterdir()):
        add("stack", path)
    root = folder / "yolo"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    Image.fromarray(gray).save(root / "images" / "a.png")
    (root / "labels" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.6\n1 0.6 0.6 0.9 0.6 0.9 0.9\n")
    (root / "data.yaml").write_text("names: [cort, astro]\n")
    add("outlines", root, root / "labels" / "a.txt")
    add("outlines", root, root / "data.yaml")
    shapes = [
        {"label": "cort", "points": [[2, 2], [9, 2], [9, 9]], "shape_type": "polygon"},
        {"label": "astro", "points": [[12, 12], [15, 12]], "shape_type": "circle", "group_id": 1},
    ]
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 24, "imageWidth": 30}
    (folder / "labelme.json").write_text(json.dumps(content))
    add("shapes", folder / "labelme.json")
    np.save(folder / "a_seg.npy", {"masks": labels, "filename": "a.png", "diameter": 9.0})
    add("seg", folder / "a_seg.npy")
    return seeds
