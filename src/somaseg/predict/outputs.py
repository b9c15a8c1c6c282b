"""Segment images and write the results in every format that a user may want next."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from somaseg.data.formats.results import write_results
from somaseg.data.formats.submission import write_submission
from somaseg.data.predicted import image_entry
from somaseg.data.types import Sample
from somaseg.errors import SomasegError
from somaseg.files import (
    CannotWrite,
    check_apart,
    file_name,
    remove_folder,
    write_json,
)
from somaseg.folders import IMAGES, LABELS, RESULTS, SUBMISSION, kind_of
from somaseg.instances import Instances
from somaseg.predict.bands import Bands
from somaseg.predict.image_work import LARGE, ImageWork, Tell, for_each, output_paths
from somaseg.predict.pictures import write_label_image
from somaseg.predict.results import (
    check_more,
    image_paths,
    table_paths,
    write_page,
)
from somaseg.predict.segmenter import Segmenter
from somaseg.predict.shards import WORK, Shards, shard_name


@dataclass(frozen=True)
class Segmented:
    """What was found.

    Attributes:
        cells: number of cells by image id, in the order of the images.
        failed: why an image was left out, by id.
        done: ids of the images that this call has predicted; of the others the results stood.
        diameters: of the cells in pixels, by image id, that images were scaled by, if they were.
    """

    cells: dict[str, int]
    failed: dict[str, str]
    done: tuple[str, ...]
    diameters: dict[str, float]

    @property
    def total(self) -> int:
        """Cells of all images."""
        return sum(self.cells.values())


def check_outputs(
    samples: Sequence[Sample],
    out: str | Path,
    overlays: bool = True,
    sources: Iterable[Path] = (),
    large: int = LARGE,
    more: Collection[str] = (),
    pixel_size: float | None = None,
) -> None:
    """Refuse, before anything is predicted, results that would go over somebody's files.

    Args:
        samples: the images that will be predicted.
        out: folder for the results of :func:`segment_samples`.
        overlays: whether there will be overlays.
        sources: further files that are read, such as the annotations.
        large: images of more pixels are large.
        more: as for :func:`segment_samples`.
        pixel_size: as `more`.

    Raises:
        SomasegError: a result that cannot be made, or would be written over what is read, or over a
            file that is there already and was not written by this program.
    """
    out = Path(out)
    check_more(samples, more, pixel_size)
    images = [sample.image_path for sample in samples if sample.image_path is not None]
    results = [out / RESULTS, out / SUBMISSION, out / IMAGES, *table_paths(out, more).values()]
    for sample in samples:
        results += output_paths(out, sample, large)[: 1 + overlays]
        results += image_paths(out, sample, more).values()
    check_apart([*images, *sources], [*results, out / WORK])
    # Folders of before 0.2 bear no mark.
    if not (out / WORK).is_dir() and kind_of(out) != "masks":
        for path in results:
            if path.exists():
                raise SomasegError(
                    f"{path}: is there already, and `somaseg predict` did not write it; give "
                    "another --out"
                )


def segment_samples(
    segmenter: Segmenter,
    samples: Iterable[Sample],
    out: str | Path,
    overlays: bool = True,
    large: int = LARGE,
    tell: Tell | None = None,
    done: Callable[[str], None] | None = None,
    workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    more: Collection[str] = (),
    pixel_size: float | None = None,
    chosen: Collection[str] | None = None,
) -> Segmented:
    """Segment images; each one's results are on the disk when it is done, the tables at the end.

    Memory does not grow with the number of images, nor with the size of large ones. Images whose
    results stand, of the same file, model and options, are not done again; of a large one neither
    are finished rows of tiles. An image that cannot be read is left out, and the rest goes on.

    Args:
        segmenter: the model and its settings.
        samples: the images; ids differ.
        out: folder for ``labels/ID.tif``, ``overlays/ID.png`` (``ID.tif`` of large images),
            ``predictions.json`` (COCO results with scores), ``submission.csv`` (id, predicted) and
            ``images.json`` (the files of the images).
        overlays: whether to draw the outlines over the images.
        large: images of more pixels are large: they never lie in memory whole.
        tell: told of each tile of a large image.
        done: told of each image that is done.
        workers: images that are segmented at once; by default as many as there are cores. One more
            is read or written meanwhile.
        shard: (k, n): do every n-th image only, from the k-th, and leave the tables to a call
            without it.
        more: some of :data:`somaseg.predict.results.MORE`: ``cells.csv`` (see
            :func:`somaseg.data.measure.measure`), ``rois/ID.zip``, ``geojson/ID.geojson``,
            ``report.html``.
        pixel_size: side of a pixel in µm, for the table; without, what the images' files say.
        chosen: ids of the images that are dealt to the shards; without, all.

    Raises:
        SomasegError: results would go over somebody's files, or cannot be written.
    """
    out, samples = Path(out), list(samples)
    k, n = shard
    mine = [s for s in samples if chosen is None or s.id in chosen][k - 1 :: n]
    check_outputs(mine, out, overlays, (), large, more, pixel_size)
    shards = Shards(out, shard_name(shard))
    failed: dict[str, str] = {}
    todo = []
    work = ImageWork(segmenter, shards, samples, out, overlays, large, tell, more, pixel_size)
    samples, head = work.samples, work.head
    known = {sample.id: sample for sample in samples}
    for sample in (known[one.id] for one in mine):
        if work.stands(sample):
            if done:
                done(sample.id)
        else:
            todo.append(sample)

    def one(sample: Sample) -> None:
        try:
            work(sample)
        except CannotWrite:
            raise
        except SomasegError as error:
            failed[sample.id] = str(error)
        if done:
            done(sample.id)

    for_each(one, todo, work, workers)
    names = [s.id for s in samples if s.id in shards.finished and s.id not in failed]
    if n == 1:
        tables = table_paths(out, more)
        shards.join(names, out / RESULTS, out / SUBMISSION, tables.get("cells"), head)
        write_json(
            out / IMAGES,
            {s.id: image_entry(s) for s in samples if s.image_path and s.id in names},
        )
        if "page" in tables:
            drawn = [sample for sample in samples if sample.id in names]
            title = f"Cells in {out.resolve().name}"
            write_page(tables["page"], drawn, shards, segmenter.names, title)
        remove_folder(out / WORK / "tiles")
    return Segmented(
        {name: shards.finished[name][1].cells for name in names},
        failed,
        tuple(sample.id for sample in todo if sample.id not in failed),
        {
            name: diameter
            for name in names
            if (diameter := shards.finished[name][1].diameter) is not None
        },
    )


def unfinished(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    out: str | Path,
    overlays: bool = True,
    large: int = LARGE,
    more: Collection[str] = (),
    pixel_size: float | None = None,
) -> list[str]:
    """Ids of the images whose results do not stand; args as for :func:`segment_samples`."""
    out = Path(out)
    shards = Shards(out)
    work = ImageWork(segmenter, shards, samples, out, overlays, large, None, more, pixel_size)
    return [sample.id for sample in work.samples if not work.stands(sample)]


def write(out: str | Path, found: Mapping[str, Instances]) -> None:
    """Write what was found as `somaseg predict` does, but for the overlays.

    Args:
        out: folder for ``labels/ID.tif``, ``predictions.json`` and ``submission.csv``.
        found: hard instances that share no pixel, by image id.

    Raises:
        SomasegError: soft or overlapping instances, or files that this program did not write.
    """
    out = Path(out)
    check_outputs([Sample(name, cells.size) for name, cells in found.items()], out, overlays=False)
    write_submission(out / SUBMISSION, found)
    for name, cells in found.items():
        bands = Bands(cells.size, [cells])
        write_label_image(out / LABELS / f"{file_name(name)}.tif", bands)
    write_results(out / RESULTS, found)
