"""Prepared training images: in memory while they are few, else in files that are mapped.

Folds and processes of a run share the files: what one has prepared, the others find by its
fingerprint. So the memory of a training does not grow with the number of its images.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from somaseg.data.state import file_state
from somaseg.data.types import Sample
from somaseg.files import CannotWrite, atomic_path, own_folder

HELD = 1 << 29
"""Bytes of prepared images that a training keeps in memory; more go into files."""
PREPARED = "prepared"
"""Folder of these files in a run's; removed when its trainings are done."""
_VERSION = 1  # of what the files hold


@dataclass(frozen=True)
class Prepared:
    """An image ready to be cut.

    Attributes:
        image: float32 (h, w); of several channels (c, h, w).
        planes: float32 (k, h, w), label numbers, as they are warped.
        classes: int16 (n,), of each cell.
        centres: float64 (n, 2), x and y of the middle of each cell's box.
    """

    image: npt.NDArray[np.float32]
    planes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int16]
    centres: npt.NDArray[np.float64]


class PreparedImages(Sequence[Prepared]):
    """The images of a training, prepared once.

    Args:
        samples: annotated images.
        prepare: gives channels and label planes, float32 (channels + k, h, w).
        folder: for the files; made and marked when it is needed. None keeps all in memory.
        key: tells ways of preparing apart.
        channels: of an image.

    Raises:
        CannotWrite: the folder's disk has no room for the files.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        prepare: Callable[[Sample], npt.NDArray[np.float32]],
        folder: Path | None = None,
        key: str = "",
        channels: int = 1,
    ) -> None:
        self._samples, self._channels = samples, channels
        each = 4 * (channels + 1)  # bytes of a pixel, with one plane of labels
        needed = sum(each * sample.size[0] * sample.size[1] for sample in samples)
        self._held = (
            [prepare(sample) for sample in samples] if folder is None or needed <= HELD else None
        )
        self._paths: list[Path] = []
        if self._held is not None or folder is None:
            return
        own_folder(folder)
        self._paths = [folder / f"{_fingerprint(sample, key)}.npy" for sample in samples]
        todo = [i for i, path in enumerate(self._paths) if not path.exists()]
        needed = sum(each * samples[i].size[0] * samples[i].size[1] for i in todo)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise CannotWrite(
                f"{folder}: the prepared images need {needed >> 20} MB, {free >> 20} are free; "
                "free some space or choose another --out"
            )
        for i in todo:
            with atomic_path(self._paths[i]) as temporary:
                np.save(temporary, prepare(samples[i]))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i: int) -> Prepared:  # type: ignore[override]
        instances = self._samples[i].annotated()
        boxes = instances.boxes.astype(np.float64)
        centres = np.column_stack([boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]]) / 2
        if self._held is not None:
            stack = self._held[i]
        else:
            stack = np.asarray(np.load(self._paths[i], mmap_mode="r"))
        c = self._channels
        return Prepared(stack[0] if c == 1 else stack[:c], stack[c:], instances.classes, centres)


def _fingerprint(sample: Sample, key: str) -> str:
    instances = sample.annotated()
    path = sample.image_path
    state = file_state(path) if path is not None else None
    facts = (_VERSION, key, str(path), state, sample.size, sample.plane)
    digest = sha256(repr(facts).encode("utf-8", "surrogatepass"))
    for array in (instances.boxes, instances.pixels):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:32]
