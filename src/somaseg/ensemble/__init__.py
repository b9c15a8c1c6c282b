"""Fuse what several members found: masks by mask IoU, boxes as ``ensemble-boxes`` does."""

from somaseg.ensemble.fuse import METHODS, Fusion, Method, common_images, fuse, fuse_images
from somaseg.ensemble.redraw import MaskHead, second_pass
from somaseg.ensemble.selection import Selection, select

__all__ = [
    "METHODS",
    "Fusion",
    "MaskHead",
    "Method",
    "Selection",
    "common_images",
    "fuse",
    "fuse_images",
    "second_pass",
    "select",
]
