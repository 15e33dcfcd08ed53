"""The networks' contract, to the standard of timm's own tests/test_models.py."""

import copy
import fnmatch
import re

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from timm.layers import set_scriptable
from timm.models import FeatureInfo, create_feature_extractor
from timm.models._manipulate import group_parameters
from torch import nn

from mrcar_timm import WeightsError
from mrcar_timm.checkpoints.packaged import PACKAGED
from mrcar_timm.layers import ArcFaceHead, CARBlock, CoordAttn
from mrcar_timm.models import MRCARResNet
from mrcar_timm.models.region_network import checkpoint_filter_fn

from .conftest import shaken

NAMES = timm.list_models("mrcar_*")
BOTH = pytest.mark.parametrize("name", NAMES)
ABLATIONS = [
    {}, {"regions": ("face",)}, {"attn_layer": "none"}, {"attn_layer": "se"}, {"head": "linear"}, {"shared": True},
]  # fmt: skip
# Layer, output at 44×44: the paper's table, row by row.
TABLE = [
    ("conv1", (64, 44, 44)), ("maxpool", (64, 22, 22)),
    ("stages.0.0", (128, 22, 22)), ("stages.0.1", (128, 11, 11)),
    ("stages.1.0", (256, 11, 11)), ("stages.1.1", (256, 6, 6)),
    ("stages.2.0", (512, 6, 6)), ("stages.2.1", (512, 3, 3)),
]  # fmt: skip


def test_registered():
    assert NAMES == ["mrcar_mobilenet", "mrcar_resnet"]
    assert timm.list_models("mrcar_*", pretrained=True) == list(PACKAGED)
    assert timm.create_model("mrcar_resnet", pretrained=True).pretrained_cfg["tag"] == "fer2013"
    assert timm.create_model("mrcar_mobilenet", pretrained=True).pretrained_cfg["tag"] == "everyday"


@pytest.fixture(params=NAMES)
def net(request) -> nn.Module:
    """Each network, untrained, with statistics that do something, in evaluation mode."""
    return shaken(timm.create_model(request.param, num_classes=7))


@pytest.mark.parametrize("region", ["face", "eyes", "mouth"])
@pytest.mark.parametrize(("layer", "shape"), TABLE)
def test_sizes_of_the_papers_table(model, region, layer, shape):
    seen = []
    model.get_submodule(f"branches.{region}.{layer}").register_forward_hook(lambda *a: seen.append(a[2].shape))
    model(torch.rand(1, 3, 44, 44))
    assert seen == [(1, *shape)]


def test_pooled_size_and_parameters(model):
    pooled = model.global_pool(model.forward_features(torch.rand(2, 3, 44, 44)))
    assert pooled.shape == (2, 3 * 512)
    assert sum(p.numel() for p in model.parameters()) < 5_000_000


@pytest.mark.parametrize("size", [(44, 44), (98, 98), (64, 48), (101, 77), (16, 16)])
def test_faces_and_regions_of_any_size(net, size):
    size = tuple(max(each, low) for each, low in zip(size, net.default_cfg["min_input_size"][1:], strict=True))
    with torch.no_grad():
        assert net(torch.rand(2, 3, *size)).shape == (2, 7)
        assert net(torch.rand(2, 3, 3, *size)).shape == (2, 7)


def test_without_attention_there_is_none():
    """timm.create_model drops arguments that are None, so that the name must do."""
    model = timm.create_model("mrcar_resnet", attn_layer="none")
    assert not [module for module in model.modules() if isinstance(module, CoordAttn)]
    assert [type(m.attn) for m in model.modules() if isinstance(m, CARBlock)] == [torch.nn.Identity] * 18


def test_shared_branch_sees_each_region_as_a_branch_of_its_own_would():
    torch.manual_seed(0)
    shared = timm.create_model("mrcar_resnet", shared=True).eval()
    apart = timm.create_model("mrcar_resnet").eval()
    state = shared.state_dict()
    spread = {key: state[re.sub(r"^branches\.\w+", "branches.shared", key)] for key in apart.state_dict()}
    apart.load_state_dict(spread)
    x = torch.rand(2, 3, 3, 44, 44)
    torch.testing.assert_close(shared(x), apart(x))
    assert sum(p.numel() for p in shared.parameters()) < 0.45 * sum(p.numel() for p in apart.parameters())


def test_a_face_is_cut_at_the_canonical_places(net):
    """The eyes' box is x 3…41, y 6…25 of 44, the mouth's 9…35, 26…44."""
    face = torch.rand(2, 3, 44, 44)
    zoom = nn.Upsample((44, 44), mode="bilinear", align_corners=False)
    regions = torch.stack([face, zoom(face[:, :, 6:25, 3:41]), zoom(face[:, :, 26:44, 9:35])], 1)
    with torch.no_grad():
        torch.testing.assert_close(net(face), net(regions))


