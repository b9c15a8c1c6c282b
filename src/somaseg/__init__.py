"""somaseg: single cells in micrographs, from annotations to masks you can defend.

::

    import somaseg

    ds = somaseg.read("DATA")  # any known format; somaseg.Dataset
    seg = somaseg.load("run")  # a run, a fit, a model file; without a name, the one that ships
    cells = seg("image.tif")  # or an array, a list, a data set; somaseg.Instances
    found = seg(ds)
    print(somaseg.score(ds, found).competition.map)
    somaseg.write("masks", found)
    somaseg.fit("DATA", budget="2h")

Each of these is imported when it is first used: ``import somaseg`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from somaseg import looks
from somaseg import numba_cache as numba_cache  # before numba

if TYPE_CHECKING:
    from collections.abc import Callable

    from somaseg.data.load import load_dataset as read
    from somaseg.data.types import Dataset
    from somaseg.instances import Instances
    from somaseg.predict.load import load_segmenter as load
    from somaseg.predict.outputs import write
    from somaseg.scoring.scores import score

    fit: Callable[..., Any]

__version__ = "0.1.0"
__all__ = ["Dataset", "Instances", "fit", "load", "read", "score", "write"]

_HOMES = {
    "Dataset": ("data.types", "Dataset"),
    "Instances": ("instances", "Instances"),
    "fit": ("runs.fit", "fit_data"),
    "load": ("predict.load", "load_segmenter"),
    "read": ("data.load", "load_dataset"),
    "score": ("scoring.scores", "score"),
    "write": ("predict.outputs", "write"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


looks.give(
    html="somaseg.report.notebook:html",
    table="somaseg.data.measure:measure",
    rois="somaseg.data.formats.rois:to_rois",
    geojson="somaseg.data.formats.geojson:to_geojson",
)
