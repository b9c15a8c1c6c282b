"""Start a training from the weights of another model."""

import re
from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError, safe_open

from somaseg.errors import SomasegError
from somaseg.models.base import Network
from somaseg.models.bundle import KEY, OLD_KEY, load_model
from somaseg.models.foreign.start import starting_tensors
from somaseg.models.nn.encoders import widened
from somaseg.models.rcnn.weights import leftover


def start_from(model: Network, path: str | Path) -> str:
    """Copy into a model, in place, every weight that fits by name and shape.

    Layers whose shape depends on the classes stay fresh when the classes differ in number. One of
    the two models may have parts that the other lacks: a Mask R-CNN starts a cascade, which
    fills its later stages from the first, and the other way round.

    Returns:
        one line that says what was copied, and which parts start fresh.

    Raises:
        SomasegError: the file is of no library that is known, or its network is another one.
    """
    if _is_ours(path):
        teacher = load_model(path)
        theirs, kind = teacher.tensors(), f"classes {', '.join(teacher.names)}"
        family = f"it is of family {teacher.config.family!r}"
    else:
        theirs, kind = starting_tensors(model, path)
        family = f"it is of {kind}"
    ours = model.state_dict()
    known = widened(model.adopt(theirs), ours)
    fits = {k: v for k, v in known.items() if k in ours and ours[k].shape == v.shape}
    if len(fits) < 0.9 * min(len(ours), len(theirs)):
        raise SomasegError(
            f"{path}: only {len(fits)} of {len(ours)} tensors fit; {family}, and its config must "
            "be as this model's"
        )
    encoder = re.compile(r"(.+\.)?encoder\.(?!.*num_batches_tracked)")
    if lacks := [k for k in ours if k not in fits and encoder.match(k)]:
        raise SomasegError(
            f"{path}: is of another encoder ({lacks[0]} is missing or of another shape); set the "
            "model's encoder to that of the file"
        )
    spare = [k for k in known if k not in ours and k.startswith(("backbone.", "rpn."))]
    if spare := [k for k in spare if not k.endswith("num_batches_tracked")]:
        raise SomasegError(f"{path}: {leftover(spare)}")
    model.load_state_dict(ours | fits)
    fresh = _parts([k for k in ours if k not in fits], fits)
    note = f"; fresh: {', '.join(fresh)}" if fresh else ""
    return f"started from {path} ({kind}): {len(fits)} tensors{note}"


def _is_ours(path: str | Path) -> bool:
    """Whether a file says that it is a model of somaseg; also if it is no readable safetensors."""
    if Path(path).suffix != ".safetensors":
        return False
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return True  # what is wrong with it is told on reading
    return KEY in metadata or OLD_KEY in metadata


def _parts(names: Collection[str], others: Collection[str]) -> list[str]:
    """Name the largest modules that hold only ``names``, and none of ``others``."""
    shared = {other[:end] for other in others for end, c in enumerate(other) if c == "."}
    parts = set()
    for name in names:
        pieces = name.split(".")
        starts = [".".join(pieces[:end]) for end in range(1, len(pieces) + 1)]
        parts.add(next((start for start in starts if start not in shared), name))
    return sorted(parts)
