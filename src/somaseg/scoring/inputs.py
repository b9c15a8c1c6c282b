"""Read what is to be scored: truth and predictions, each in any format that somaseg knows."""

from collections.abc import Mapping
from pathlib import Path

from somaseg.data.axes import Choice
from somaseg.data.faults import Faults
from somaseg.data.formats.results import RESULTS_NAME, is_results_file, read_results, unknown_images
from somaseg.data.load import detect, read_dataset
from somaseg.data.reading import Reading
from somaseg.data.types import ONE_CLASS, Dataset, Sample
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.pieces import count_pieces
from somaseg.scoring.comparison import not_in_truth

Sizes = Mapping[str, tuple[int, int]]

#: Broken annotations have a few pieces a cell; gray values of a photograph have hundreds.
_SCATTERED = 20


def read_truth(
    path: str | Path,
    predictions: str | Path | None = None,
    left_out: Faults | None = None,
    choice: Choice | None = None,
) -> Dataset:
    """Load what predictions are held against; images need not be at hand.

    Args:
        path: a data set, a folder of label images, COCO results, or a submission.
        predictions: where the sizes of the images are looked up, if ``path`` is a table of runs
            that does not have them.
        left_out: takes what is wrong; faulty rows and images are then left out.
        choice: what of stacks is wanted, if the images are.

    Raises:
        SomasegError: nothing readable, faulty, or sizes are nowhere to be found.
    """
    path = _file_meant(Path(path))
    if is_results_file(path):
        return _as_dataset(read_results(path, left_out=left_out), str(path))
    reading = _read(path, choice=choice)
    if predictions is not None and any(f.kind == "unknown size" for f in reading.faults):
        predictions = _file_meant(Path(predictions))
        if not is_results_file(predictions):
            sizes = {sample.id: sample.size for sample in _read(predictions).dataset}
        else:
            sizes = {name: found.size for name, found in read_results(predictions).items()}
        reading = _read(path, sizes, choice)
    if any(fault.kind == "unknown size" for fault in reading.faults):
        raise SomasegError(
            f"{path}: says nowhere how large its images are, nor do the predictions; add the "
            "columns width and height, or put the images beside it"
        )
    dataset = _sound(reading, left_out)
    if not len(dataset):
        raise SomasegError(f"{path}: nothing sound in it; `somaseg data check` tells more")
    return dataset


def is_results(path: str | Path) -> bool:
    """Whether a file, or what is meant of a folder, is a list of COCO results."""
    return is_results_file(_file_meant(Path(path)))


def read_predictions(
    path: str | Path,
    truth: Dataset,
    ignore_unknown: bool = False,
    left_out: Faults | None = None,
) -> dict[str, Instances]:
    """Load the predictions for the images of ``truth``, by image id.

    Args:
        path: COCO results (also in a folder that ``somaseg predict`` wrote), a submission, a
            folder of label images, or any data set.
        truth: gives ids, class names, and sizes where the file has none.
        ignore_unknown: leave out what is predicted for images that ``truth`` does not have.
        left_out: takes what is wrong; faulty entries and images are then left out.

    Returns:
        instances of the images that the file speaks of; an image of ``truth`` may be missing.

    Raises:
        SomasegError: nothing readable or faulty; an image that ``truth`` does not have.
    """
    path = _file_meant(Path(path))
    if is_results_file(path):
        if not ignore_unknown and (unknown := unknown_images(path, truth)):
            raise not_in_truth(unknown, str(path), truth.source)
        results = read_results(path, truth, ignore_unknown, left_out)
        # The list cannot say "nothing found". Where there is something to find, it is worth a word.
        return {
            name: found
            for name, found in results.items()
            if len(found) or not len(truth[name].instances or ())
        }
    reading = _read(path, {sample.id: sample.size for sample in truth})
    # A submission does not say how large an unknown image is: that it is unknown is the fault.
    strangers = {
        fault.image for fault in reading.faults.errors if fault.image and fault.image not in truth
    }
    if strangers and not ignore_unknown:
        raise not_in_truth(sorted(strangers), str(path), truth.source)
    reading.faults.found[:] = [f for f in reading.faults.found if f.image not in strangers]
    found = {
        sample.id: sample.instances
        for sample in _sound(reading, left_out)
        if sample.instances is not None and (sample.id in truth or not ignore_unknown)
    }
    if reading.dataset.names == (ONE_CLASS,) and ONE_CLASS not in truth.names:
        # The readers' word for "nobody said which class".
        found = {name: instances.with_classes(-1, ()) for name, instances in found.items()}
    return found


def _sound(reading: Reading, left_out: Faults | None) -> Dataset:
    if left_out is None:
        reading.faults.raise_errors()
        return reading.dataset
    left_out.found += reading.faults.errors
    return reading.sound()


def _file_meant(path: Path) -> Path:
    """Return the COCO results in a folder that ``somaseg predict`` wrote, else ``path``."""
    return path / RESULTS_NAME if (path / RESULTS_NAME).is_file() else path


def _read(path: Path, sizes: Sizes | None = None, choice: Choice | None = None) -> Reading:
    if path.is_dir() and detect(path)[0].name == "images":
        # Where instances are expected, a folder of nothing but images holds label images.
        reading = read_dataset(path, "labels", need_images=False)
        for sample in reading.dataset:
            _refuse_photograph(path, sample)
        return reading
    return read_dataset(path, need_images=False, sizes=sizes, choice=choice)


def _refuse_photograph(path: Path, sample: Sample) -> None:
    """Taken for a label image, a photograph is gray values scattered all over."""
    pieces = count_pieces(*sample.annotated().flat)
    if len(pieces) and pieces.mean() > _SCATTERED:
        raise SomasegError(
            f"{path}: image {sample.id!r} looks like a photograph, not like a label image (each "
            f"value occurs in {pieces.mean():.0f} places on average); give the folder of masks"
        )


def _as_dataset(results: Mapping[str, Instances], source: str) -> Dataset:
    if not results:
        raise SomasegError(f"{source}: an empty list of results; there is nothing to score against")
    names = next(iter(results.values())).names
    samples = tuple(Sample(name, found.size, instances=found) for name, found in results.items())
    return Dataset(samples, names, source)
