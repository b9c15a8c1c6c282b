"""somaseg: single cells in micrographs, from annotations to masks you can defend."""

from typing import TYPE_CHECKING

from somaseg import looks
from somaseg import numba_cache as numba_cache  # before numba

if TYPE_CHECKING:
    from somaseg.data.types import Dataset
    from somaseg.instances import Instances

__version__ = "0.1.0"


def _drawn(value: "Instances | Dataset") -> str:
    """What a notebook shows; drawing is imported when there is something to draw."""
    from somaseg.report.notebook import html

    return html(value)


looks.draw_with(_drawn)
