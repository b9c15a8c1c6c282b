"""Start a training from the weights of another model."""

from pathlib import Path

from somaseg.errors import SomasegError
from somaseg.models.base import Network, read_model_file


def start_from(model: Network, path: str | Path) -> str:
    """Copy into a model, in place, every weight that fits by name and shape.

    Layers whose shape depends on the classes stay fresh when the classes differ in number.

    Returns:
        one line that says what was copied.

    Raises:
        SomasegError: the file is not a model, or its network is another one.
    """
    config, info, theirs = read_model_file(path)
    ours = model.state_dict()
    fits = {k: v for k, v in theirs.items() if k in ours and ours[k].shape == v.shape}
    other = sorted(k for k in ours if k not in fits)
    if len(fits) < 0.9 * len(ours):
        raise SomasegError(
            f"{path}: only {len(fits)} of {len(ours)} tensors fit; it is of family "
            f"{config.get('family')!r}, and its config must be as this model's"
        )
    model.load_state_dict(ours | fits)
    fresh = f"; fresh: {', '.join(other)}" if other else ""
    return f"started from {path} (classes {', '.join(info.names)}): {len(fits)} tensors{fresh}"
