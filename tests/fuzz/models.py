"""Sound model files and run folders, small, and what reads them.

Most damage of a model file is caught by its checksum. So most are signed anew after they were
damaged: what reads them must hold their contents against each other, too.
"""

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copytree

import numpy as np
import torch
import yaml
from safetensors.torch import load, save

from somaseg.data.folds import save_folds
from somaseg.data.load import read_dataset
from somaseg.data.synthetic import write_dataset
from somaseg.decide.rescore import Rescorer
from somaseg.errors import SomasegError
from somaseg.files import write_json
from somaseg.instances import Instances
from somaseg.models.bundle import (
    KEY,
    Bundle,
    BundleMember,
    write_bundle,
)
from somaseg.models.config import ModelInfo
from somaseg.models.registry import build_model, parse_config
from somaseg.models.signature import CHECKSUM, checksum
from somaseg.models.training.checkpoint import save_checkpoint, take_up
from somaseg.models.training.journal import MetricsFile
from somaseg.predict.load import describe_model, load_segmenter
from somaseg.predict.outputs import write
from somaseg.predict.store import save_predictions
from somaseg.runs.cross_validate import score_run
from somaseg.runs.ensemble import read_settings
from somaseg.runs.ledger import read_ledger
from somaseg.runs.members import read_members
from somaseg.runs.plan_file import read_plan
from somaseg.runs.run import Run, RunConfig
from somaseg.runs.search import Search, SearchConfig
from somaseg.runs.sources import DataConfig
from somaseg.runs.space import Dimension
from somaseg.runs.tuning import decide_run

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 48), dtype=np.uint8)
FLOW = {"family": "flow", "encoder": "cpnet", "widths": (2, 4), "diameter": 20.0}
UNET = {"family": "semantic", "network": "attention_unet", "widths": (2, 4)}
SETTINGS = {"steps": 5}
CLASSES = ("astro", "cort", "shsy5y")


def raw_instances(names: tuple[str, ...]) -> Instances:
    """Three cells of an image, as a network leaves them: soft, scored."""
    soft = np.zeros((3, 40, 48), np.uint8)
    soft[0, 3:12, 4:15], soft[1, 5:14, 6:17], soft[2, 20:33, 25:44] = 250, 140, 200
    return Instances.from_crops(
        (40, 48),
        np.array([[0, 0, 48, 40]] * 3, np.int32),
        list(soft),
        np.array([0.9, 0.4, 0.7], np.float32),
        np.array([0, 1, 1], np.int16),
        names,
        soft=True,
    ).tightened()[0]


def model(path: Path) -> None:
    describe_model(path)
    load_segmenter(path)(IMAGE)


def run(path: Path) -> None:
    """All that is read of a run, by whatever command; each part may be refused by itself."""
    for read in (
        lambda: read_ledger(path.parent).agreement("public"),
        lambda: load_segmenter(path)(IMAGE),
        lambda: read_members([path]),
        lambda: read_settings(path, CLASSES),
        lambda: decide_run(Run.open(path), Run.open(path).dataset(), search=("score",)),
    ):
        with suppress(SomasegError):
            read()


def metrics(path: Path) -> None:
    MetricsFile(path).rows()
    MetricsFile(path).cut(2)


def ensemble(path: Path) -> None:
    read_members([path])
    read_settings(path, CLASSES)


READERS: dict[str, Callable[[Path], object]] = {
    "model": model,
    "run": run,
    "old run": lambda path: load_segmenter(path)(IMAGE),
    "plan": read_plan,
    "search": lambda path: Search.open(path).study().get_trials(),
    "checkpoint": lambda path: take_up(path, SETTINGS),
    "metrics": metrics,
    "ensemble": ensemble,
    "masks": read_dataset,
    "rescorer": lambda path: Rescorer.load(path)(raw_instances(CLASSES)),
}


