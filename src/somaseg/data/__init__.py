"""Data sets: images, their annotations, their folds."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from somaseg.data.folds import load_folds, make_folds, save_folds
    from somaseg.data.images import image_size, normalise, read_image, to_gray
    from somaseg.data.load import load_dataset, read_dataset
    from somaseg.data.types import Dataset, Sample

__all__ = [
    "Dataset",
    "Sample",
    "image_size",
    "load_dataset",
    "load_folds",
    "make_folds",
    "normalise",
    "read_dataset",
    "read_image",
    "save_folds",
    "to_gray",
]

# Imported when asked for: the command line lists the formats without reading anything.
_HOMES = {
    "Dataset": "types",
    "Sample": "types",
    "image_size": "images",
    "normalise": "images",
    "read_image": "images",
    "to_gray": "images",
    "load_dataset": "load",
    "read_dataset": "load",
    "load_folds": "folds",
    "make_folds": "folds",
    "save_folds": "folds",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