@pytest.mark.parametrize(("shape", "message"), [((3, 44, 44), "3 dimensions"), ((1, 2, 3, 44, 44), "3 regions.*got 2")])
def test_wrong_rank_or_region_count(net, shape, message):
    with pytest.raises(ValueError, match=message):
        net(torch.rand(shape))


@pytest.mark.parametrize("kwargs", ABLATIONS)
def test_ablations(kwargs):
    model = timm.create_model("mrcar_resnet", **kwargs).eval()
    n = len(model.regions)
    assert model(torch.rand(2, 3, 44, 44)).shape == model(torch.rand(2, n, 3, 44, 44)).shape == (2, 7)
    assert isinstance(model.head, nn.Linear if kwargs.get("head") else ArcFaceHead)


@BOTH
@pytest.mark.parametrize("kwargs", [{"regions": ()}, {"regions": ("nose",)}, {"head": "cosface"}])
def test_wrong_arguments(name, kwargs):
    with pytest.raises(ValueError, match="must be"):
        timm.create_model(name, **kwargs)


@pytest.mark.parametrize("kwargs", ABLATIONS)
def test_backward(kwargs):
    model = timm.create_model("mrcar_resnet", num_classes=42, drop_path_rate=0.1, **kwargs).train()
    out = model(torch.randn(4, 3, 44, 44))
    out.square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert out.shape == (4, 42)
    assert torch.isfinite(out).all()


@BOTH
@pytest.mark.parametrize("in_chans", [1, 3, 4])
@pytest.mark.parametrize("num_classes", [0, 7, 8, 42])
def test_in_chans_and_num_classes(name, in_chans, num_classes):
    model = timm.create_model(name, in_chans=in_chans, num_classes=num_classes).eval()
    assert model.in_chans == in_chans
    assert model(torch.rand(1, in_chans, 44, 44)).shape == (1, num_classes or model.head_hidden_size)


def test_features_head_and_classifier(net):
    x = torch.rand(2, *net.default_cfg["input_size"])
    features = net.forward_features(x)
    assert features.shape == (2, net.num_features, *net.default_cfg["pool_size"])
    embedding = net.forward_head(features, pre_logits=True)
    assert embedding.shape == (2, net.head_hidden_size)
    torch.testing.assert_close(net.head(embedding), net(x))
    assert net.get_classifier() is net.head
    assert f"{net.default_cfg['classifier']}.weight" in net.state_dict()
    for name in net.default_cfg["first_conv"]:
        assert f"{name}.weight" in net.state_dict()
    net.reset_classifier(5)
    assert net(x).shape == (2, 5)
    assert isinstance(net.head, ArcFaceHead)
    net.reset_classifier(0)
    torch.testing.assert_close(net(x), embedding)
    net.reset_classifier(0, "max")
    assert net(x).shape == embedding.shape
    assert not torch.allclose(net(x), embedding)
    net.reset_classifier(0, "")
    torch.testing.assert_close(net(x), features)
    assert net.head_hidden_size == net.num_features
    net.reset_classifier(5)
    torch.testing.assert_close(net(x), net.head(features.mean((2, 3))))


@BOTH
def test_unsupported_pooling(name):
    with pytest.raises(AssertionError, match="global_pool"):
        timm.create_model(name, global_pool="catavgmax")
    with pytest.raises(AssertionError, match="num_classes=0"):
        timm.create_model(name, global_pool="")
    assert timm.create_model(name, num_classes=0, global_pool="")(torch.rand(2, 3, 44, 44)).ndim == 4
    with pytest.raises(TypeError):
        timm.create_model(name, not_an_argument=1)


@BOTH
def test_parents_device_and_type_survive_reset(name):
    model = timm.create_model(name).to(device="meta", dtype=torch.float64).eval()
    model.reset_classifier(2)
    assert (model.head.weight.device.type, model.head.weight.dtype) == ("meta", torch.float64)
    assert not any(module.training for module in model.modules())
    on_meta = timm.create_model(name, device="meta", dtype=torch.float32)
    assert {t.device.type for t in on_meta.state_dict().values()} == {"meta"}


def test_parameter_groups(model):
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert len(set(groups.values())) == 2 + 3 * 2  # stem, six blocks, fusion and head
    assert groups["branches.eyes.conv1.conv.weight"] < groups["branches.face.stages.2.1.restore.conv.weight"]
    names = [name for name, _ in model.named_parameters()]
    assert all(any(fnmatch.fnmatch(n, pattern) for n in names) for pattern in model.no_weight_decay())


