"""Segment images and write the results in every format that a user may want next."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from somaseg.data.formats.label_files import write_labels
from somaseg.data.formats.results import write_results
from somaseg.data.formats.submission import write_submission
from somaseg.data.types import Sample
from somaseg.data.windows import find_levels
from somaseg.files import check_apart, file_name, own_folder, remove_folder
from somaseg.instances import Instances
from somaseg.predict.large import Bands
from somaseg.predict.large_outputs import write_large_labels, write_large_overlay
from somaseg.predict.segmenter import Segmenter
from somaseg.report.overlays import overlay, write_png

LARGE = 4096 * 4096
"""Images of more pixels are predicted and written in bounded memory."""

TILES = ".tiles"
"""Folder in ``out`` for what is found of large images on the way."""

Tell = Callable[[str, int, int], None]
"""Called as ``tell(image id, tiles done, tiles in all)`` for large images."""


@dataclass(frozen=True)
class Segmented:
    """What was found.

    Attributes:
        cells: final instances by image id, of all images but large ones.
        large: number of cells by image id, of large images.
    """

    cells: dict[str, Instances]
    large: dict[str, int]

    @property
    def total(self) -> int:
        """Cells of all images."""
        return sum(map(len, self.cells.values())) + sum(self.large.values())


def output_paths(out: Path, sample: Sample, large: int = LARGE) -> tuple[Path, Path]:
    """Label image and overlay of an image; whatever it is called, they are in ``out``."""
    name = file_name(sample.id)
    ending = ".tif" if sample.size[0] * sample.size[1] > large else ".png"
    return out / "labels" / f"{name}.tif", out / "overlays" / f"{name}{ending}"


def check_outputs(samples: Iterable[Sample], out: str | Path, sources: Iterable[Path] = ()) -> None:
    """Refuse, before anything is predicted, results that would be written over what is read.

    Args:
        samples: the images that will be predicted.
        out: folder for the results of :func:`segment_samples`.
        sources: further files that are read, such as the annotations.

    Raises:
        SomasegError: names the result and what it would be written over.
    """
    out, samples = Path(out), list(samples)
    images = [sample.image_path for sample in samples if sample.image_path is not None]
    results = [path for sample in samples for path in output_paths(out, sample)]
    tables = [out / "predictions.json", out / "submission.csv", out / TILES]
    check_apart([*images, *sources], [*results, *tables])


def segment_samples(
    segmenter: Segmenter,
    samples: Iterable[Sample],
    out: str | Path,
    overlays: bool = True,
    large: int = LARGE,
    tell: Tell | None = None,
) -> Segmented:
    """Segment images; write each one's results as it is done, the tables at the end.

    Large images never lie in memory whole. What is found of them is kept in ``out/.tiles`` until
    all images are done: a killed prediction goes on after the last finished row of tiles.

    Args:
        segmenter: the model and its settings.
        samples: images, read one at a time; wrap them to show progress.
        out: folder for ``labels/ID.tif``, ``overlays/ID.png`` (``ID.tif`` of large images),
            ``predictions.json`` (COCO results with scores) and ``submission.csv`` (id, predicted;
            without large images, which no competition asks for).
        overlays: whether to draw the outlines over the images.
        large: images of more pixels are large.
        tell: told of each tile of a large image.

    Raises:
        SomasegError: an image cannot be read, or a file not written.
    """
    out = Path(out)
    found: dict[str, Instances | Bands] = {}
    for sample in samples:
        labels, drawn = output_paths(out, sample, large)
        check_apart([sample.image_path] if sample.image_path else [], [labels, drawn])
        if sample.size[0] * sample.size[1] > large:
            found[sample.id] = _segment_large(segmenter, sample, out, overlays, tell)
            continue
        image = sample.image()
        cells = found[sample.id] = segmenter(image)
        write_labels(labels, cells.to_labels())
        if overlays:
            write_png(drawn, overlay(image, cells, fill=0.15))
    small = {name: cells for name, cells in found.items() if isinstance(cells, Instances)}
    write_results(out / "predictions.json", found)
    if small or not found:
        write_submission(out / "submission.csv", small)
    remove_folder(out / TILES)
    return Segmented(small, {name: len(x) for name, x in found.items() if isinstance(x, Bands)})


def _segment_large(
    segmenter: Segmenter, sample: Sample, out: Path, overlays: bool, tell: Tell | None
) -> Bands:
    """Segment one image in bounded memory and write its pictures."""
    image, path = sample.image(mapped=True), sample.image_path
    assert path is not None
    levels = find_levels(image, name=str(path))
    state = path.stat()
    bands = segmenter.large(
        image,
        own_folder(out / TILES) / file_name(sample.id),
        levels,
        [str(path.resolve()), state.st_size, state.st_mtime_ns],
        (lambda done, total: tell(sample.id, done, total)) if tell else None,
    )
    labels, drawn = output_paths(out, sample, 0)
    write_large_labels(labels, bands)
    if overlays:
        write_large_overlay(drawn, image, bands, levels)
    return bands
