"""Layers against evaluations written independently, in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import SEModule
from torch import nn

from mrcar_timm.layers import ArcFaceHead, CARBlock, CoordAttn, DSBlock, arcface_logits


def random_coord_attn(channels: int, **kwargs) -> CoordAttn:
    torch.manual_seed(0)
    layer = CoordAttn(channels, **kwargs).double().eval()
    nn.init.uniform_(layer.bn1.running_mean, -0.5, 0.5)
    nn.init.uniform_(layer.bn1.running_var, 0.5, 2)
    nn.init.uniform_(layer.bn1.weight, 0.5, 2)
    nn.init.uniform_(layer.bn1.bias, -1, 1)
    return layer


def coord_attn_by_loops(layer: CoordAttn, x: np.ndarray) -> np.ndarray:
    """Eqs 2-7, one number at a time."""
    parameters = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    channels, height, width = x.shape

    def convolve(name: str, vector: list[float]) -> list[float]:
        weight, bias = parameters[f"{name}.weight"][:, :, 0, 0], parameters[f"{name}.bias"]
        return [sum(w * v for w, v in zip(row, vector, strict=True)) + b for row, b in zip(weight, bias, strict=True)]

    def f1(vector: list[float]) -> list[float]:
        out = []
        for k, value in enumerate(convolve("conv1", vector)):
            mean, var = parameters["bn1.running_mean"][k], parameters["bn1.running_var"][k]
            value = (value - mean) / math.sqrt(var + 1e-5) * parameters["bn1.weight"][k] + parameters["bn1.bias"][k]
            out.append(value * min(max(value + 3, 0), 6) / 6)  # hard swish
        return out

    def gate(name: str, vector: list[float]) -> list[float]:
        return [1 / (1 + math.exp(-v)) for v in convolve(name, f1(vector))]

    rows = [gate("conv_h", [x[c, i].sum() / width for c in range(channels)]) for i in range(height)]
    columns = [gate("conv_w", [x[c, :, j].sum() / height for c in range(channels)]) for j in range(width)]
    y = np.empty_like(x)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                y[c, i, j] = x[c, i, j] * rows[i][c] * columns[j][c]
    return y


@pytest.mark.parametrize("size", [(5, 3), (2, 7), (1, 1)])
def test_coord_attn_is_eqs_2_to_7(size):
    layer = random_coord_attn(6, rd_channels=4)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = np.stack([coord_attn_by_loops(layer, sample.numpy()) for sample in x])
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def test_coord_attn_transposed():
    layer = random_coord_attn(6)
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    expected = layer(x)
    layer.conv_h, layer.conv_w = layer.conv_w, layer.conv_h
    torch.testing.assert_close(layer(x.mT).mT, expected)


def test_coord_attn_gradient():
    layer = random_coord_attn(4, rd_channels=3, act_layer=nn.Tanh).train()
    assert torch.autograd.gradcheck(layer, torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True))


def test_coord_attn_takes_the_authors_state_dict():
    """Names, widths and biases as in the authors' coordatt.py with 512 channels and reduction 32."""
    mid = 16
    shapes = {
        "conv1.weight": (mid, 512, 1, 1), "conv1.bias": (mid,),
        "bn1.weight": (mid,), "bn1.bias": (mid,), "bn1.running_mean": (mid,), "bn1.running_var": (mid,),
        "bn1.num_batches_tracked": (),
        "conv_h.weight": (512, mid, 1, 1), "conv_h.bias": (512,),
        "conv_w.weight": (512, mid, 1, 1), "conv_w.bias": (512,),
    }  # fmt: skip
    CoordAttn(512).load_state_dict({name: torch.rand(shape) for name, shape in shapes.items()}, strict=True)
    assert CoordAttn(64).conv1.out_channels == 8  # never fewer


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.half, 4e-3), (torch.bfloat16, 3e-2)])
def test_coord_attn_low_precision(dtype, tolerance):
    layer = random_coord_attn(16)
    x = torch.rand(2, 16, 9, 7, dtype=torch.float64)
    expected = layer(x)
    actual = layer.to(dtype)(x.to(dtype))
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("attn", ["coord", "se", "eca", SEModule, None])
@pytest.mark.parametrize(("block", "size"), [(CARBlock, (11, 7)), (DSBlock, (6, 4))])
def test_blocks(block, size, attn):
    layer = block(8, 16, attn_layer=attn, drop_path=0.1, act_layer=nn.SiLU, norm_layer=nn.BatchNorm2d)
    out = layer(torch.randn(4, 8, 11, 7))
    assert out.shape == (4, 16, *size)
    out.square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None] == []


def test_blocks_name_attention_and_sublayers():
    assert isinstance(CARBlock(8, 8).attn, CoordAttn)
    assert isinstance(CARBlock(8, 8, attn_layer=None).attn, nn.Identity)
    assert isinstance(CARBlock(8, 8).shortcut, nn.Identity)
    assert isinstance(CARBlock(8, 8, act_layer=nn.SiLU).act, nn.SiLU)