def test_features_only():
    model = timm.create_model("mrcar_resnet", features_only=True).eval()
    outputs = model(torch.rand(1, 3, 96, 96))
    assert [o.shape[1] for o in outputs] == model.feature_info.channels() == [192, 384, 768, 1536]
    assert [96 // o.shape[2] for o in outputs] == model.feature_info.reduction() == [2, 4, 8, 16]


def test_forward_intermediates(net):
    x = torch.rand(2, 3, 44, 44)
    info = FeatureInfo(net.feature_info, len(net.feature_info))
    final, levels = net.forward_intermediates(x)
    assert [level.shape[1] for level in levels] == info.channels()
    torch.testing.assert_close(final, net.forward_features(x))
    torch.testing.assert_close(levels[-1], final)
    assert len(net.forward_intermediates(x, indices=2, intermediates_only=True)) == 2
    final, (level,) = net.forward_intermediates(x, indices=[1], stop_early=True)
    torch.testing.assert_close(final, level)
    pruned = copy.deepcopy(net)
    assert pruned.prune_intermediate_layers([1]) == [1]
    torch.testing.assert_close(pruned(x), level)
    pruned.reset_classifier(7, "avg")
    assert pruned(x).shape == (2, 7)
    assert pruned.head_hidden_size == net.feature_info[1]["num_chs"]


def test_grad_checkpointing(net):
    x = torch.randn(2, 3, 44, 44)
    expected = net(x)
    expected.sum().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net.set_grad_checkpointing()
    actual = net(x)
    actual.sum().backward()
    torch.testing.assert_close(actual, expected)
    for p, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient)


@pytest.fixture
def small() -> torch.nn.Module:
    """As ``model``, with few channels, for compilers, which take as long for each operation whatever its width."""
    torch.manual_seed(0)
    net = timm.create_model("mrcar_resnet", stem_width=16, widths=(16, 16), depths=(1, 1), embed_dim=16)
    net.init_weights(zero_init_last=False)
    return net.eval()


BOTH_INPUTS = pytest.mark.parametrize("shape", [(3, 3, 44, 44), (3, 3, 3, 44, 44)])


@BOTH_INPUTS
@pytest.mark.filterwarnings("ignore")
def test_script_and_trace(small, shape):
    x = torch.rand(shape)
    with set_scriptable(True), torch.no_grad():
        expected = small(x)
        torch.testing.assert_close(torch.jit.script(small)(x), expected)
        torch.testing.assert_close(torch.jit.trace(small, x)(x), expected)


def test_fx(model):
    x = torch.rand(2, 3, 44, 44)
    outputs = create_feature_extractor(model, {"branches.face.stages.0": "a", "head": "c"})(x)
    torch.testing.assert_close(outputs["c"], model(x))
    assert outputs["a"].shape == (2, 128, 11, 11)


@pytest.mark.slow
@BOTH_INPUTS
def test_export_with_a_dynamic_batch(small, shape):
    program = torch.export.export(small, (torch.rand(shape),), dynamic_shapes=({0: torch.export.Dim("b")},))
    for batch in (2, 5):
        x = torch.rand(batch, *shape[1:])
        torch.testing.assert_close(program.module()(x), small(x))


@pytest.mark.slow
def test_compile(small):
    x = torch.rand(2, 3, 44, 44)
    compiled = torch.compile(small, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), small(x))


@pytest.mark.slow
def test_onnx(small, tmp_path):
    x = torch.rand(2, 3, 44, 44)
    file = tmp_path / "model.onnx"
    torch.onnx.export(small, (x,), file, input_names=["x"], dynamo=True, dynamic_shapes=({0: torch.export.Dim("b")},))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = torch.rand(5, 3, 44, 44)
    (actual,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(actual, small(x).detach().numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_types(net, dtype):
    x = torch.rand(2, 3, 44, 44)
    expected = net(x)
    out = net.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=0.5, rtol=0.1)


# The packaged weights


def test_pretrained():
    model = timm.create_model("mrcar_resnet", pretrained=True).eval()
    assert isinstance(model, MRCARResNet)
    cfg = model.pretrained_cfg
    assert cfg["label_names"] == ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    assert cfg["license"]
    assert "ACCESS.2023.3285781" in cfg["origin_url"]
    assert cfg["paper_ids"]
    embedding = timm.create_model("mrcar_resnet", pretrained=True, num_classes=0).eval()
    x = torch.randn(2, 3, 44, 44)
    torch.testing.assert_close(model.head(embedding(x)), model(x))
    timm.create_model("mrcar_resnet", pretrained=True, in_chans=4, num_classes=5)
    timm.create_model("mrcar_resnet", pretrained=True, features_only=True)


def test_color_and_grey_give_the_same():
    color = timm.create_model("mrcar_resnet", pretrained=True).eval()
    grey = timm.create_model("mrcar_resnet", pretrained=True, in_chans=1).eval()
    x = torch.rand(4, 3, 44, 44)
    luma = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    with torch.no_grad():
        expected = color((x - 0.5) / 0.25)
        torch.testing.assert_close(color((luma.expand(-1, 3, -1, -1) - 0.5) / 0.25), expected, atol=2e-2, rtol=1e-2)
        torch.testing.assert_close(grey((luma - 0.5) / 0.25), expected, atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("num_classes", [7, 5])
def test_weights_that_do_not_fit(num_classes):
    with pytest.raises(WeightsError, match="lack"):
        timm.create_model("mrcar_resnet", pretrained=True, attn_layer="se", num_classes=num_classes)
    model = timm.create_model("mrcar_resnet")
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match="lack"):
        checkpoint_filter_fn(state, model)
