"""Self-contained HTML pages: a template, charts and pictures in one file, nothing fetched."""

import base64
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt

from somaseg import __version__
from somaseg.report.overlays import png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("somaseg.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """Fill a template of ``report/templates`` (without ``.html.j2``); values are escaped."""
    return _ENVIRONMENT.get_template(f"{template}.html.j2").render(version=__version__, **values)


def stream(template: str, **values: Any) -> Iterator[str]:
    """Fill a template as :func:`render` does, piece by piece, so that no page is held whole."""
    return _ENVIRONMENT.get_template(f"{template}.html.j2").generate(version=__version__, **values)


def in_figure(name: str) -> str:
    """Write a name so that matplotlib shows it as it is.

    A dollar would begin a formula, and a leading underscore keep it out of the legend.
    """
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def svg_uri(figure: "Figure") -> str:
    """Turn a matplotlib figure into the address of an image that holds itself."""
    import matplotlib

    data = io.BytesIO()
    # Text stays text (small, sharp, found by a search); no date and no random ids: the same data
    # give the same page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "somaseg"}):
        figure.savefig(data, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return "data:image/svg+xml;base64," + base64.b64encode(data.getvalue()).decode()


def jpeg_uri(rgb: npt.NDArray[np.uint8]) -> str:
    """Turn a micrograph, uint8 (h, w, 3), into the address of an image: a quarter of a PNG's bytes.

    Colour keeps its full resolution, because outlines are a pixel wide.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    data = cv2.imencode(".jpg", rgb[..., ::-1], [*quality, *sampling])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def png_uri(rgb: npt.NDArray[np.uint8]) -> str:
    """Turn a picture, uint8 (h, w, 3) or (h, w), into the address of an image."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(rgb)).decode()
