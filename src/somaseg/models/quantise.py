"""A network in int8 for OpenVINO: post-training quantisation on some images, by NNCF."""

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from somaseg.errors import SomasegError
from somaseg.models.base import INT8, Dense, Image, Model, Network, Region
from somaseg.models.engine import core_of, onnx_bytes


def quantise(model: Model, images: Sequence[Image]) -> None:
    """Give a model a copy of its network in int8, which its file then holds, in place.

    Ranges of activations are those that the network has on the images, weights are quantised by
    channel, biases are corrected (NNCF's ``quantize``). Of two-stage models that is encoder and
    pyramid.

    Args:
        model: on the processor.
        images: (h, w) or (h, w, 3), such as it will see; a dozen do.

    Raises:
        SomasegError: NNCF is not installed, or the model has no network that OpenVINO can run.
    """
    network, shape = core_of(model, "precision int8")
    assert isinstance(model, Network)
    try:
        import openvino

        # It tells of every layer that it leaves alone, and draws bars.
        with contextlib.redirect_stdout(io.StringIO()):
            import nncf
    except ImportError as error:
        raise SomasegError(
            f"nncf is needed for this ({error}); run `pip install 'somaseg[int8]'`"
        ) from error
    seen: list[Any] = []

    def watch(image: Tensor) -> Any:
        seen.append(image.contiguous().numpy())
        return network(image)

    before, model.engine = model.engine, watch
    try:
        for image in images:
            gray = model.prepare(image)
            if isinstance(model, Dense):
                model.maps(gray)
            elif isinstance(model, Region):
                model.find(gray)
    finally:
        model.engine = before
    threads = torch.get_num_threads()
    nncf.set_log_level(40)  # logging.ERROR
    graph = openvino.Core().read_model(onnx_bytes(network, shape))
    with contextlib.redirect_stdout(io.StringIO()):
        made = nncf.quantize(graph, nncf.Dataset(seen), subset_size=len(seen))
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        openvino.save_model(made, path, compress_to_fp16=False)
        data = (path.read_bytes(), path.with_suffix(".bin").read_bytes())
    model.int8 = dict(zip(INT8, data, strict=True))