def make_seeds(folder: Path) -> list[tuple[str, Path, Path]]:
    """Write the sound inputs: (reader, what it reads, the file to damage)."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    seeds: list[tuple[str, Path, Path]] = []

    def add(reader: str, path: Path, damaged: Path | None = None) -> None:
        seeds.append((reader, path, damaged or path))

    settle = {name: {"score": 0.3, "min_area": 20} for name in CLASSES}
    info = ModelInfo(names=CLASSES, diameter=14.0, settle=settle, card={"data": "here"})
    flow, unet = (build_model(parse_config(fields), info).eval() for fields in (FLOW, UNET))
    flow.save(folder / "flow.safetensors")
    unet.save(folder / "unet.safetensors")
    both = tuple(
        BundleMember(name, 1.0, "none", (one,)) for name, one in (("flow", flow), ("unet", unet))
    )
    write_bundle(folder / "both.safetensors", Bundle(both, "nmw", settle))
    # A file of before there were checksums.
    old = {"format": 1, "config": flow.config.model_dump(mode="json"), "parts": {}}
    old |= {"info": info.model_dump(mode="json")}
    plain = {name: tensor.contiguous() for name, tensor in flow.tensors().items()}
    (folder / "old.safetensors").write_bytes(save(plain, {KEY: json.dumps(old)}))
    for path in sorted(folder.glob("*.safetensors")):
        add("model", path)

    data = write_dataset(folder / "data", n_per_class=2, size=(48, 48))
    config = RunConfig.make(DataConfig.at(data), folds=2, changes={"training.steps": 1})
    config = config.model_copy(update={"model": FLOW})
    made = Run.create(folder / "runs" / "run", config)
    dataset = made.dataset()
    folds = made.folds(dataset)
    for fold in range(2):
        flow.save(made.model_path(fold))
        raw = {
            sample.id: Instances.concat([sample.annotated(), sample.annotated()])
            for sample in dataset
            if folds[sample.id] == fold
        }
        save_predictions(made.predictions_path(fold), raw)
        note = {"seconds": 1.0, "cpu_seconds": 1.0, "parameters": 5}
        write_json(made.part(fold) / "training.json", note)
    score_run(made, dataset, search=("score",))
    note = {"time": "now", "public": 0.3, "private": 0.2, "note": "", "cv": {"map": 0.2}}
    write_json(made.folder / "leaderboard.json", [note])
    learned = decide_run(made, dataset, search=("score",), rescore=True).rescored
    assert learned is not None
    learned.rescorer.save(folder / "rescore.json")
    add("rescorer", folder / "rescore.json")
    before = folder / "before"  # a run of somaseg 0.1, without a model of its own
    copytree(made.folder, before)
    (before / "model.safetensors").unlink()
    learned.rescorer.save(before / "rescore.json")
    for place, reader in ((made.folder, "run"), (before, "old run")):
        for path in sorted(place.rglob("*")):
            if path.suffix in (".json", ".yaml", ".npz", ".safetensors"):
                add(reader, place, path)

    member = {"name": "flow", "model": FLOW, "training": {"steps": 2}}
    plan = {"data": {"path": str(data)}, "folds": 2, "members": [member]}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    add("plan", folder / "plan.yaml")
    space = {"training.rate": Dimension(low=1e-4, high=1e-2, log=True)}
    search = Search.create(folder / "search", SearchConfig(base=config, space=space))
    search.study().ask()
    for name in ("search.yaml", "search.db"):
        add("search", search.folder, search.folder / name)

    states = {"model": flow.state_dict(), "step": {"count": 3, 4: [torch.ones(2), None]}}
    path = folder / "checkpoint" / "checkpoint.safetensors"
    save_checkpoint(path, states, {"step": 3, "settings": SETTINGS})
    add("checkpoint", path)
    path = folder / "checkpoint" / "metrics.csv"
    path.write_text("step,seconds,rate,total\n1,0.5,0.001,3.1\n2,0.9,0.001,2.2\n3,1.2,0.001,2\n")
    add("metrics", path)

    joined = folder / "ensemble"
    joined.mkdir()
    (joined / "ensemble.yaml").write_text("members: []\n")
    save_predictions(joined / "predictions.npz", {"a": raw_instances(CLASSES)})
    save_folds(joined / "folds.json", {"a": 0})
    write_json(joined / "settle.json", settle)
    for path in sorted(joined.iterdir()):
        add("ensemble", joined, path)
    masks = folder / "masks"
    sample = next(iter(dataset))
    write(masks, {sample.id: sample.annotated()})
    write_json(masks / "images.json", {sample.id: str(sample.image_path)})
    for name in ("images.json", "predictions.json"):
        add("masks", masks, masks / name)
    return seeds


def sign(data: bytes) -> bytes:
    """Give a damaged model file the checksum of what it holds now, if it can be read at all."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors = load(data)
        metadata[CHECKSUM] = checksum(metadata[KEY], tensors)
        return save(tensors, metadata)
    except Exception:  # whatever a damaged header makes
        return data


def damage_inside(data: bytes, damage: Callable[[bytes], bytes]) -> bytes:
    """Damage what the metadata say, and sign the file."""
    (size,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    metadata[KEY] = damage(metadata[KEY].encode()).decode(errors="replace")
    return sign(save(load(data), metadata))
