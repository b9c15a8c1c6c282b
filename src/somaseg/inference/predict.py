"""Raw predictions of one model, or of several that are averaged, for many images."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from somaseg.data.augment import prepare_image
from somaseg.errors import SomasegError
from somaseg.inference.tiles import tiled_maps
from somaseg.inference.views import VIEWS
from somaseg.instances import Instances
from somaseg.models.base import Dense, Gray, Image, Maps, Model

Progress = Callable[[int, int], None]
"""Called as ``progress(images done, images in all)``."""


class Predictor:
    """Predicts images with one model, or with the averaged maps of several dense ones.

    Args:
        models: members of one family with the same classes (as the fold models of one run).
        views: test-time views, a key of :data:`somaseg.inference.views.VIEWS`.
        tile: side of a tile, in image pixels; larger images go through in tiles.
        overlap: of neighbouring tiles, in image pixels.

    Raises:
        SomasegError: no model, members that cannot be averaged, or unknown views.
    """

    def __init__(
        self, models: Sequence[Model], views: str = "none", tile: int = 1024, overlap: int = 128
    ) -> None:
        if not models:
            raise SomasegError("no model to predict with")
        if views not in VIEWS:
            raise SomasegError(f"views {views!r}: not one of {', '.join(VIEWS)}")
        first = models[0]
        for other in models[1:]:
            if type(other) is not type(first) or other.names != first.names:
                raise SomasegError(
                    "models of different families or classes have no common maps; "
                    "join their predictions with `somaseg ensemble`"
                )
        self.models, self.views, self.tile, self.overlap = list(models), VIEWS[views], tile, overlap
        if not isinstance(first, Dense) and (len(models) > 1 or len(self.views) > 1):
            raise SomasegError(
                f"family {first.config.family!r}: views and members of it are joined as instances; "
                "use `somaseg ensemble`"
            )

    def __call__(self, image: Image) -> Instances:
        """Raw instances of one image, (h, w) or (h, w, 3)."""
        first = self.models[0]
        if not isinstance(first, Dense):
            return first.predict([image])[0]
        gray = prepare_image(image)
        return first.decode(tiled_maps(self._maps, gray, self.tile, self.overlap))

    def _maps(self, gray: Gray) -> Maps:
        total: Maps | None = None
        for model in self.models:
            assert isinstance(model, Dense)
            for view in self.views:
                maps = view.undo(model.maps(view.image(gray)), model.vectors)
                total = maps if total is None else total + maps
        assert total is not None
        return total / np.float32(len(self.models) * len(self.views))


def predict_images(
    predictor: Predictor,
    images: Iterable[tuple[str, Callable[[], Image]]],
    count: int,
    progress: Progress | None = None,
) -> dict[str, Instances]:
    """Predict many images, reading each when its turn comes.

    Args:
        predictor: gives raw instances of one image.
        images: id and reader of each.
        count: how many there are, for the progress.
        progress: told after each.
    """
    out: dict[str, Instances] = {}
    for done, (name, read) in enumerate(images, 1):
        out[name] = predictor(read())
        if progress:
            progress(done, count)
    return out
