"""What our types show of themselves though rooms above them make it: pictures, tables, outlines.

The types only say what can be had of them. Who makes it is set from above, by ``somaseg`` itself,
so that whoever has cells has their table without importing anything else.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

_homes: dict[str, str] = {}


def give(**homes: str) -> None:
    """Set where each look is made, as ``module:function``; it is imported when first asked for."""
    _homes.update(homes)


def look(name: str) -> Callable[..., Any]:
    """Return the function that makes a look."""
    module, function = _homes[name].split(":")
    made: Callable[..., Any] = getattr(import_module(module), function)
    return made
