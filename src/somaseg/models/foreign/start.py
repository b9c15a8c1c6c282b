"""What another library's file gives a model to start its training from, under our names."""

from pathlib import Path

from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.models.base import Network
from somaseg.models.foreign.detector import anchors_by_ratio, background_first
from somaseg.models.foreign.names import TABLES, rename
from somaseg.models.foreign.reading import read_checkpoint_file
from somaseg.models.foreign.recognise import recognise
from somaseg.models.foreign.segmentation import OURS
from somaseg.models.rcnn.config import RCNNConfig

Tensors = dict[str, Tensor]


def starting_tensors(model: Network, path: str | Path) -> tuple[Tensors, str]:
    """Read a file of any library: a detector, a network of smp, a Cellpose model, an encoder.

    Returns:
        tensors under the model's names, and of what they are.

    Raises:
        SomasegError: unreadable, of no library that is known, or of another encoder.
    """
    library, tensors = recognise(read_checkpoint_file(path).tensors, str(path))
    if library == "cellpose":
        from somaseg.models.cellpose.convert import import_cellpose

        return dict(import_cellpose(path).tensors()), library
    if library in TABLES:
        ours, _ = rename(tensors.items(), TABLES[library])
        if library != "torchvision":
            ours = background_first(ours)
        config = model.config
        if library == "detectron2" and isinstance(config, RCNNConfig):
            sizes, ratios = len(config.anchor_sizes[0]), len(config.anchor_ratios)
            if len(ours.get("rpn.head.cls_logits.bias", ())) == sizes * ratios:
                ours = anchors_by_ratio(ours, sizes, ratios)
        return ours, library
    state = model.state_dict()
    if library == "smp" and any(name.startswith(f"{OURS}segmentation_head.") for name in state):
        return {f"{OURS}{name}": tensor for name, tensor in tensors.items()}, library
    if library == "smp":
        start = "encoder."
        tensors = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    return _encoder(state, tensors, str(path)), f"{library}: its encoder"


def _encoder(state: Tensors, tensors: Tensors, where: str) -> Tensors:
    """Find the encoder of a model that has all these tensors by name and shape.

    timm renames ``layer.0`` to ``layer_0`` where it takes the features of every level.
    """
    given = {name.replace(".", "_"): tensor for name, tensor in tensors.items()}
    for prefix in sorted(
        {name[: name.find("encoder.") + 8] for name in state if "encoder." in name}
    ):
        for start in (f"{prefix}network.", f"{prefix}model.", prefix):
            own = {
                name: given.get(name.removeprefix(start).replace(".", "_"))
                for name in state
                if name.startswith(start) and not name.endswith("num_batches_tracked")
            }
            fits = {n: t for n, t in own.items() if t is not None and t.shape == state[n].shape}
            if own and len(fits) == len(own):
                return fits
    raise SomasegError(
        f"{where}: an encoder, but not this model's; set its encoder to that of the file"
    )
