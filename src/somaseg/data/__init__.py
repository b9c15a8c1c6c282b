"""Data sets: images, their annotations, their folds."""

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
