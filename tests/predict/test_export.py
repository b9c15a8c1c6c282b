import json

import numpy as np
import pytest
import torch
import typer.testing

from somaseg.cli import app
from somaseg.errors import SomasegError
from somaseg.models.bundle import Bundle, BundleMember, write_bundle
from somaseg.predict.export import export_networks
from tests.models.test_engine import assert_close, model_of, outputs

SETTINGS = {"a": {"score": 0.4}, "b": {"score": 0.7}}


def bundle_of(*names):
    members = [BundleMember(name, 2.0, "flips", (model_of(name),)) for name in names]
    return Bundle(tuple(members), "nmw" if len(names) > 1 else None, SETTINGS, card={"data": "x"})


def run_onnx(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta().custom_metadata_map
    return lambda x: session.run(None, {"image": x.numpy()}), meta["somaseg"]


def run_openvino(path):
    openvino = pytest.importorskip("openvino")
    graph = openvino.Core().read_model(path)
    # By itself it takes bfloat16 where the processor has it.
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: list(compiled(x.numpy()).values()), graph.get_rt_info(["somaseg"]).astype(str)


def run_torchscript(path):
    files = {"somaseg": ""}
    network = torch.jit.load(path, _extra_files=files)
    return network, files["somaseg"].decode()


RUNS = {"onnx": run_onnx, "openvino": run_openvino, "torchscript": run_torchscript}


@pytest.mark.parametrize("kind", RUNS)
def test_exported_files_give_what_the_networks_give_and_hold_the_settings(kind, tmp_path):
    pytest.importorskip("onnx")
    bundle = bundle_of("cpnet", "rcnn")
    paths = export_networks(bundle, tmp_path / "out", kind)
    facts = json.loads(paths[-1].read_text())
    assert facts["settings"] == SETTINGS
    assert facts["method"] == "nmw"
    assert [member["views"] for member in facts["members"]] == ["flips", "flips"]
    for member, about in zip(bundle.members, facts["networks"], strict=True):
        (model,) = member.models
        assert about["scale"] == model.scale
        core, (_, channels, *_) = model.core()
        run, text = RUNS[kind](tmp_path / "out" / about["file"])
        assert json.loads(text) == facts
        wanted = outputs(core, channels, (64, 128))
        found = outputs(lambda x, run=run: run(x.contiguous()), channels, (64, 128))
        found = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in found]
        assert_close(found, wanted, 1e-4)
        assert len(about["outputs"]) == (wanted[0].shape[1] if len(wanted) == 1 else len(wanted))


def test_what_cannot_be_exported_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(SomasegError, match="export of pixel_forest: family pixel_forest has no"):
        export_networks(bundle_of("cpnet", "pixel_forest"), tmp_path / "out", "torchscript")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").touch()
    with pytest.raises(SomasegError, match="holds files that somaseg did not write"):
        export_networks(bundle_of("cpnet"), tmp_path / "mine", "torchscript")


def test_the_command(tmp_path):
    write_bundle(tmp_path / "m.safetensors", bundle_of("cpnet"))
    arguments = [str(tmp_path / "m.safetensors"), "--to", "torchscript", "-o", str(tmp_path / "x")]
    done = typer.testing.CliRunner().invoke(app, ["export", *arguments])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "x").glob("*.*") if p.name[0] != ".") == [
        "cpnet-0.pt",
        "model.json",
    ]
    assert len(done.output.split()) == 2
