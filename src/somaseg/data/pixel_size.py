"""How large a pixel is, of what files say in many units."""

import math
from dataclasses import replace

from somaseg.data.axes import Axes

_MICRONS = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "micrometre": 1.0, "nm": 1e-3, "nanometer": 1e-3, "mm": 1e3, "millimeter": 1e3, "cm": 1e4,
    "centimeter": 1e4, "m": 1e6, "meter": 1e6,
}  # fmt: skip
_SQUARE = 0.01  # sides of a pixel that differ by more than this share make no square


def microns(value: object, unit: object = "µm") -> float | None:
    """A length in µm; none if the unit is no length that is known.

    Raises:
        ValueError: no number, or not above 0.
    """
    scale = _MICRONS.get(str(unit).strip().replace("\\u00B5", "µ").lower())
    if scale is None:
        return None
    length = float(str(value)) * scale
    if not (math.isfinite(length) and length > 0):
        raise ValueError(f"a pixel size of {value} {unit}")
    return length


def with_pixel_size(axes: Axes, x: tuple[object, object], y: tuple[object, object]) -> Axes:
    """Add the pixel size, of two lengths with their units; say so if they are not sound."""
    try:
        across, down = microns(*x), microns(*y)
    except ValueError as error:
        return replace(axes, doubt=f"{error}: sizes in µm are left out; give --pixel-size")
    if across is None or down is None:
        return axes
    if abs(across - down) > _SQUARE * max(across, down):
        doubt = f"pixels of {across:g}×{down:g} µm are not square: sizes in µm are left out"
        return replace(axes, doubt=doubt)
    return replace(axes, pixel_size=across)
