"""Find the model that a user means."""

from importlib import resources
from pathlib import Path
from typing import Any

from somaseg.decide import parse_settings
from somaseg.decide.rescore import Rescorer
from somaseg.errors import SomasegError
from somaseg.files import read_json
from somaseg.models.bundle import read_bundle
from somaseg.predict.predictor import TILE
from somaseg.predict.scale import Diameter, check_diameter
from somaseg.predict.segmenter import Segmenter
from somaseg.runs.run import Run

SHIPPED = "neurons-phase-contrast.safetensors"
"""The model that comes with somaseg."""


BUNDLE = "model.safetensors"
"""What `somaseg fit` leaves in its folder for new images."""


def shipped_model() -> Path:
    """Path of the model that comes with somaseg."""
    return Path(str(resources.files("somaseg.weights") / SHIPPED))


def load_segmenter(
    model: str | Path | None = None,
    views: str | None = None,
    tile: int = TILE,
    overlap: int | None = None,
    diameter: Diameter = None,
) -> Segmenter:
    """Load a segmenter.

    Args:
        model: a run's folder (its tuned settings; its model of all images, or its fold models
            averaged), the folder that `somaseg fit` made, a model file, a bundle, or none for the
            one that comes with somaseg.
        views: test-time views; by default none for a model or a run, and for a bundle those that
            its members were tuned with.
        tile: side of a tile for large images.
        overlap: of neighbouring tiles; by default as wide as eight cells.
        diameter: of the cells in pixels, or ``auto``, where images have another scale than those
            that the model was trained on.

    Raises:
        SomasegError: no such run or model, or not whole.
    """
    segmenter = _load(model, views, tile, overlap)
    segmenter.diameter = check_diameter(diameter)
    return segmenter


def _load(model: str | Path | None, views: str | None, tile: int, overlap: int | None) -> Segmenter:
    path = _find(model)
    if path.is_dir():
        run = Run.open(path)
        tuned = path / "settle.json"
        segmenter = Segmenter.load(
            run.model_paths(), views=views or "none", tile=tile, overlap=overlap
        )
        if tuned.exists():
            segmenter.settings = parse_settings(read_json(tuned), segmenter.names)
        if run.rescorer_path.exists():
            segmenter.rescorer = Rescorer.load(run.rescorer_path)
        return segmenter
    return Segmenter.of_bundle(read_bundle(path), views, tile, overlap)


def describe_model(model: str | Path | None = None) -> dict[str, Any]:
    """Tell what a model is: its card (data, licence, scores), classes, parts and tuned settings.

    Args:
        model: as for :func:`load_segmenter`; of a run its first model speaks for the others.

    Raises:
        SomasegError: no such model, or not whole.
    """
    path = _find(model)
    if path.is_dir():
        path = Run.open(path).model_paths()[0]
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
            }
            for member in bundle.members
        ]
        joined = {"members": members, "joined by": bundle.method, "settings": bundle.settings}
        return {"file": path.name, **bundle.card, **joined}
    facts = {
        "family": first.config.family,
        "classes": list(first.names),
        "diameter": round(first.info.diameter, 1),
        "values": sum(tensor.numel() for tensor in first.tensors().values()),
        "settings": bundle.settings,
    }
    return {"file": path.name, **bundle.card, **facts}


def _find(model: str | Path | None) -> Path:
    """A model file, bundle or run, for what a user has given."""
    path = shipped_model() if model is None else Path(model)
    if not path.exists():
        raise SomasegError(f"{path}: no such model or run")
    if path.is_dir() and (path / "plan.yaml").exists():
        path = path / BUNDLE
        if not path.exists():
            raise SomasegError(
                f"{path}: not there yet; run `somaseg fit --resume --out {path.parent}` to finish"
            )
    return path
