"""Segment images and write the results in every format that a user may want next."""

from collections.abc import Iterable
from pathlib import Path

from somaseg.data.types import Sample
from somaseg.export.coco import write_results
from somaseg.export.competition import write_submission
from somaseg.export.labels import write_labels
from somaseg.inference.segmenter import Segmenter
from somaseg.instances import Instances
from somaseg.report.overlays import overlay, write_png


def segment_samples(
    segmenter: Segmenter, samples: Iterable[Sample], out: str | Path, overlays: bool = True
) -> dict[str, Instances]:
    """Segment images; write each one's results as it is done, the tables at the end.

    Args:
        segmenter: the model and its settings.
        samples: images, read one at a time; wrap them to show progress.
        out: folder for ``labels/ID.tif``, ``overlays/ID.png``, ``predictions.json`` (COCO results
            with scores) and ``submission.csv`` (id, predicted).
        overlays: whether to draw the outlines over the images.

    Returns:
        final instances by image id.

    Raises:
        SomasegError: an image cannot be read, or a file not written.
    """
    out = Path(out)
    found: dict[str, Instances] = {}
    for sample in samples:
        image = sample.image()
        cells = segmenter(image)
        found[sample.id] = cells
        write_labels(out / "labels" / f"{sample.id}.tif", cells.to_labels())
        if overlays:
            write_png(out / "overlays" / f"{sample.id}.png", overlay(image, cells, fill=0.15))
    write_results(out / "predictions.json", found)
    write_submission(out / "submission.csv", found)
    return found
