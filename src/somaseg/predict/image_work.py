"""What is done with each image that is predicted, and how several are done at once."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from somaseg.data.formats.results import result_entries
from somaseg.data.tables import csv_text
from somaseg.data.types import Sample
from somaseg.files import file_name, remove_folder
from somaseg.folders import LABELS, OVERLAYS
from somaseg.masks.parallel import available_workers
from somaseg.predict.bands import known_levels
from somaseg.predict.pictures import write_label_image, write_overlay
from somaseg.predict.results import image_paths, table_head, write_more
from somaseg.predict.segmenter import Segmenter
from somaseg.predict.shards import Shards, fingerprint_of, place_of_rows

LARGE = 4096 * 4096
"""Images of more pixels are predicted and written in bounded memory."""

Tell = Callable[[str, int, int], None]
"""Called as ``tell(image id, tiles done, tiles in all)`` for large images."""


def output_paths(out: Path, sample: Sample, large: int = LARGE) -> tuple[Path, Path]:
    """Label image and overlay of an image; whatever it is called, they are in ``out``."""
    name = file_name(sample.id)
    ending = ".tif" if sample.size[0] * sample.size[1] > large else ".png"
    return out / LABELS / f"{name}.tif", out / OVERLAYS / f"{name}{ending}"


class ImageWork:
    """What is done with an image: read, segmented, written, noted as finished.

    Args:
        segmenter: the model and its settings.
        shards: where it is noted.
        samples: all images of the folder.
        out, overlays, large, tell, more, pixel_size: as for
            :func:`somaseg.predict.outputs.segment_samples`.

    Attributes:
        samples: the images, with the pixel size that counts.
        head: first line of the table of cells.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        shards: Shards,
        samples: Sequence[Sample],
        out: Path,
        overlays: bool = True,
        large: int = LARGE,
        tell: Tell | None = None,
        more: Collection[str] = (),
        pixel_size: float | None = None,
    ) -> None:
        self.segmenter, self.shards = segmenter, shards
        self.out, self.overlays, self.large, self.tell = out, overlays, large, tell
        if pixel_size is not None:
            samples = [replace(sample, pixel_size=pixel_size) for sample in samples]
        self.samples, self.more = list(samples), more
        # Of one channel the table says "intensity", whatever it is called.
        self.channels = segmenter.channels if len(segmenter.channels) > 1 else ()
        sized = any(sample.pixel_size is not None for sample in samples)
        self.head = table_head(sized, self.channels)
        self.keys: dict[str, str] = {}
        self.slots: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self.alone = threading.Lock()  # one large image at a time: each takes memory
        self.stopped = threading.Event()
        self._model = segmenter.fingerprint()
        self._measured = not {"cells", "geojson", "ome-tiff", "ome-zarr"}.isdisjoint(more)

    def stands(self, sample: Sample) -> bool:
        """Whether an image's results are all there, of the same file, model and options."""
        # Measurements that stand must be the same ones.
        measured = self.head + repr(sample.pixel_size) if self._measured else ""
        key = self.keys[sample.id] = fingerprint_of(self._model + measured, sample)
        paths = [*output_paths(self.out, sample, self.large)[: 1 + self.overlays]]
        paths += image_paths(self.out, sample, self.more).values()
        return self.shards.has(sample.id, key) and all(path.exists() for path in paths)

    def __call__(self, sample: Sample) -> None:
        """Do an image; called from several threads."""
        is_large = sample.size[0] * sample.size[1] > self.large
        image = sample.image(mapped=is_large)
        if not is_large:
            with self.slots:
                bands = self.segmenter.bands(image)
            self._write(sample, image, bands)
            return
        folder, stamp = place_of_rows(self.out, sample)
        with self.alone:
            levels = known_levels(folder, stamp) or self.segmenter.predictor.levels(
                image, str(sample.image_path)
            )
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
        table = write_more(self.out, sample, image, bands, self.more, self.head, self.channels)
        results = (entry for part in bands for entry in result_entries(part, sample.id))
        rows = (csv_text((sample.id, runs), ()) for part in bands for runs in part.to_runs())
        empty = iter([csv_text((sample.id, ""), ())]) if not len(bands) else rows
        self.shards.add(sample.id, self.keys[sample.id], results, empty, [table], bands.diameter)

    def _progress(self, name: str, done: int, total: int) -> None:
        if self.stopped.is_set():
            raise KeyboardInterrupt
        if self.tell:
            self.tell(name, done, total)


def for_each(
    one: Callable[[Sample], None], todo: Sequence[Sample], work: ImageWork, workers: int | None
) -> None:
    """Do the images with some threads; the kernels and the network let go of the interpreter.

    Args:
        one: does one.
        todo: the images.
        work: what ``one`` does.
        workers: images that are segmented at once; by default as many as there are cores.
    """
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
