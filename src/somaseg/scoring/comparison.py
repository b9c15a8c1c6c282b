"""Put predictions beside the truth, image by image: overlaps computed once, for every score."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from somaseg.data.types import Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.parallel import map_images
from somaseg.scoring.match import Overlaps, joined_names

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Overlaps of every annotated image with its prediction.

    Attributes:
        names: class names: the truth's, then any that only the predictions have.
        images: one :class:`Overlaps` an image, in the truth's order.
        n_truth_names: how many of ``names`` are the truth's.
        notes: what the user should know of (images without prediction, foreign classes, …), one
            line each.
    """

    names: tuple[str, ...]
    images: tuple[Overlaps, ...]
    n_truth_names: int
    notes: tuple[str, ...] = ()

    @cached_property
    def by_image_class(self) -> bool:
        """Whether each image is of one class."""
        return all(image.image_class is not None for image in self.images)

    @cached_property
    def predictions_have_classes(self) -> bool:
        """Whether any prediction says of which class it is."""
        return any((image.prediction_classes >= 0).any() for image in self.images)

    @cached_property
    def groups(self) -> dict[str, tuple[Overlaps, ...]]:
        """The images by which each class is scored, in the order of ``names``.

        If each image is of one class (as in the competition), a class is its *images*, with all
        their truths and predictions: class labels of the predictions play no part. If images mix
        classes, a class is its *instances*: truths and predictions of that class alone, in the
        images where there is one of either (elsewhere an empty image would score 1 for nothing);
        classes without any truth are left out, as in COCO. With a single class the two are the
        same. Empty if classes are mixed and the predictions have none.
        """
        if self.by_image_class:
            return {
                name: members
                for name in self.names
                if (members := tuple(im for im in self.images if im.image_class == name))
            }
        if self.n_truth_names == 1:
            return {self.names[0]: self.images}
        if not self.predictions_have_classes:
            return {}
        groups = {name: self.instances_of(name) for name in self.names}
        return {
            name: members
            for name, members in groups.items()
            if any(len(image.truth_areas) for image in members)
        }

    def apply(
        self, function: Callable[[Overlaps], Result]
    ) -> tuple[list[Result], dict[str, list[Result]]]:
        """Results of ``function`` for each image, and for the members of each group.

        Called once for each image where groups are whole images. Not in threads: once overlaps
        are known an image takes less than handing it to a thread.
        """
        distinct = {id(image): image for image in self.images}
        for members in self.groups.values():
            distinct |= {id(image): image for image in members}
        results = {key: function(image) for key, image in distinct.items()}
        return [results[id(image)] for image in self.images], {
            name: [results[id(image)] for image in members] for name, members in self.groups.items()
        }

    def instances_of(self, name: str) -> tuple[Overlaps, ...]:
        """Truths and predictions of one class, in the images where there is one of either."""
        index = self.names.index(name)
        return tuple(
            image.of_class(index)
            for image in self.images
            if (image.truth_classes == index).any() or (image.prediction_classes == index).any()
        )


def compare(
    truth: Dataset,
    predictions: Mapping[str, Instances],
    source: str = "predictions",
    ignore_unknown: bool = False,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
    shared: bool = False,
) -> Comparison:
    """Compare predictions with the annotated images of a data set, in parallel over images.

    Args:
        truth: images without annotation are left out (with a note); an image with zero annotated
            cells counts.
        predictions: instances by image id. An annotated image that is missing here counts as one
            in which nothing was found (with a note, and a Python warning).
        source: what to call the predictions in messages (their file).
        ignore_unknown: leave predictions of images that ``truth`` does not have out of account.
        workers: threads; default: as many as there are processors.
        progress: called after each image.
        shared: compare only the images that are predicted; what is missing does not count.

    Raises:
        SomasegError: no image is annotated (or, with ``shared``, predicted), a predicted image is
            unknown or differs in size.
    """
    samples = [sample for sample in truth if sample.instances is not None]
    if not samples:
        raise SomasegError(f"{truth.source}: no image is annotated, so there is nothing to score")
    missing = [sample.id for sample in samples if sample.id not in predictions]
    if shared:
        samples = [sample for sample in samples if sample.id in predictions]
        if not samples:
            raise SomasegError(f"{source}: no annotated image of {truth.source} is predicted")
    elif missing:
        text = f"{source}: {_some(missing)} missing and counted as if nothing was found"
        warnings.warn(f"{text}; shared=True leaves them out", stacklevel=2)
    unknown = [name for name in predictions if name not in truth]
    if unknown and not ignore_unknown:
        raise not_in_truth(unknown, source, truth.source)
    names = truth.names
    for instances in predictions.values():
        names = joined_names(names, instances.names)

    def overlaps(sample: Sample) -> Overlaps:
        found = predictions.get(sample.id)
        if found is None:
            found = Instances.empty(sample.size, truth.names)
        try:
            result = Overlaps.between(
                sample.annotated(), found, sample.id, sample.image_class, names, sample.crowd
            )
        except SomasegError as error:
            raise SomasegError(f"{source}: {error}") from error
        if progress is not None:
            progress()
        return result

    images = tuple(map_images(overlaps, samples, workers))
    notes = _notes(truth, missing, shared, predictions, source, names, images)
    return Comparison(names, images, len(truth.names), notes)


def not_in_truth(ids: Sequence[str], source: str, truth: str) -> SomasegError:
    """Return the error that speaks of predicted images that the truth does not have."""
    return SomasegError(
        f"{source}: {_some(ids)} not in {truth}; give the data set they belong to, "
        "or leave them out with --ignore-unknown"
    )


def _notes(
    truth: Dataset,
    missing: Sequence[str],
    shared: bool,
    predictions: Mapping[str, Instances],
    source: str,
    names: tuple[str, ...],
    images: Sequence[Overlaps],
) -> tuple[str, ...]:
    """Say what was counted in a way that the user may not expect."""
    notes = []
    bare = [sample.id for sample in truth if sample.instances is None]
    if bare:
        notes.append(f"{truth.source}: {_some(bare)} not annotated and left out of the score")
    if missing:
        how = "left out of the score" if shared else "counted as if nothing was found"
        notes.append(f"{source}: {_some(missing)} missing and {how}")
    unknown = [name for name in predictions if name not in truth]
    if unknown:
        notes.append(f"{source}: {_some(unknown)} not in {truth.source} and left out")
    if len(truth.names) > 1:
        classes = np.concatenate([image.prediction_classes for image in images])
        for index, name in list(enumerate(names))[len(truth.names) :]:
            if count := np.count_nonzero(classes == index):
                notes.append(
                    f"{source}: class {name!r} ({count} predictions) is none of the truth's "
                    f"({', '.join(truth.names)}); right in the score without classes, wrong in "
                    "those by class: rename it"
                )
        if len(classes) and (classes < 0).all():
            notes.append(f"{source}: no classes; what needs the class of each cell is left out")
    return tuple(notes)


def _some(ids: Sequence[str]) -> str:
    """Name the first of some images, with a verb: ``image 'a' is``, ``3 images ('a', …) are``."""
    if len(ids) == 1:
        return f"image {ids[0]!r} is"
    return f"{len(ids)} images ({ids[0]!r}, …) are"
