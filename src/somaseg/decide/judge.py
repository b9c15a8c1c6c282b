"""Choose the setting that is surely better than the defaults, from the tables of some images."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import convolve1d
from scipy.stats import t as student

from somaseg.decide.grid import AXES, SettingGrid

Floats = npt.NDArray[np.float64]

_WEIGHTS = np.array([1, 2, 1]) / 4
"""Of a value and its neighbours along each axis; the names of orders have no neighbours."""
SURENESS = 0.8413
"""Probability that the gain is above its lower end: that of one standard error, for many images."""


class Judge:
    """Gathers the tables of images, one at a time, and chooses a setting.

    A table of a few images has sharp chance peaks. So each setting is judged together with its
    neighbours along every axis, and by the lower end of its gain: the mean over the images of its
    gain over the default settings, less one standard error of that mean (more for few images, by
    Student's t). With few images, or images that disagree, the choice stays at the default.

    Args:
        grid: that the tables are of.
    """

    def __init__(self, grid: SettingGrid) -> None:
        self.grid = grid
        self._count = 0
        self._total = np.zeros(grid.shape)
        self._gain = np.zeros(grid.shape)
        self._squares = np.zeros(grid.shape)

    def gain(self, table: Floats) -> Floats:
        """Gain over the default settings, averaged with the neighbours, for one image's table."""
        smooth = table
        for axis, name in enumerate(AXES):
            if name != "order":
                smooth = convolve1d(smooth, _WEIGHTS, axis, mode="nearest")
        return smooth - smooth[self.grid.default]

    def add(self, table: Floats, gain: Floats | None = None) -> None:
        """Count an image in: its table, and :meth:`gain` of it if at hand."""
        gain = self.gain(table) if gain is None else gain
        self._count += 1
        self._total += table
        self._gain += gain
        self._squares += gain**2

    @property
    def mean(self) -> Floats:
        """Mean of the tables."""
        return self._total / max(self._count, 1)

    def best(self) -> tuple[int, ...]:
        """Place of the setting to choose; of equal ones that nearest to the default."""
        n = self._count
        if n == 0:
            return self.grid.default
        mean = self._gain / n
        spread = np.maximum(self._squares / n - mean**2, 0)
        error = student.ppf(SURENESS, n - 1) * np.sqrt(spread / (n - 1)) if n > 1 else np.inf
        # What gains or loses nothing in any image is sure.
        sure = mean - np.where(self._squares > 0, error, 0)
        places = np.argwhere(sure >= sure.max() - 1e-9)
        distance = np.abs(places - np.array(self.grid.default)).sum(axis=1)
        return tuple(places[distance.argmin()].tolist())
