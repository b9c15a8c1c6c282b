"""What runs a network: PyTorch, OpenVINO or ONNX Runtime.

Only the network's forward pass is another's: preparing images, decoding and everything after it
stay. All but PyTorch read the network from ONNX, made in memory when the model is loaded.
"""

import io
import os
import threading
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from somaseg.errors import SomasegError
from somaseg.models.base import INT8, Model, Network
from somaseg.models.fold import folded
from somaseg.models.precision import has_bfloat16

VARIABLE = "SOMASEG_ENGINE"
"""Environment variable of the choice; ``--engine`` sets it."""
ENGINES = ("torch", "openvino", "onnxruntime")

Arrays = list[npt.NDArray[Any]]
SHAPES = 4
"""Shapes of images that a network in int8 is kept ready for: each is compiled by itself."""


def choose_engine(name: str | None = None) -> str:
    """Return the engine that networks run in: as named, else as ``SOMASEG_ENGINE`` says, or torch.

    Raises:
        SomasegError: not one of :data:`ENGINES`.
    """
    name = name or os.environ.get(VARIABLE) or ENGINES[0]
    if name not in ENGINES:
        raise SomasegError(f"engine {name!r}: give one of {', '.join(ENGINES)}")
    return name


def use_engine(model: Model, name: str, device: torch.device, precision: str = "float32") -> None:
    """Let a model's network run in an engine from now on; its weights and its file stay.

    In PyTorch, normalisations are folded (:func:`somaseg.models.fold.folded`). A training of the
    model ends it.

    Args:
        model: of any family; one without a network, or whose network is not named by
            :meth:`somaseg.models.base.Network.core`, runs in PyTorch only, as it is.
        name: one of :data:`ENGINES`.
        device: where it is to run; the model itself is still on the processor, or there already.
        precision: in which OpenVINO computes, of :func:`somaseg.models.precision.precision_of`; for
            PyTorch, :func:`somaseg.models.device.predicting` says it.

    Raises:
        SomasegError: the engine is not installed, runs elsewhere, or cannot run this network.
    """
    if name == "torch":
        core = model.core() if isinstance(model, Network) else None
        if core is not None and isinstance(model, Network):
            network = folded(*core)
            model.engine = None if network is core[0] else network.to(device).__call__
        return
    if device.type != "cpu":
        raise SomasegError(f"engine {name} runs on the processor: give --device cpu as well")
    network, shape = core_of(model, f"engine {name}")
    assert isinstance(model, Network)
    if precision == "int8":
        assert model.int8 is not None
        run = _openvino(*(model.int8[part] for part in INT8), precision=precision)
    else:
        data = onnx_bytes(network, shape)
        run = _openvino(data, precision=precision) if name == "openvino" else _onnxruntime(data)
    model.engine = _on_tensors(run)


def core_of(model: Model, what: str) -> tuple[nn.Module, tuple[int, int, int, int]]:
    """The folded network of a model that can run outside of it, and a shape of its images.

    Raises:
        SomasegError: it has none.
    """
    core = model.core() if isinstance(model, Network) else None
    if core is None:
        raise SomasegError(
            f"{what}: family {model.config.family} has no network that could run outside of "
            "PyTorch; flow, semantic and rcnn have"
        )
    return folded(*core), core[1]


def onnx_bytes(network: nn.Module, shape: tuple[int, int, int, int]) -> bytes:
    """Return a network as ONNX: ``image`` (b, c, h, w), all but c free, to ``maps0``, ``maps1``, ….

    Raises:
        SomasegError: the package onnx is not installed, or the network has what ONNX lacks.
    """
    example = example_of(network, shape)
    with torch.inference_mode():
        out = network(example)
    names = [f"maps{i}" for i in range(1 if isinstance(out, Tensor) else len(out))]
    free = {0: "batch", 2: "height", 3: "width"}
    file: Any = io.BytesIO()
    try:
        with warnings.catch_warnings():
            # The exporter that needs no further package warns of its age, and of each comparison.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (example,),
                file,
                dynamo=False,
                input_names=["image"],
                output_names=names,
                dynamic_axes={name: dict(free) for name in ("image", *names)},
                opset_version=17,
            )
    except ImportError as error:
        raise SomasegError(_missing("onnx", error)) from error
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise SomasegError(f"the network cannot be written as ONNX: {first}") from error
    return file.getvalue()


def example_of(network: nn.Module, shape: tuple[int, int, int, int]) -> Tensor:
    """Zeros that a network takes, not square, so that no axis is taken for the other."""
    b, c, h, w = shape
    return torch.zeros(b, c, h, 2 * w).to(next(network.parameters()))


def _on_tensors(run: Callable[[npt.NDArray[np.float32]], Arrays]) -> Callable[[Tensor], Any]:
    def network(image: Tensor) -> Tensor | list[Tensor]:
        # Engines know rows of rows only, not PyTorch's channels-last.
        found = [torch.from_numpy(out) for out in run(image.contiguous().numpy())]
        return found if len(found) > 1 else found[0]

    return network


def _openvino(
    data: bytes, weights: bytes = b"", *, precision: str
) -> Callable[[npt.NDArray[np.float32]], Arrays]:
    try:
        import openvino
    except ImportError as error:
        raise SomasegError(_missing("openvino", error)) from error
    core = openvino.Core()
    # Images side by side have a stream each, as PyTorch's threads are dealt out.
    half = has_bfloat16(torch.device("cpu"))
    threads = torch.get_num_threads()
    streams = max(1, (os.cpu_count() or 1) // threads)
    options = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" or not half else "bf16",
        "INFERENCE_NUM_THREADS": threads * streams,
        "NUM_STREAMS": streams,
    }
    own, lock = threading.local(), threading.Lock()

    @lru_cache(maxsize=SHAPES)
    def compiled(shape: tuple[int, ...]) -> Any:
        graph = core.read_model(data, weights) if weights else core.read_model(data)
        if shape:
            graph.reshape({0: list(shape)})
        return core.compile_model(graph, "CPU", options)

    def run(image: npt.NDArray[np.float32]) -> Arrays:
        # With free sides OpenVINO 2026 computes garbage in int8.
        shape = image.shape if precision == "int8" else ()
        if getattr(own, "shape", None) != shape:
            with lock:
                own.shape, own.request = shape, compiled(shape).create_infer_request()
        out = own.request.infer({0: image})
        return [np.array(out[i]) for i in range(len(out))]

    return run


def _onnxruntime(data: bytes) -> Callable[[npt.NDArray[np.float32]], Arrays]:
    try:
        import onnxruntime
    except ImportError as error:
        raise SomasegError(_missing("onnxruntime", error)) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})


def _missing(package: str, error: ImportError) -> str:
    extra = "openvino" if package == "openvino" else "onnx"
    return f"{package} is needed for this ({error}); run `pip install 'somaseg[{extra}]'`"
