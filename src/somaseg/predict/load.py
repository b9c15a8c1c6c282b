"""Find the model that a user means."""

from importlib import resources
from pathlib import Path
from typing import Any

from somaseg.errors import SomasegError
from somaseg.files import is_there, read_json, read_yaml
from somaseg.folders import CONFIG, MODEL, RESCORER, SETTLE, kind_of, model_files
from somaseg.models.base import Model
from somaseg.models.bundle import Bundle, BundleMember, load_model, read_bundle
from somaseg.predict.predictor import TILE
from somaseg.predict.scale import Diameter, check_diameter
from somaseg.predict.segmenter import Segmenter
from somaseg.predict.views import VIEWS

SHIPPED = "neurons-phase-contrast"
"""The model that comes with somaseg."""
FAST = "-fast"
"""Ends the name of a model's fast sibling, one network in place of an ensemble."""


def shipped_model(name: str = SHIPPED) -> Path:
    """Path of a model that comes with somaseg."""
    return Path(str(resources.files("somaseg.weights") / f"{name}.safetensors"))


def load_segmenter(
    model: str | Path | None = None,
    views: str | None = None,
    tile: int = TILE,
    overlap: int | None = None,
    diameter: Diameter = None,
    device: str | None = None,
    engine: str | None = None,
    precision: str | None = None,
    batch: int | None = None,
    fast: bool = False,
) -> Segmenter:
    """Load a segmenter.

    Args:
        model: a model file; the folder of a run (its tuned settings; its model of all images, or
            its fold models averaged), a fit, a search (its best trial) or an ensemble of models;
            the name of a model that comes with somaseg, or none for the first of them.
        views: test-time views; by default those that the model was tuned with.
        tile: side of a tile for large images.
        overlap: of neighbouring tiles; by default as wide as eight cells.
        diameter: of the cells in pixels, or ``auto``, where images have another scale than those
            that the model was trained on.
        device: ``auto``, ``cpu``, ``cuda:N`` or ``mps``.
        engine: ``torch``, ``openvino`` or ``onnxruntime``.
        precision: ``auto`` (half precision where that keeps the score), ``float32``,
            ``bfloat16`` or ``int8`` (with OpenVINO, after ``somaseg calibrate``).
        batch: views and tiles that go through a network at once; by default 8 on a GPU, else 1.
            These four are, by default, what the environment variables ``SOMASEG_DEVICE``,
            ``…_ENGINE``, ``…_PRECISION`` and ``…_BATCH`` say.
        fast: take the model's fast sibling, ``MODEL-fast.safetensors`` beside it.

    Raises:
        SomasegError: no such run or model, or not whole; or it cannot be run so.
    """
    bundle = read_model(find_model(model, fast))
    try:
        segmenter = Segmenter.of_bundle(
            bundle, views, tile, overlap, device, engine, precision, batch
        )
    except SomasegError as error:
        raise SomasegError(f"{model}: {error}") from error
    segmenter.diameter = check_diameter(diameter)
    return segmenter


def read_model(model: str | Path | None = None) -> Bundle:
    """Read what a model is made of.

    Args:
        model: as for :func:`load_segmenter`.

    Raises:
        SomasegError: no such model, or not whole.
    """
    path = find_model(model)
    return _old_run(path) if path.is_dir() else read_bundle(path)


def describe_model(model: str | Path | None = None) -> dict[str, Any]:
    """Tell what a model is: its card (data, licence, scores), classes, parts and tuned settings.

    Args:
        model: as for :func:`load_segmenter`; of a run its first model speaks for the others.

    Raises:
        SomasegError: no such model, or not whole.
    """
    path = find_model(model)
    if path.is_dir():
        path = model_files(path)[0]
    bundle = read_bundle(path)
    first = bundle.members[0].models[0]
    if len(bundle.members) > 1 or len(bundle.members[0].models) > 1 or bundle.method:
        members = [
            {
                "name": member.name,
                "weight": member.weight,
                "views": member.views,
                "models": len(member.models),
                "parameters": sum(one.parameter_count for one in member.models),
                **_checked(member.models[0]),
            }
            for member in bundle.members
        ]
        joined = {"members": members, "joined by": bundle.method, "settings": bundle.settings}
        return {"file": path.name, **bundle.card, **joined}
    facts = {
        "family": first.config.family,
        "classes": list(first.names),
        "diameter": round(first.info.diameter, 1),
        **({"channels": list(first.info.channels)} if first.info.channels else {}),
        "values": sum(tensor.numel() for tensor in first.tensors().values()),
        "settings": bundle.settings,
        **_checked(first),
    }
    return {"file": path.name, **bundle.card, **facts}


def _checked(model: Model) -> dict[str, Any]:
    """What a model scored in several precisions, if that was measured."""
    checked = model.info.checked
    return {} if checked is None else {"precisions": checked.model_dump()}


def _old_run(run: Path) -> Bundle:
    """Put together what the parts of a run hold: those of before 0.2 left it in no one file."""
    config = read_yaml(run / CONFIG)
    tuned = config.get("views") if isinstance(config, dict) else None
    models = tuple(load_model(path) for path in model_files(run))
    info = models[0].info
    member = BundleMember(models[0].config.family, 1.0, tuned if tuned in VIEWS else "none", models)
    return Bundle(
        (member,),
        settings=read_json(run / SETTLE) if (run / SETTLE).exists() else info.settle,
        rescorer=read_json(run / RESCORER) if (run / RESCORER).exists() else None,
        card=info.card,
    )


def find_model(model: str | Path | None = None, fast: bool = False) -> Path:
    """Return a model file, or the folder of an older run, for what a user has given.

    Args:
        model: as for :func:`load_segmenter`.
        fast: return the file of its fast sibling.

    Raises:
        SomasegError: no such model, or one that is not there yet; it has no fast sibling.
    """
    path = _find(model)
    if not fast:
        return path
    beside = path / MODEL if path.is_dir() else path
    beside = beside.with_name(f"{beside.stem}{FAST}.safetensors")
    if not beside.is_file():
        raise SomasegError(
            f"--fast: {path} has no fast model beside it, {beside.name}; make one with "
            "`somaseg distill`"
        )
    return beside


def _find(model: str | Path | None) -> Path:
    path = shipped_model() if model is None else Path(model)
    named = shipped_model(path.name)
    if path.name == str(model) and not is_there(path) and named.is_file():
        return named
    if not is_there(path):
        raise SomasegError(f"{path}: no such model or run")
    if not path.is_dir():
        return path
    if (path / MODEL).is_file():
        return path / MODEL
    kind = kind_of(path)
    if kind == "run":
        return path
    missing = {
        "fit": f"run `somaseg fit --resume --out {path}` to finish",
        "search": "no trial of it is finished; run the same `somaseg search` again",
        "ensemble": "its members are not all models; predict with one of those that are",
    }
    if kind in missing:
        raise SomasegError(f"{path / MODEL}: not there yet; {missing[kind]}")
    raise SomasegError(f"{path}: not a run, nor a folder with a {MODEL}")
