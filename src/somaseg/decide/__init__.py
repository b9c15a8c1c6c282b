"""From raw instances to final ones: fusing, settling, and the choice of how."""

from somaseg.decide.apply import has_one_class, settle, settle_all, vote
from somaseg.decide.fuse import METHODS, Fusion, Method, common_images, fuse, fuse_images
from somaseg.decide.nested import Choice, Decision, Way, decide
from somaseg.decide.redraw import MaskHead, second_pass
from somaseg.decide.selection import Selection, Selector
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
    "Choice",
    "Decision",
    "Fusion",
    "MaskHead",
    "Method",
    "Selection",
    "Selector",
    "Settle",
    "SettleSettings",
    "Way",
    "common_images",
    "decide",
    "default_settings",
    "dump_settings",
    "fuse",
    "fuse_images",
    "has_one_class",
    "parse_settings",
    "second_pass",
    "settle",
    "settle_all",
    "vote",
]
