"""From an image to final masks: prediction and settling in one object."""

from collections.abc import Sequence
from pathlib import Path

from somaseg.errors import SomasegError
from somaseg.inference.predict import Predictor
from somaseg.instances import Instances
from somaseg.models.base import Image, Model
from somaseg.models.registry import load_model
from somaseg.settle import Settle, default_settings, parse_settings, settle
from somaseg.settle.rescore import Rescorer


class Segmenter:
    """Finds the cells of an image: hard, disjoint masks with class and score.

    Args:
        models: one, or several of one family whose maps are averaged.
        settings: by class name; by default the first model's tuned ones.
        views: test-time views: ``none``, ``flips`` or ``all``.
        tile: larger images go through in tiles of this side, in image pixels.

    Attributes:
        rescorer: learned scores, with settings of their own, if the run has them.
    """

    rescorer: Rescorer | None = None

    def __init__(
        self,
        models: Sequence[Model],
        settings: Settle | None = None,
        views: str = "none",
        tile: int = 1024,
    ) -> None:
        self.predictor = Predictor(models, views, tile)
        info = models[0].info
        self.names = info.names
        self.one_class = info.one_class
        if settings is None and info.settle:
            settings = parse_settings(info.settle, info.names)
        self.settings: Settle = settings or default_settings(info.names)

    @classmethod
    def load(
        cls,
        paths: Sequence[str | Path],
        settings: Settle | None = None,
        views: str = "none",
        tile: int = 1024,
    ) -> "Segmenter":
        """Make a segmenter of model files."""
        return cls([load_model(path) for path in paths], settings, views, tile)

    def __call__(self, image: Image) -> Instances:
        """Segment one image, (h, w) or (h, w, 3), of any intensity range.

        Raises:
            SomasegError: the array is no such image.
        """
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
            raise SomasegError(f"image of shape {image.shape}: must be (h, w) or (h, w, 3)")
        raw = self.predictor(image)
        if self.rescorer is not None and self.rescorer.settings is not None:
            return settle(self.rescorer(raw), self.rescorer.settings, one_class=self.one_class)
        return settle(raw, self.settings, one_class=self.one_class)
