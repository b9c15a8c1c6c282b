"""The one console of the command line: texts as they are, and no figure cut off."""

import sys
from typing import Any

import rich.console
from rich.measure import Measurement
from rich.table import Table


class Console(rich.console.Console):
    """Prints names as they are (``[brackets]`` and ``:colons:`` too) and tables whole.

    Colours are given by ``style``, never within a text: a class may be called ``[red]``. A table
    is at least as wide as its words; a narrow terminal then breaks its lines, but loses nothing.
    Where no one looks, in a file or a pipe, lines are long.
    """

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(
            stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False
        )
        stream = sys.stderr if stderr else sys.stdout
        if not stream.isatty() and "COLUMNS" not in self._environ:
            self.width = 160

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, tables at least as wide as their words."""
        before = self.width
        try:
            for table in objects:
                if isinstance(table, Table):
                    wide = self.options.update(width=10_000)
                    self.width = max(self.width, Measurement.get(self, wide, table).minimum)
            super().print(*objects, **options)
        finally:
            self.width = before
