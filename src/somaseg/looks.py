"""What a notebook shows of our types: drawn by the report, which stands above them.

The types only say that they can be shown. Who draws them is set from above, by ``somaseg`` itself,
so that a notebook shows them without importing anything else.
"""

from collections.abc import Callable
from typing import Any

_drawers: list[Callable[[Any], str]] = []


def draw_with(drawer: Callable[[Any], str]) -> None:
    """Set what makes HTML of a value; the last one set counts."""
    _drawers[:] = [drawer]


def html(value: Any) -> str | None:
    """Return HTML of a value; none (notebooks then take its ``repr``) if nobody draws."""
    return _drawers[0](value) if _drawers else None
