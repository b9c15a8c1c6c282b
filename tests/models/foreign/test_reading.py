"""Files of every kind are read, and none is executed."""

import collections
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from somaseg.errors import SomasegError
from somaseg.models.foreign.reading import read_checkpoint_file
from somaseg.models.foreign.recognise import recognise


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mknod, (str(self.path),)


def saved(kind, value, path):
    if kind == "pkl":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.mark.parametrize("kind", ["pkl", "zip", "legacy"])
def test_a_malicious_file_executes_nothing_and_is_named(tmp_path, kind):
    value = {"model": {"a": np.ones(2), "b": Touch(tmp_path / "made")}}
    path = saved(kind, value, tmp_path / "evil.pth")
    pattern = r"evil\.pth: asks to run (posix|nt)\.mknod when it is read; refused, and nothing"
    with pytest.raises(SomasegError, match=pattern):
        read_checkpoint_file(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", ["pkl", "zip", "legacy"])
def test_a_truncated_file_gets_one_line(tmp_path, kind):
    tensor = np.ones(5000, np.float32) if kind == "pkl" else torch.ones(5000)
    path = saved(kind, {"model": {"a": tensor}}, tmp_path / "cut.pth")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(SomasegError, match=r"^.*cut\.pth: not a readable weights file.*$"):
        read_checkpoint_file(path)


def test_a_truncated_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(500)}, tmp_path / "cut.safetensors")
    data = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-300])
    with pytest.raises(SomasegError, match="not a readable weights file"):
        read_checkpoint_file(tmp_path / "cut.safetensors")


def test_detectron2_model_zoo(tmp_path):
    value = {
        "model": collections.OrderedDict(a=np.arange(3, dtype=np.float32)),
        "__author__": "x",
        "scalar": np.float64(2),
    }
    for protocol in (2, 4):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
        found = read_checkpoint_file(tmp_path / "m.pkl")
        assert torch.equal(found.tensors["a"], torch.arange(3.0))


def test_mmengine_objects_are_left_out(tmp_path, monkeypatch):
    module = types.ModuleType("mmengine.logging.history_buffer")
    history = type("HistoryBuffer", (), {"__module__": module.__name__})
    module.HistoryBuffer = history
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    buffer = history()
    buffer.values = np.arange(4.0)
    meta = {"dataset_meta": {"classes": ("a", "b")}, "cfg": "model = dict(type='MaskRCNN')"}
    value = {
        "meta": {**meta, "seed": np.float64(1)},
        "state_dict": collections.OrderedDict(w=torch.ones(2)),
        "message_hub": {"log_scalars": {"loss": buffer}},
    }
    torch.save(value, tmp_path / "epoch_1.pth")
    monkeypatch.undo()
    found = read_checkpoint_file(tmp_path / "epoch_1.pth")
    assert torch.equal(found.tensors["w"], torch.ones(2))
    assert found.names == ("a", "b")
    assert found.config == "model = dict(type='MaskRCNN')"


def test_a_model_saved_whole_is_named(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pt")
    with pytest.raises(SomasegError, match=r"a model saved whole \(torch\.nn.*state_dict\(\)"):
        read_checkpoint_file(tmp_path / "whole.pt")


def test_a_program_of_torchscript_is_named(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "script.pt")
    with pytest.raises(SomasegError, match="TorchScript, a program"):
        read_checkpoint_file(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.22.cv2.0.conv.weight", "a YOLO"),
        ("backbone.bottom_up.res4.0.conv2_offset.weight", "deformable convolutions"),
        ("backbone.layer3.0.conv2.conv_offset.weight", "deformable convolutions"),
        ("roi_head.semantic_head.convs.0.conv.weight", "Hybrid Task Cascade"),
        ("backbone.fpn_lateral2.norm.weight", "group or synchronised normalisation"),
        ("backbone.bottom_up.net.blocks.0.attn.qkv.weight", "a transformer"),
        ("roi_heads.res5.0.conv1.weight", "C4 or DC5"),
        ("proposal_generator.x", None),
    ],
)
def test_foreign_architectures_are_named(name, what):
    from somaseg.models.foreign.recognise import foreign_architecture

    found = foreign_architecture([name])
    assert (found is None) if what is None else (what in found)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("backbone.bottom_up.stem.conv1.weight",), "detectron2"),
        (("backbone.conv1.weight", "neck.lateral_convs.0.conv.weight"), "mmdet"),
        (("backbone.body.conv1.weight",), "torchvision"),
        (("model.encoder.conv1.weight", "model.segmentation_head.0.bias"), "smp"),
        (("module.downsample.down.x",), "cellpose"),
        (("W2", "out.weight"), "cellpose"),
        (("conv1.weight", "layer1.0.conv1.weight"), "encoder"),
    ],
)
def test_recognised_by_names(names, kind):
    found, tensors = recognise(dict.fromkeys(names, torch.ones(1)), "f")
    assert found == kind
    assert not any(name.startswith(("model.", "module.")) for name in tensors)


def test_what_nobody_knows():
    with pytest.raises(SomasegError, match=r"f: of no library .* called strange\.weight, …"):
        recognise({"strange.weight": torch.ones(1)}, "f")
