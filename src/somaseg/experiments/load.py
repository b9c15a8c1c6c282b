"""Find the model that a user means."""

from importlib import resources
from pathlib import Path

from somaseg.errors import SomasegError
from somaseg.experiments.store import Run
from somaseg.files import read_json
from somaseg.inference.predict import TILE
from somaseg.inference.segmenter import Segmenter
from somaseg.settle import parse_settings
from somaseg.settle.rescore import Rescorer

SHIPPED = "neurons-phase-contrast.safetensors"
"""The model that comes with somaseg."""


def shipped_model() -> Path:
    """Path of the model that comes with somaseg."""
    return Path(str(resources.files("somaseg.weights") / SHIPPED))


def load_segmenter(
    model: str | Path | None = None,
    views: str | None = None,
    tile: int = TILE,
    overlap: int | None = None,
) -> Segmenter:
    """Load a segmenter.

    Args:
        model: a run's folder (its tuned settings; its model of all images, or its fold models
            averaged), a model file, or none for the one that comes with somaseg.
        views: test-time views; none by default.
        tile: side of a tile for large images.
        overlap: of neighbouring tiles; by default as wide as eight cells.

    Raises:
        SomasegError: no such run or model, or not whole.
    """
    path = shipped_model() if model is None else Path(model)
    if not path.exists():
        raise SomasegError(f"{path}: no such model or run")
    if not path.is_dir():
        return Segmenter.load([path], views=views or "none", tile=tile, overlap=overlap)
    run = Run.open(path)
    tuned = path / "settle.json"
    segmenter = Segmenter.load(run.model_paths(), views=views or "none", tile=tile, overlap=overlap)
    if tuned.exists():
        segmenter.settings = parse_settings(read_json(tuned), segmenter.names)
    if run.rescorer_path.exists():
        segmenter.rescorer = Rescorer.load(run.rescorer_path)
    return segmenter