def test_car_block_is_figure_4():
    """The block put together by hand from its convolutions."""
    torch.manual_seed(0)
    block = CARBlock(8, 16).eval()
    x = torch.randn(2, 8, 5, 6)

    def layer(conv_bn, x):
        x = F.conv2d(x, conv_bn.conv.weight, padding=conv_bn.conv.weight.shape[-1] // 2)
        bn = conv_bn.bn
        return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    low = layer(block.reduce, x).relu()
    both = torch.cat([layer(block.branch1, low).relu(), layer(block.branch3, low).relu()], 1)
    expected = (layer(block.restore, block.attn(both)) + layer(block.shortcut, x)).relu()
    torch.testing.assert_close(block(x), expected)


def test_ds_block_skips_no_position():
    block = DSBlock(4, 4, attn_layer=None).eval()
    x = torch.randn(64, 4, 8, 8, requires_grad=True)
    pooled = F.max_pool2d(block.branch1(block.reduce(x)), 3, 2, 1)
    torch.testing.assert_close(block.branch1_pool(block.branch1(block.reduce(x))), pooled)
    block(x).sum().backward()
    assert (x.grad.abs().sum((0, 1)) > 0).all()


def reference_arcface(theta: np.ndarray, margin: float) -> np.ndarray:
    """cos(θ + m), and past π the line that continues it: cos θ - cos(π - m) - 1."""
    return np.where(theta + margin <= np.pi, np.cos(theta + margin), np.cos(theta) - np.cos(np.pi - margin) - 1)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 2.0])
def test_arcface_over_all_angles(margin):
    theta = np.linspace(0, np.pi, 721)
    cosine = torch.tensor(np.stack([np.cos(theta), np.full_like(theta, 0.25)], 1))
    logits = arcface_logits(cosine, torch.zeros(721, dtype=torch.int64), margin=margin, scale=16).numpy()
    inner = (theta > 0.0142) & (theta < np.pi - 0.0142)
    expected = 16 * reference_arcface(theta, margin)
    np.testing.assert_allclose(logits[inner, 0], expected[inner], atol=1e-10)
    np.testing.assert_allclose(logits[:, 0], expected, atol=0.32)  # the tangent at the ends: 2 % of s
    np.testing.assert_allclose(logits[:, 1], 4.0)
    assert (np.diff(logits[:, 0]) < 0).all()


def test_arcface_gradient_by_hand():
    """d/dcosθ cos(θ + m) = sin(θ + m) / sin θ, and 1 past π."""
    theta = np.radians([20.0, 60.0, 90.0, 150.0, 179.0])
    cosine = torch.tensor(np.cos(theta))[:, None].requires_grad_()
    arcface_logits(cosine, torch.zeros(5, dtype=torch.int64), margin=0.3, scale=8).sum().backward()
    expected = np.where(theta + 0.3 < np.pi, np.sin(theta + 0.3) / np.sin(theta), 1.0)
    np.testing.assert_allclose(cosine.grad[:, 0].numpy(), 8 * expected, rtol=1e-9)


@pytest.mark.parametrize("bf16", [False, True])
def test_arcface_is_finite_at_the_ends(bf16):
    head = ArcFaceHead(4, 3, margin=0.5, scale=64)
    x = torch.stack([head.weight[0], -head.weight[0], head.weight[1]]).detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = head(x, torch.tensor([0, 0, 1]))
        F.cross_entropy(logits, torch.tensor([0, 0, 1])).backward()
    cosine = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    arcface_logits(cosine, torch.tensor([0, 0]), margin=0.5, scale=64).sum().backward()
    for value in (logits, x.grad, head.weight.grad, cosine.grad):
        assert torch.isfinite(value).all()
    assert logits.dtype == torch.float32
    assert (cosine.grad.abs() > 1).all()
    assert cosine.grad.abs().max() < 64 * 71


def test_arcface_head():
    head = ArcFaceHead(5, 3, margin=0.2, scale=10)
    x = torch.randn(4, 5)
    cosine = torch.tensor([[torch.dot(a, w) / (a.norm() * w.norm()) for w in head.weight.detach()] for a in x])
    torch.testing.assert_close(head(x).detach(), 10 * cosine)
    labels = torch.tensor([0, 1, 2, 1])
    torch.testing.assert_close(head(x, labels), arcface_logits(cosine, labels, margin=0.2, scale=10))


@pytest.mark.parametrize("labels", [[3], [-1], [0, 1]])
def test_arcface_rejects_labels(labels):
    with pytest.raises(ValueError, match="label"):
        ArcFaceHead(4, 3)(torch.randn(1, 4), torch.tensor(labels))


def test_arcface_rejects_options():
    cosine, labels = torch.zeros(1, 3), torch.tensor([0])
    with pytest.raises(ValueError, match="radians"):
        arcface_logits(cosine, labels, margin=28.6, scale=8)
    with pytest.raises(ValueError, match="scale"):
        arcface_logits(cosine, labels, margin=0.1, scale=0)
    with pytest.raises(ValueError, match="integer"):
        arcface_logits(cosine, labels.float(), margin=0.1, scale=1)
