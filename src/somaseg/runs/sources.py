"""Where the images of a run are, and how they are loaded."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from somaseg.data import Dataset, load_dataset
from somaseg.data.axes import Choice
from somaseg.data.formats.registry import format_names
from somaseg.data.load import sound_part
from somaseg.errors import SomasegError
from somaseg.models.registry import validate


class DataConfig(BaseModel):
    """Where the data are."""

    model_config = ConfigDict(extra="forbid")

    path: str
    format: str = "auto"
    images: str | None = None
    skip_faulty: bool = False
    channels: tuple[str, ...] = Field((), description="that are learned from, by name or number")
    frame: int | None = None
    z: str | None = None

    @property
    def choice(self) -> Choice:
        """What of stacks is learned from."""
        return Choice(None, self.frame, self.z, self.channels)

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in (known := ("auto", *format_names())):
            raise ValueError(f"no format {name!r}; choose one of {', '.join(known)}")
        return name

    @classmethod
    def at(
        cls,
        path: str | Path,
        format: str = "auto",
        images: str | Path | None = None,
        skip_faulty: bool = False,
        choice: Choice | None = None,
    ) -> Self:
        """Make one by paths that hold from any folder; ``choice`` is what of stacks is wanted.

        Raises:
            SomasegError: there is no such format.
        """
        fields: dict[str, Any] = {
            "path": str(Path(path).resolve()),
            "format": str(format),
            "images": str(Path(images).resolve()) if images else None,
            "skip_faulty": skip_faulty,
        }
        if choice is not None:
            fields |= {"channels": choice.inputs, "frame": choice.frame, "z": choice.z}
        return validate(cls, fields, "data")


def load_annotated(data: DataConfig) -> Dataset:
    """Load a data set and keep its annotated images; of a faulty one the sound, if so asked."""
    where = (data.path, data.format, data.images)
    if data.skip_faulty:
        dataset = sound_part(*where, choice=data.choice)[0]
    else:
        dataset = load_dataset(*where, choice=data.choice)
    annotated = dataset.subset([s.id for s in dataset if s.instances is not None])
    if not len(annotated):
        raise SomasegError(f"{data.path}: no image in it is annotated")
    return annotated


def learn_from(dataset: Dataset, data: DataConfig) -> Dataset:
    """Load other annotations of a data set's images, in its order.

    Raises:
        SomasegError: an image is missing there, or its size or the class names are others.
    """
    other = load_annotated(data)
    if other.names != dataset.names:
        raise SomasegError(
            f"{data.path}: classes {', '.join(other.names)}, but {dataset.source} has "
            f"{', '.join(dataset.names)}; they must be the same"
        )
    for sample in dataset:
        if sample.id not in other or other[sample.id].size != sample.size:
            raise SomasegError(
                f"{data.path}: has no annotation of image {sample.id} of "
                f"{sample.size[1]}×{sample.size[0]} pixels, which {dataset.source} has"
            )
    return other.subset(dataset.ids)
