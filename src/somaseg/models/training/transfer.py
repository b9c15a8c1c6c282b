"""Start a training from the weights of another model."""

from collections.abc import Collection
from pathlib import Path

from somaseg.errors import SomasegError
from somaseg.models.base import Network
from somaseg.models.bundle import load_model


def start_from(model: Network, path: str | Path) -> str:
    """Copy into a model, in place, every weight that fits by name and shape.

    Layers whose shape depends on the classes stay fresh when the classes differ in number. One of
    the two models may have parts that the other lacks: a Mask R-CNN starts a cascade, which
    fills its later stages from the first, and the other way round.

    Returns:
        one line that says what was copied, and which parts start fresh.

    Raises:
        SomasegError: the file is not a model, or its network is another one.
    """
    teacher = load_model(path)
    theirs = teacher.tensors()
    ours = model.state_dict()
    known = model.adopt(theirs)
    fits = {k: v for k, v in known.items() if k in ours and ours[k].shape == v.shape}
    if len(fits) < 0.9 * min(len(ours), len(theirs)):
        raise SomasegError(
            f"{path}: only {len(fits)} of {len(ours)} tensors fit; it is of family "
            f"{teacher.config.family!r}, and its config must be as this model's"
        )
    model.load_state_dict(ours | fits)
    fresh = _parts([k for k in ours if k not in fits], fits)
    note = f"; fresh: {', '.join(fresh)}" if fresh else ""
    return f"started from {path} (classes {', '.join(teacher.names)}): {len(fits)} tensors{note}"


def _parts(names: Collection[str], others: Collection[str]) -> list[str]:
    """Name the largest modules that hold only ``names``, and none of ``others``."""
    shared = {other[:end] for other in others for end, c in enumerate(other) if c == "."}
    parts = set()
    for name in names:
        pieces = name.split(".")
        starts = [".".join(pieces[:end]) for end in range(1, len(pieces) + 1)]
        parts.add(next((start for start in starts if start not in shared), name))
    return sorted(parts)
