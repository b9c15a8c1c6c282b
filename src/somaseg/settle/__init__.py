"""From raw instances to final ones, and the tuning of how."""

from somaseg.settle.apply import settle, vote
from somaseg.settle.settings import (
    UNKNOWN,
    Settle,
    SettleSettings,
    default_settings,
    dump_settings,
    parse_settings,
)

__all__ = [
    "UNKNOWN",
    "Settle",
    "SettleSettings",
    "default_settings",
    "dump_settings",
    "parse_settings",
    "settle",
    "vote",
]
