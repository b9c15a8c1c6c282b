"""The plugin's widget: which image, which model, segment, cancel, keep."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from magicgui.types import FileDialogMode
from magicgui.widgets import (
    ComboBox,
    Container,
    FileEdit,
    Label,
    LineEdit,
    ProgressBar,
    PushButton,
)
from napari.layers import Image, Labels
from napari.qt.threading import thread_worker
from napari.utils.notifications import show_error

from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.napari_plugin.layers import add_to_dataset, features_of, plane_on_show


class _Stopped(Exception):
    """The user has cancelled."""


class SegmentWidget(Container):
    """Segment the image on show, and keep it with its corrected labels in a data set.

    Args:
        viewer: napari's, or its model without a window.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.viewer = viewer
        self.image = ComboBox(label="image", choices=self._image_layers)
        self.cells = ComboBox(label="cells", choices=self._cell_layers)
        self.model = LineEdit(
            label="model",
            tooltip="A run's folder or a model file; empty for the one that comes with somaseg "
            "(neuronal cells in phase contrast).",
        )
        self.diameter = LineEdit(
            label="diameter", tooltip="Of the cells in pixels, or auto; empty for the model's."
        )
        self.start = PushButton(text="Segment")
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.progress = ProgressBar(value=0, max=1)
        self.folder = FileEdit(label="data set", mode=FileDialogMode.EXISTING_DIRECTORY)
        self.save = PushButton(text="Save image and cells")
        self.said = Label(value="")
        self.extend(
            [
                self.image,
                self.model,
                self.diameter,
                self.start,
                self.cancel,
                self.progress,
                self.cells,
                self.folder,
                self.save,
                self.said,
            ]
        )
        self.start.changed.connect(self.segment)
        self.cancel.changed.connect(self.stop)
        self.save.changed.connect(self.keep)
        viewer.layers.events.inserted.connect(self._reset)
        viewer.layers.events.removed.connect(self._reset)
        self._stopped = threading.Event()
        self.worker: Any = None

    def segment(self) -> None:
        """Segment the plane on show, in a thread; the cells become a layer."""
        layer = self.image.value
        if layer is None or self.worker is not None:
            return
        plane = plane_on_show(layer, self.viewer.dims.current_step)
        self._stopped.clear()
        self.progress.value = 0
        self.cancel.enabled, self.start.enabled = True, False
        self.said.value = "segmenting …"
        self.worker = self._work(plane, self.model.value or None, self.diameter.value or None)
        self.worker.yielded.connect(self._tell)
        self.worker.returned.connect(lambda cells: self._show(layer, cells))
        self.worker.errored.connect(self._failed)
        self.worker.finished.connect(self._end)
        self.worker.start()

    def stop(self) -> None:
        """Stop at the next tile."""
        self._stopped.set()

    def keep(self) -> None:
        """Add the image on show and the chosen cells to the data set."""
        image, labels = self.image.value, self.cells.value
        if image is None or labels is None:
            self.said.value = "choose an image and its cells"
            return
        step = self.viewer.dims.current_step
        scale = tuple(map(float, image.scale[-2:]))
        size = scale[0] if scale[0] == scale[1] != 1 else None
        try:
            written = add_to_dataset(
                Path(str(self.folder.value)),
                image.name,
                plane_on_show(image, step),
                np.asarray(labels.data),
                labels.features,
                size,
            )
        except SomasegError as error:
            self._failed(error)
            return
        self.said.value = f"kept {', '.join(written)}"

    @thread_worker
    def _work(self, plane: npt.NDArray[Any], model: str | None, diameter: str | None) -> Any:
        from somaseg.predict.load import load_segmenter

        yield 0, 1

        def tell(done: int, total: int) -> None:
            if self._stopped.is_set():
                raise _Stopped
            self.worker.yielded.emit((done, total))

        try:
            segmenter = load_segmenter(model, diameter=diameter)
            return segmenter.bands(plane, progress=tell).whole()
        except _Stopped:
            return "cancelled"
        except SomasegError as error:
            return str(error)  # to be told in the widget's own thread

    def _show(self, layer: Any, cells: Instances | str) -> None:
        if isinstance(cells, str):
            self.said.value = cells
            return
        name = f"{layer.name} cells"
        if name in self.viewer.layers:
            self.viewer.layers.remove(name)
        self.viewer.add_labels(
            cells.to_labels(),
            name=name,
            features=features_of(cells),
            scale=layer.scale[-2:],
            translate=layer.translate[-2:],
        )
        self.cells.value = self.viewer.layers[name]
        self.said.value = f"{len(cells)} cells"

    def _tell(self, progress: tuple[int, int]) -> None:
        self.progress.max = progress[1]
        self.progress.value = progress[0]

    def _failed(self, error: Exception) -> None:
        self.said.value = str(error)
        show_error(str(error))

    def _end(self) -> None:
        self.worker = None
        self.cancel.enabled, self.start.enabled = False, True

    def _image_layers(self, _: Any) -> list[Any]:
        return [layer for layer in self.viewer.layers if isinstance(layer, Image)]

    def _cell_layers(self, _: Any) -> list[Any]:
        return [layer for layer in self.viewer.layers if isinstance(layer, Labels)]

    def _reset(self) -> None:
        self.image.reset_choices()
        self.cells.reset_choices()
