"""``mrcar_mobilenet``: its branches against timm's MobileNet, its attention against the inserted one, and compilers."""

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct, set_scriptable
from timm.models import create_feature_extractor
from timm.models._manipulate import group_parameters
from tools.distil import FaceMobileNet
from tools.everyday import Taught, take_mobilenet
from torch import nn

from mrcar_timm import WeightsError, insert_attention
from mrcar_timm.checkpoints.packaged import PACKAGED
from mrcar_timm.layers import CoordAttn
from mrcar_timm.models import MRCARMobileNet
from mrcar_timm.models.inference import optimize_for_inference

from .conftest import shaken

NAMES = [name for name in PACKAGED if name.startswith("mrcar_mobilenet.")]
ABLATIONS = [
    {},
    {"regions": ("face",)},
    {"regions": ("mouth",)},
    {"attn_layer": "none"},
    {"attn_layer": "se"},
    {"head": "linear"},
]
# Stage, output at 112×112: half of the sizes of MobileNet's table, which has 224; eyes and mouth at half of that.
FACE = [("conv1", (32, 56, 56)), ("stages.0", (128, 28, 28)), ("stages.1", (256, 14, 14)), ("stages.2", (512, 7, 7)),
        ("stages.3", (1024, 4, 4))]  # fmt: skip
PART = [("conv1", (32, 28, 28)), ("stages.0", (64, 28, 28)), ("stages.1", (128, 14, 14)), ("stages.2", (256, 7, 7)),
        ("stages.3", (256, 4, 4))]  # fmt: skip


def made(**kwargs) -> MRCARMobileNet:
    return shaken(timm.create_model("mrcar_mobilenet", **kwargs))


def convolutions(module: nn.Module) -> list[nn.Module]:
    return [each for each in module.modules() if isinstance(each, ConvNormAct)]


@pytest.mark.parametrize(("region", "table"), [("face", FACE), ("eyes", PART), ("mouth", PART)])
def test_sizes(region, table):
    branch = made().get_submodule(f"branches.{region}")
    seen = []
    for layer, _ in table:
        branch.get_submodule(layer).register_forward_hook(lambda *a: seen.append(tuple(a[2].shape[1:])))
    branch(torch.rand(1, 3, 112, 112))
    assert seen == [shape for _, shape in table]


def test_the_face_is_seen_by_mobilenet():
    """timm's own, with the same weights, gives the same features."""
    reference = shaken(timm.create_model("mobilenetv1_100", num_classes=0, global_pool=""))
    branch = made(attn_layer="none").branches["face"]
    convs = [m for m in reference.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in reference.modules() if isinstance(m, nn.BatchNorm2d)]
    ours = convolutions(branch)
    assert len(ours) == len(convs) == len(norms) == 27
    for own, conv, norm in zip(ours, convs, norms, strict=True):
        own.conv.load_state_dict(conv.state_dict())
        own.bn.load_state_dict(norm.state_dict(), strict=False)
    x = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(branch(x), reference.forward_features(x), atol=1e-5, rtol=1e-4)


def test_eyes_and_mouth_are_seen_at_half_the_size_by_the_first_five_blocks():
    model = made(attn_layer="none")
    face, eyes = model.branches["face"], model.branches["eyes"]
    for own, other in zip(convolutions(eyes), convolutions(face)[:11], strict=True):
        own.load_state_dict(other.state_dict())
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        seen = face.stages[:2](face.conv1(F.avg_pool2d(x, 2)))  # (B, 256, 6, 6)
        torch.testing.assert_close(eyes(x), F.avg_pool2d(seen, 2))


