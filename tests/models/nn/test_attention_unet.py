import numpy as np
import pytest
import torch

from somaseg.models.nn.attention_unet import AttentionGate, AttentionUNet, ResidualUnit


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_gate_is_the_papers_formula():
    torch.manual_seed(0)
    gate = AttentionGate(4, 6)
    x, g = torch.randn(1, 4, 6, 8), torch.randn(1, 6, 3, 4)
    w_x = gate.skip.weight.detach().numpy()  # (2, 4, 2, 2)
    w_g, b = gate.gating.weight.detach().numpy()[:, :, 0, 0], gate.gating.bias.detach().numpy()
    psi, b_psi = gate.score.weight.detach().numpy()[0, :, 0, 0], gate.score.bias.item()
    assert w_x.shape == (2, 4, 2, 2)  # half of the skip's channels inside
    low = np.zeros((3, 4))
    for i in range(3):
        for j in range(4):
            block = x[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].numpy()
            theta = np.einsum("fcij,cij->f", w_x, block)
            low[i, j] = sigmoid(
                psi @ np.maximum(theta + w_g @ g[0, :, i, j].numpy() + b, 0) + b_psi
            )
    with torch.no_grad():
        attention = gate.attention(x, g)[0, 0].numpy()
        gated = gate(x, g)[0].numpy()
    # Bilinear between the centres of 2×2 blocks: weights 1/4 and 3/4.
    padded = np.pad(low, 1, mode="edge")
    up = np.empty((6, 6))
    for i in range(3):
        up[2 * i] = 0.25 * padded[i] + 0.75 * padded[i + 1]
        up[2 * i + 1] = 0.75 * padded[i + 1] + 0.25 * padded[i + 2]
    expected = np.empty((6, 8))
    for j in range(4):
        expected[:, 2 * j] = 0.25 * up[:, j] + 0.75 * up[:, j + 1]
        expected[:, 2 * j + 1] = 0.75 * up[:, j + 1] + 0.25 * up[:, j + 2]
    assert np.allclose(attention, expected, atol=1e-6)
    assert np.allclose(gated, expected * x[0].numpy(), atol=1e-6)


def test_a_closed_gate_lets_nothing_through():
    gate = AttentionGate(4, 6)
    torch.nn.init.constant_(gate.score.bias, -100.0)
    torch.nn.init.zeros_(gate.score.weight)
    assert not gate(torch.randn(1, 4, 6, 8), torch.randn(1, 6, 3, 4)).abs().gt(1e-30).any()


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (3, 5)])
def test_residual_unit_is_two_preactivations(inputs, outputs):
    torch.manual_seed(1)
    unit = ResidualUnit(inputs, outputs)
    x = torch.randn(2, inputs, 7, 9)
    first, second = unit.branch[2].weight, unit.branch[5].weight

    def normalised(z):
        mean, var = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), keepdim=True, correction=0)
        return torch.relu((z - mean) / torch.sqrt(var + 1e-5))

    hidden = torch.nn.functional.conv2d(normalised(x), first, padding=1)
    branch = torch.nn.functional.conv2d(normalised(hidden), second, padding=1)
    short = x
    if inputs != outputs:
        short = torch.einsum("oc,bchw->bohw", unit.shortcut.weight[:, :, 0, 0], x)
    assert torch.allclose(unit(x), short + branch, atol=1e-5)


def test_output_has_the_images_size_and_every_weight_learns():
    torch.manual_seed(0)
    network = AttentionUNet((4, 6, 8), 3)
    assert network.multiple == 4
    out = network(torch.randn(2, 1, 16, 24))
    assert out.shape == (2, 3, 16, 24)
    out.square().sum().backward()
    silent = [n for n, w in network.named_parameters() if w.grad is None or not w.grad.any()]
    assert not silent


def test_one_level_is_no_u():
    with pytest.raises(ValueError, match="two widths"):
        AttentionUNet((8,), 1)
