"""From raw instances to final ones: fusing, settling, and the choice of how."""

from somaseg.decide.apply import settle, vote
from somaseg.decide.fuse import METHODS, Fusion, Method, common_images, fuse, fuse_images
from somaseg.decide.redraw import MaskHead, second_pass
from somaseg.decide.selection import Selection, select
from somaseg.decide.settings import (
    UNKNOWN,
    Settle,
    SettleSettings,
    default_settings,
    dump_settings,
    parse_settings,
)

__all__ = [
    "METHODS",
    "UNKNOWN",
    "Fusion",
    "MaskHead",
    "Method",
    "Selection",
    "Settle",
    "SettleSettings",
    "common_images",
    "default_settings",
    "dump_settings",
    "fuse",
    "fuse_images",
    "parse_settings",
    "second_pass",
    "select",
    "settle",
    "vote",
]
