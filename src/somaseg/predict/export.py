"""Networks of a model file for other programs, with all that the file says of them."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from somaseg.errors import SomasegError
from somaseg.files import atomic_path, file_name, own_folder, write_json, writing
from somaseg.models.base import Model, Network
from somaseg.models.bundle import KEY, Bundle, bundle_fields
from somaseg.models.engine import core_of, example_of, onnx_bytes

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".pt"}
"""Endings of the files."""


def export_networks(bundle: Bundle, out: str | Path, kind: str) -> list[Path]:
    """Write each network of a model, normalisations folded, and ``model.json``.

    The latter is what the model file says, and under ``networks`` of each file what goes in and
    comes out. Its text stands in each file as well, under ``somaseg``: in the metadata of ONNX, the
    ``rt_info`` of OpenVINO, the extra files of TorchScript.

    Args:
        bundle: the model.
        out: a folder that is new, empty or of an earlier export.
        kind: of :data:`FORMATS`.

    Returns:
        the files, ``model.json`` last.

    Raises:
        SomasegError: no such format, a network that cannot be exported, the format's package is not
            installed, or the files cannot be written.
    """
    if kind not in FORMATS:
        raise SomasegError(f"--to {kind}: give one of {', '.join(FORMATS)}")
    cores, networks = [], []
    for member in bundle.members:
        for f, model in enumerate(member.models):
            name = f"{file_name(member.name)}-{f}{FORMATS[kind]}"
            cores.append(core_of(model, f"export of {member.name}"))
            networks.append({"file": name, "member": member.name, "model": f, **_facts(model)})
    facts = {**bundle_fields(bundle), "networks": networks}
    text = json.dumps(facts)
    folder = own_folder(out)
    paths = []
    for (network, shape), about in zip(cores, networks, strict=True):
        paths.append(folder / str(about["file"]))
        _write(paths[-1], kind, network, shape, text)
    write_json(folder / "model.json", facts)
    return [*paths, folder / "model.json"]


def _facts(model: Model) -> dict[str, Any]:
    assert isinstance(model, Network)
    whole = model.config.family != "rcnn"
    return {
        "input": "image: float32 (batch, channel, height, width); 0 and 1 at each channel's 1st "
        "and 99th percentile unless the config has input_levels: full",
        "channels": list(model.info.channels) or ["gray"],
        "scale": model.scale,
        "multiple": model.multiple if whole else model.get_submodule("backbone").multiple,
        "outputs": model.outputs(),
        "holds": "the whole network, without its decoding"
        if whole
        else "encoder and pyramid, without the heads for proposals, boxes and masks",
    }


def _write(
    path: Path, kind: str, network: nn.Module, shape: tuple[int, int, int, int], text: str
) -> None:
    if kind == "torchscript":
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of comparisons that hold for every image
            traced = torch.jit.trace(network, example_of(network, shape))
            with atomic_path(path) as temporary:
                traced.save(str(temporary), _extra_files={KEY: text})
        return
    data = onnx_bytes(network, shape)
    if kind == "onnx":
        import onnx

        graph = onnx.load_from_string(data)
        onnx.helper.set_model_props(graph, {KEY: text})
        with atomic_path(path) as temporary:
            temporary.write_bytes(graph.SerializeToString())
        return
    try:
        import openvino
    except ImportError as error:
        raise SomasegError(
            f"openvino is needed for this ({error}); run `pip install 'somaseg[openvino]'`"
        ) from error
    graph = openvino.Core().read_model(data)
    graph.set_rt_info(text, [KEY])
    with writing(path):
        openvino.save_model(graph, path, compress_to_fp16=False)