def test_attention_starts_without_effect():
    torch.manual_seed(0)
    model = timm.create_model("mrcar_mobilenet").eval()
    plain = timm.create_model("mrcar_mobilenet", attn_layer="none").eval()
    state = model.state_dict()
    plain.load_state_dict({key: state[key] for key in plain.state_dict()})
    x = torch.randn(2, 3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
    assert sum(isinstance(module, CoordAttn) for module in model.modules()) == 4 + 3 + 3


def test_attention_is_what_insert_attention_puts_there():
    model = made()
    state = model.state_dict()
    other = timm.create_model("mrcar_mobilenet", attn_layer="none").eval()
    other.load_state_dict({key: state[key] for key in other.state_dict()})
    attentions = {name: module for name, module in model.named_modules() if isinstance(module, CoordAttn)}
    hosts = {name: name.rsplit(".", 1)[0] + f".{int(name.rsplit('.', 1)[1]) - 1}" for name in attentions}
    insert_attention(other, "coord", where=list(hosts.values()))
    for name, host in hosts.items():
        other.get_submodule(f"{host}.inserted_attn.attn").load_state_dict(attentions[name].state_dict())
    x = torch.randn(2, 3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(other(x), model(x))


@pytest.mark.parametrize("kwargs", ABLATIONS)
def test_ablations(kwargs):
    model = made(num_classes=5, **kwargs).train()
    out = model(torch.randn(3, len(model.regions), 3, 64, 64))
    out.square().mean().backward()
    assert out.shape == (3, 5)
    assert [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def test_features_only_and_groups():
    model = timm.create_model("mrcar_mobilenet", features_only=True).eval()
    outputs = model(torch.rand(1, 3, 128, 128))
    assert [o.shape[1] for o in outputs] == model.feature_info.channels() == [256, 512, 1024, 1536]
    assert [128 // o.shape[2] for o in outputs] == model.feature_info.reduction() == [4, 8, 16, 32]
    model = timm.create_model("mrcar_mobilenet")
    groups = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert len(set(groups.values())) == 1 + 4 + 1  # stem, stages, head
    assert groups["branches.eyes.conv1.conv.weight"] < groups["branches.face.stages.3.0.1.conv.weight"]


def test_folded_for_inference_it_is_the_same():
    model = made()
    fast = optimize_for_inference(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    x = torch.randn(2, 3, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), atol=1e-4, rtol=1e-4)


def test_a_class_of_the_callers_has_no_name():
    with pytest.raises(WeightsError, match="CoordAttn"):
        timm.create_model("mrcar_mobilenet", attn_layer=CoordAttn).model_args()


BOTH_INPUTS = pytest.mark.parametrize("shape", [(2, 3, 64, 64), (2, 3, 3, 64, 64)])


@BOTH_INPUTS
@pytest.mark.filterwarnings("ignore")
def test_script_and_trace(shape):
    model, x = made(), torch.rand(shape)
    with set_scriptable(True), torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.jit.script(model)(x), expected)
        torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)


def test_fx():
    model, x = made(), torch.rand(2, 3, 64, 64)
    outputs = create_feature_extractor(model, {"branches.face.stages.0": "a", "head": "c"})(x)
    torch.testing.assert_close(outputs["c"], model(x))
    assert outputs["a"].shape == (2, 128, 16, 16)


@pytest.mark.slow
@BOTH_INPUTS
def test_export_with_a_dynamic_batch(shape):
    model = made()
    program = torch.export.export(model, (torch.rand(shape),), dynamic_shapes=({0: torch.export.Dim("b")},))
    x = torch.rand(5, *shape[1:])
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.slow
def test_compile():
    model, x = made(), torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), model(x))


@pytest.mark.slow
def test_onnx(tmp_path):
    """At 112 pixels, where pooling eyes and mouth meets a border."""
    model, file = made(), tmp_path / "model.onnx"
    x = torch.rand(2, 3, 3, 112, 112)
    torch.onnx.export(model, (x,), file, input_names=["x"], dynamo=True, dynamic_shapes=({0: torch.export.Dim("b")},))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = torch.rand(5, 3, 3, 112, 112)
    (actual,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(actual, model(x).detach().numpy(), rtol=1e-3, atol=1e-3)


# Where it starts


@torch.no_grad()
def test_a_trained_mobilenet_is_taken_over():
    """Its input is 64·x + 12, which the first batch norm takes over; at the border it pads with other zeros."""
    source = shaken(FaceMobileNet())
    source.layers[0][1].running_var.mul_(1000)  # as of values of 0…255
    branch = Taught("mrcar_mobilenet").eval().backbone.branches["face"]
    take_mobilenet(branch, {f"p.{key}": value for key, value in source.state_dict().items()}, "p.")
    x = torch.randn(2, 1, 112, 112)
    first = source.layers[0](x * 64 + 12)
    torch.testing.assert_close(branch.conv1(x)[..., 1:, 1:], first[..., 1:, 1:], atol=1e-3, rtol=1e-3)
    for own, layer in zip(convolutions(branch)[1:], source.layers[1:], strict=True):
        assert torch.equal(own.conv.weight, layer[0].weight)
        assert torch.equal(own.bn.running_var, layer[1].running_var)


# The packaged weights


@pytest.mark.parametrize("name", NAMES)
def test_pretrained(name):
    model = timm.create_model(name, pretrained=True).eval()
    labels = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt"]
    assert model.pretrained_cfg["label_names"] == labels[: model.num_classes]
    embedding = timm.create_model(name, pretrained=True, num_classes=0).eval()
    x = torch.randn(2, 3, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(model.head(embedding(x)), model(x))
    timm.create_model(name, pretrained=True, features_only=True, out_indices=(0, 2))
    assert "VGGFace2" in PACKAGED[name].notes
    assert "VGGFace2" in PACKAGED[name].starts[0]["terms"]


def test_the_three_are_one_network():
    states = [timm.create_model(name, pretrained=True, num_classes=0).state_dict() for name in NAMES]
    assert len(states) == 3
    for other in states[1:]:
        assert all(torch.equal(states[0][key], other[key]) for key in other)


def test_color_and_grey_give_the_same():
    color = timm.create_model("mrcar_mobilenet", pretrained=True).eval()
    grey = timm.create_model("mrcar_mobilenet", pretrained=True, in_chans=1).eval()
    x = torch.rand(4, 3, 112, 112)
    luma = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    with torch.no_grad():
        expected = color((x - 0.5) / 0.25)
        torch.testing.assert_close(color((luma.expand(-1, 3, -1, -1) - 0.5) / 0.25), expected, atol=3e-2, rtol=1e-2)
        torch.testing.assert_close(grey((luma - 0.5) / 0.25), expected, atol=3e-2, rtol=1e-2)
