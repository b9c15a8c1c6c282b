"""Make somaseg models of what other libraries have left in a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.models.base import Model
from somaseg.models.config import ModelInfo
from somaseg.models.foreign.configs import parse_python, read_config
from somaseg.models.foreign.detector import convert_detector
from somaseg.models.foreign.fields import config_names, detectron2_fields, mmdetection_fields
from somaseg.models.foreign.reading import Checkpoint, read_checkpoint_file
from somaseg.models.foreign.recognise import LIBRARIES, recognise
from somaseg.models.foreign.segmentation import build_semantic
from somaseg.models.rcnn.model import RCNN
from somaseg.models.registry import parse_config


class Imported(NamedTuple):
    """A model made of a file.

    Attributes:
        model: ready to predict.
        library: what the file is of, one of :data:`LIBRARIES`.
        notes: what was assumed, a line each.
    """

    model: Model
    library: str
    notes: list[str]


def import_model(
    file: str | Path,
    library: str | None = None,
    config: str | Path | None = None,
    names: Sequence[str] = (),
    diameter: float | None = None,
    fields: Mapping[str, Any] | None = None,
    channels: Sequence[str] = (),
) -> Imported:
    """Make a model of a file of another library; it predicts what the library would.

    Args:
        file: a checkpoint; or the name of a model of Cellpose, which is downloaded once.
        library: one of :data:`LIBRARIES`, if its tensors' names do not tell.
        config: the library's config: detectron2's YAML or MMDetection's Python. By default that
            in the file, or what the library's published configs have.
        names: of the classes; by default those in the file or config.
        diameter: of the cells, in image pixels.
        fields: of our config, that replace all others.
        channels: of the images, that a model of Cellpose looks at; without, images are gray.

    Raises:
        SomasegError: unreadable, of no library that is known, or of an architecture that has no
            place here; tensors left over or missing are named.
    """
    fields = dict(fields or {})
    if library is not None and library not in LIBRARIES:
        raise SomasegError(f"--from {library}: not one of {', '.join(LIBRARIES)}")
    if library == "cellpose" or (library is None and not Path(file).exists()):
        return _cellpose(file, names, diameter, fields, channels)
    checkpoint = read_checkpoint_file(file)
    found, tensors = recognise(checkpoint.tensors, str(file))
    found = library or found
    if found == "cellpose":
        return _cellpose(file, names, diameter, fields, channels)
    if channels:
        raise SomasegError(
            f"--chan: {file} is of {found}, not of Cellpose; it looks at gray images"
        )
    if found == "encoder":
        raise SomasegError(
            f"{file}: an encoder alone, which finds no cells; start a training from it: "
            "somaseg train DATA --model mask_rcnn_r50 --from FILE"
        )
    try:
        if found == "smp":
            made, notes = build_semantic(
                tensors, fields, names, str(Path(file).resolve()), diameter
            )
            return Imported(_with_card(made, file, found), found, notes)
        told, told_names, notes = _told(checkpoint, found, config)
        detector = build_detector(
            tensors,
            found,
            told | fields,
            tuple(names) or told_names,
            str(Path(file).resolve()),
            diameter or 30.0,
        )
    except SomasegError as error:
        message = str(error)
        raise (
            error
            if message.startswith((str(file), str(config)))
            else SomasegError(f"{file}: {message}")
        ) from error
    return Imported(_with_card(detector, file, found), found, notes)


def build_detector(
    tensors: dict[str, Tensor],
    library: str,
    fields: Mapping[str, Any],
    names: Sequence[str],
    source: str,
    diameter: float = 30.0,
) -> RCNN:
    """Make a two-stage model that computes what the library's own would.

    Args:
        tensors: under the library's names.
        library: torchvision, detectron2 or mmdet.
        fields: see :func:`somaseg.models.foreign.detector.convert_detector`.
        names: of the classes; none counts them: class 1, class 2, ...
        source: the file, which the config names as what the model started from.
        diameter: of the cells, in image pixels.

    Raises:
        SomasegError: tensors that are left over, missing or of another shape; named.
    """
    ours, found, classes = convert_detector(tensors, library, fields)
    if names and len(names) != classes:
        raise SomasegError(f"the file has {classes} classes, not {len(names)} ({', '.join(names)})")
    names = tuple(names) or tuple(f"class {i + 1}" for i in range(classes))
    config: Any = parse_config({**found, "pretrained": source}, "its config")
    info = ModelInfo(names=tuple(names), diameter=diameter)
    model = RCNN(config.model_copy(update={"pretrained": "none"}), info)
    wanted = model.state_dict()
    counts = {k: t for k, t in wanted.items() if k.endswith("num_batches_tracked")}
    missing = [k for k in wanted if k not in ours and k not in counts]
    wrong = [k for k, t in ours.items() if k not in wanted or wanted[k].shape != t.shape]
    if missing or wrong:
        one = (wrong or missing)[0]
        raise SomasegError(
            f"{len(missing)} tensors are missing, {len(wrong)} do not fit ({one}); is the file "
            "whole, and the config its own?"
        )
    model.load_state_dict(ours | counts)
    model.config = config
    return model.eval()


def _told(
    checkpoint: Checkpoint, library: str, config: str | Path | None
) -> tuple[dict[str, Any], tuple[str, ...], list[str]]:
    """Fields and class names from the library's config, and what was assumed."""
    names, notes = checkpoint.names, []
    if config is not None:
        kind, told, missing = read_config(config)
        if kind != library:
            raise SomasegError(f"{config}: a config of {kind}, but the file is of {library}")
        notes += [f"{base}: the config builds on it, it is not there" for base in missing]
        where = str(config)
    elif checkpoint.config is not None and library == "mmdet":
        told, where = parse_python(checkpoint.config, "the config in the file"), "the file"
        notes.append("its config: the one in the file")
    else:
        style = {
            "mmdet": "style pytorch; a ResNet `_caffe_` by its name, or a ResNeXt, needs --config",
            "detectron2": "ResNets of MSRA, ResNeXts as theirs",
            "torchvision": "those of its constructors",
        }
        notes.append(f"no config: as {library}'s published ones ({style[library]})")
        return {}, names, notes
    if library == "detectron2":
        return detectron2_fields(told, where), names, notes
    return mmdetection_fields(told, where), names or config_names(told), notes


def _cellpose(
    file: str | Path,
    names: Sequence[str],
    diameter: float | None,
    fields: Mapping[str, Any],
    channels: Sequence[str],
) -> Imported:
    from somaseg.models.cellpose.convert import import_cellpose

    if fields:
        raise SomasegError("--set: a Cellpose model has all its settings in the file")
    if len(names) > 1:
        raise SomasegError(f"--classes: a Cellpose model has one class, not {len(names)}")
    made = import_cellpose(file, diameter, names[0] if names else "cell", channels)
    return Imported(made, "cellpose", [])


def _with_card(model: Model, file: str | Path, library: str) -> Model:
    model.info.card["weights"] = f"{library}: {Path(file).name}"
    return model
