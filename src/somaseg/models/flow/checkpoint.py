"""Cellpose's models: find them by name or path; lay the weights of 1 to 3 into our network.

A checkpoint is a torch file of tensors; it is read without unpickling anything else. Cellpose 4 has
another network, a vision transformer: :mod:`somaseg.models.cellpose`.
"""

import os
import re
from pathlib import Path

import torch
from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.files import atomic_path
from somaseg.models.nn.cpnet import CPNet
from somaseg.models.nn.encoders import read_weights

URL = "https://www.cellpose.org/models"
"""Where Cellpose 1 to 3 download their models from."""
URL_4 = "https://huggingface.co/mouseland/cellpose-sam/resolve/main"
"""Where Cellpose 4 does."""
DIAMETER = 30.0
"""Cells' diameter, in network pixels, that Cellpose's own models have learned."""
NUCLEI_DIAMETER = 17.0
"""The same of the model ``nuclei``."""
_TORCH = {"cyto": "cytotorch_0", "cyto2": "cyto2torch_0", "nuclei": "nucleitorch_0"}
"""Files of the models that are not called by the model's name."""
NAMES = (
    *("cyto3", "cyto2", "cyto", "nuclei", "livecell_cp3", "tissuenet_cp3", "yeast_PhC_cp3"),
    *("yeast_BF_cp3", "bact_phase_cp3", "bact_fluor_cp3", "deepbacs_cp3", "cyto2_cp3"),
    *("CP", "CPx", "TN1", "TN2", "TN3", "LC1", "LC2", "LC3", "LC4"),
)
"""Models of Cellpose 1 to 3 that can be had by name."""
NAMES_4 = ("cpsam", "cpsam_v2")
"""Those of Cellpose 4."""


def models_folder() -> Path:
    """Folder where the cellpose package keeps the models that it has downloaded."""
    chosen = os.environ.get("CELLPOSE_LOCAL_MODELS_PATH")
    return Path(chosen) if chosen else Path.home() / ".cellpose" / "models"


def find_checkpoint(name: str | Path) -> Path:
    """Return the file of a model; one known by name is downloaded the first time.

    Args:
        name: a path, a name of :data:`NAMES` or :data:`NAMES_4`, or that of a file in
            :func:`models_folder`.

    Raises:
        SomasegError: no such file, or it cannot be downloaded.
    """
    if Path(name).is_file():
        return Path(name)
    file = _TORCH.get(str(name), str(name))
    kept = models_folder() / file
    if kept.is_file():
        return kept
    if str(name) not in (*NAMES, *NAMES_4):
        raise SomasegError(
            f"{name}: no such weights file, nor a model in {models_folder()}; "
            f"Cellpose's by name are {', '.join((*NAMES, *NAMES_4))}"
        )
    url = f"{URL_4 if str(name) in NAMES_4 else URL}/{file}"
    with atomic_path(kept) as temporary:
        try:
            torch.hub.download_url_to_file(url, str(temporary), progress=False)
        except OSError as error:
            raise SomasegError(
                f"Cellpose model {name!r}: {url} cannot be downloaded ({error}); "
                f"fetch it on another machine and put it into {models_folder()}, "
                "or give a weights file's path"
            ) from error
    return kept


def read_checkpoint(name: str | Path) -> tuple[Path, dict[str, Tensor]]:
    """Read the tensors of a Cellpose model of any version, under the package's names.

    Raises:
        SomasegError: not found, or holds more than tensors.
    """
    path = find_checkpoint(name)
    return path, {key.removeprefix("module."): t for key, t in read_weights(path).items()}


def load_cellpose(network: CPNet, name: str | Path) -> float:
    """Copy the weights of a Cellpose 1–3 model into a network, in place.

    The head of the classes, which Cellpose lacks, stays as it is.

    Returns:
        cells' diameter that the model has learned, in network pixels.

    Raises:
        SomasegError: not found, not such a model, or of other channels.
    """
    path, tensors = read_checkpoint(name)
    if not any(key.startswith("downsample.") for key in tensors):
        raise SomasegError(f"{path}: not a model of Cellpose 1 to 3; {_what_it_is(tensors)}")
    state = network.state_dict()
    unused = {key for key in tensors if not key.startswith("diam_")}
    for key, ours in state.items():
        theirs = cellpose_name(key)
        # Nothing here uses the counts of batches seen, which the first files lack.
        if key.startswith("class_head.") or key.endswith("num_batches_tracked"):
            unused.discard(theirs)
            continue
        if theirs not in unused or tensors[theirs].shape != ours.shape:
            found = tuple(tensors[theirs].shape) if theirs in unused else "missing"
            raise SomasegError(
                f"{path}: {theirs} is {found}, but {tuple(ours.shape)} here; a model must have "
                "Cellpose's 2 channels and 3 outputs, and the config its `widths`"
            )
        unused.discard(theirs)
        state[key] = tensors[theirs]
    if unused:
        raise SomasegError(f"{path}: has layers that this network lacks ({min(unused)})")
    network.load_state_dict(state)
    return learned_diameter(path, tensors)


def learned_diameter(path: Path, tensors: dict[str, Tensor]) -> float:
    """Cells' diameter, in network pixels, that a Cellpose 1–3 model has learned.

    As in the package: that of its own models is known, whatever their files say.
    """
    if path.name == _TORCH["nuclei"]:
        return NUCLEI_DIAMETER
    if path.name in (*NAMES, *_TORCH.values()) or "diam_mean" not in tensors:
        return DIAMETER
    return float(tensors["diam_mean"])


_THEIR_NAMES = (
    (r"^down\.(\d)\.", r"downsample.down.res_down_\1."),
    (r"^up\.(\d)\.", r"upsample.up.res_up_\1."),
    (r"^head\.", r"output."),
    (r"\.convs\.(\d)\.", r".conv.conv_\1."),
    (r"\.shift\.", r".full."),
    # Theirs are sequences: normalisation, ReLU if there is one, convolution.
    (r"\.project\.norm\.", r".proj.0."),
    (r"\.project\.conv\.", r".proj.1."),
    (r"\.norm\.(\w+)$", r".0.\1"),
    (r"\.conv\.(\w+)$", r".2.\1"),
)


def cellpose_name(ours: str) -> str:
    """Return the package's name of a tensor of :class:`somaseg.models.nn.cpnet.CPNet`."""
    for pattern, theirs in _THEIR_NAMES:
        ours = re.sub(pattern, theirs, ours)
    return ours


def _what_it_is(tensors: dict[str, Tensor]) -> str:
    if "W2" in tensors:
        return "it is one of Cellpose 4: use `family: cellpose` with `pretrained: PATH`"
    if any(key.startswith("net.encoder.") for key in tensors):
        return "it is one of Cellpose 3's transformers, which are not supported"
    return f"its tensors are called {', '.join(list(tensors)[:2]) or 'nothing'}, …"
