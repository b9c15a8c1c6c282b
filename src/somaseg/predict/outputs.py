"""Segment images and write the results in every format that a user may want next."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from somaseg.data.formats.results import result_entries, write_results
from somaseg.data.formats.submission import write_submission
from somaseg.data.predicted import image_entry
from somaseg.data.state import file_state
from somaseg.data.tables import csv_text
from somaseg.data.types import Sample
from somaseg.data.windows import find_levels
from somaseg.errors import SomasegError
from somaseg.files import (
    CannotWrite,
    check_apart,
    file_name,
    own_folder,
    remove_folder,
    write_json,
)
from somaseg.folders import IMAGES, LABELS, OVERLAYS, RESULTS, SUBMISSION, kind_of
from somaseg.instances import Instances
from somaseg.masks.parallel import available_workers
from somaseg.predict.bands import Bands
from somaseg.predict.pictures import write_label_image, write_overlay
from somaseg.predict.results import (
    check_more,
    image_paths,
    table_head,
    table_paths,
    write_more,
    write_page,
)
from somaseg.predict.segmenter import Segmenter
from somaseg.predict.shards import WORK, Shards, fingerprint_of, shard_name

LARGE = 4096 * 4096
"""Images of more pixels are predicted and written in bounded memory."""

Tell = Callable[[str, int, int], None]
"""Called as ``tell(image id, tiles done, tiles in all)`` for large images."""


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


def output_paths(out: Path, sample: Sample, large: int = LARGE) -> tuple[Path, Path]:
    """Label image and overlay of an image; whatever it is called, they are in ``out``."""
    name = file_name(sample.id)
    ending = ".tif" if sample.size[0] * sample.size[1] > large else ".png"
    return out / LABELS / f"{name}.tif", out / OVERLAYS / f"{name}{ending}"


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

    Raises:
        SomasegError: results would go over somebody's files, or cannot be written.
    """
    out, samples = Path(out), list(samples)
    k, n = shard
    check_outputs(samples[k - 1 :: n], out, overlays, (), large, more, pixel_size)
    shards = Shards(out, shard_name(shard))
    model = segmenter.fingerprint()
    if pixel_size is not None:
        samples = [replace(sample, pixel_size=pixel_size) for sample in samples]
    head = table_head(any(sample.pixel_size is not None for sample in samples))
    measured = not {"cells", "geojson", "ome-tiff", "ome-zarr"}.isdisjoint(more)
    keys: dict[str, str] = {}
    failed: dict[str, str] = {}
    todo = []
    work = _Work(segmenter, shards, keys, out, overlays, large, tell, more, head)
    for sample in samples[k - 1 :: n]:
        # Measurements that stand must be the same ones.
        facts = model + head + repr(sample.pixel_size) if measured else model
        keys[sample.id] = fingerprint_of(facts, sample)
        if _stands(sample, work):
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

    _for_each(one, todo, work, workers)
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


class _Work:
    """What is done with an image: read, segmented, written, noted as finished."""

    def __init__(
        self,
        segmenter: Segmenter,
        shards: Shards,
        keys: dict[str, str],
        out: Path,
        overlays: bool,
        large: int,
        tell: Tell | None,
        more: Collection[str],
        head: str,
    ) -> None:
        self.segmenter, self.shards, self.keys = segmenter, shards, keys
        self.out, self.overlays, self.large, self.tell = out, overlays, large, tell
        self.more, self.head = more, head
        self.slots: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self.alone = threading.Lock()  # one large image at a time: each takes memory
        self.stopped = threading.Event()

    def __call__(self, sample: Sample) -> None:
        is_large = sample.size[0] * sample.size[1] > self.large
        image = sample.image(mapped=is_large)
        if not is_large:
            with self.slots:
                bands = self.segmenter.bands(image)
            self._write(sample, image, bands)
            return
        path = sample.image_path
        assert path is not None
        folder = own_folder(self.out / WORK / "tiles") / file_name(sample.id)
        with self.alone:
            levels = find_levels(image, name=str(path))
            stamp = [str(path.resolve()), *file_state(path), image_entry(sample)]
            with self.slots:
                bands = self.segmenter.bands(
                    image, folder, levels, stamp, lambda *x: self._progress(sample.id, *x)
                )
            self._write(sample, image, bands)
        remove_folder(folder)

    def _write(self, sample: Sample, image: Any, bands: Any) -> None:
        labels, drawn = output_paths(self.out, sample, self.large)
        write_label_image(labels, bands)
        if self.overlays:
            write_overlay(drawn, image, bands)
        table = write_more(self.out, sample, image, bands, self.more, self.head)
        results = (entry for part in bands for entry in result_entries(part, sample.id))
        rows = (csv_text((sample.id, runs), ()) for part in bands for runs in part.to_runs())
        empty = iter([csv_text((sample.id, ""), ())]) if not len(bands) else rows
        self.shards.add(sample.id, self.keys[sample.id], results, empty, [table], bands.diameter)

    def _progress(self, name: str, done: int, total: int) -> None:
        if self.stopped.is_set():
            raise KeyboardInterrupt
        if self.tell:
            self.tell(name, done, total)


def _for_each(
    one: Callable[[Sample], None], todo: Sequence[Sample], work: _Work, workers: int | None
) -> None:
    """Do the images with some threads; the kernels and the network let go of the interpreter."""
    workers = min(workers or available_workers(), len(todo))
    if workers <= 1 and len(todo) <= 1:
        for sample in todo:
            one(sample)
        return
    work.slots = threading.Semaphore(workers)
    pending: set[Future[None]] = set()
    with _threads_of_networks(workers), ThreadPoolExecutor(workers + 1) as pool:
        try:
            for sample in todo:
                if len(pending) > workers:
                    finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in finished:
                        future.result()
                pending.add(pool.submit(one, sample))
            for future in pending:
                future.result()
        except BaseException:
            # Small images that are being done are finished: seconds of work that would be lost.
            work.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextlib.contextmanager
def _threads_of_networks(workers: int) -> Iterator[None]:
    """Share the cores out to the networks that run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stands(sample: Sample, work: _Work) -> bool:
    """Whether an image's results are all there, of the same file, model and options."""
    if not work.shards.has(sample.id, work.keys[sample.id]):
        return False
    paths = [*output_paths(work.out, sample, work.large)[: 1 + work.overlays]]
    paths += image_paths(work.out, sample, work.more).values()
    return all(path.exists() for path in paths)
