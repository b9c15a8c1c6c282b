"""The images that a user names: files, folders, data sets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from somaseg.data.axes import Choice
from somaseg.data.images import IMAGE_SUFFIXES, is_image, list_images
from somaseg.data.load import read_dataset
from somaseg.data.types import Sample
from somaseg.errors import SomasegError


@dataclass(frozen=True)
class Sources:
    """What there is to predict.

    Attributes:
        samples: the images; their ids differ.
        sources: the files that they were read from, as given and as found.
        left_out: images that cannot be predicted, and why, one line each.
        ignored: what else lies in the folders, one line each.
        notes: what is odd with images that are predicted, one line each.
    """

    samples: list[Sample]
    sources: list[Path]
    left_out: list[str]
    ignored: list[str]
    notes: list[str]


def gather(paths: Sequence[Path], choice: Choice | None = None) -> Sources:
    """Read what is named; what cannot be read is left out, unless nothing is left then.

    Args:
        paths: files, folders, data sets.
        choice: what of stacks is wanted.

    Raises:
        SomasegError: two images of one name, or no image at all.
    """
    samples: dict[str, Sample] = {}
    sources, left_out, ignored, notes = list(paths), [], [], []
    for path in paths:
        try:
            reading = read_dataset(path, choice=choice)
        except SomasegError as error:
            if len(paths) == 1:
                raise
            left_out.append(str(error))
            continue
        sources += set(reading.files.values())
        here = {sample.id for sample in reading.dataset}
        # Faults of annotations do not matter here.
        left_out += [
            str(fault)
            for fault in reading.faults.errors
            if fault.image not in here or fault.kind == "ambiguous image"
        ]
        notes += [str(fault) for fault in reading.faults if fault.kind == "no pixel size"]
        for sample in reading.dataset:
            if sample.id in samples:
                raise SomasegError(
                    f"{sample.image_path} and {samples[sample.id].image_path}: "
                    f"both are called {sample.id!r}; predict them into different folders"
                )
            samples[sample.id] = sample
        folders = {s.image_path.parent for s in reading.dataset if s.image_path is not None}
        if path.is_dir() and not is_image(path) and folders == {path}:
            out, others = _beside(path)
            left_out += [line for line in out if line not in left_out]
            ignored += others
    if not samples:
        shown = "; ".join(left_out[:5])
        raise SomasegError(f"no image that can be predicted: {shown}")
    return Sources(list(samples.values()), sources, left_out, ignored, notes)


def _beside(folder: Path) -> tuple[list[str], list[str]]:
    """Images in a folder that are none, and what is not looked at: folders, other endings."""
    images = set(list_images(folder))
    broken, folders = [], []
    endings: Counter[str] = Counter()
    for path in sorted(folder.iterdir()):
        if path in images or path.name.startswith("."):
            continue
        if path.is_dir():
            folders.append(path.name)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            what = "a link to a file that is not there" if path.is_symlink() else "not a file"
            broken.append(f"{path}: {what}")
        else:
            endings[path.suffix or "no ending"] += 1
    ignored = [f"{folder / name}: a folder within the folder; name it, too" for name in folders]
    ignored += [f"{folder}: {count} files of {ending}" for ending, count in endings.items()]
    return broken, ignored
