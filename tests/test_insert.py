"""Attention in networks that were made without it: nothing changes at first, and everything goes on working."""

import copy
import pickle
import warnings
from copy import deepcopy
from functools import lru_cache

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from timm.models import create_feature_extractor
from timm.models._features import FeatureGetterNet, FeatureHookNet
from timm.models._manipulate import group_parameters
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3, reparameterize_model
from tools.insertion import check, example_of, randomize
from torch import nn

from mrcar_timm import attention_parameters, insert_attention, remove_attention
from mrcar_timm.layers import CoordAttn, insertions
from mrcar_timm.layers.dataflow import record
from mrcar_timm.layers.insert import InsertedAttention, _example
from mrcar_timm.models.inference import optimize_for_inference

from .conftest import SMALL

# Small networks, each with something of its own; where attention goes in the tests of the contract; their input.
NETWORKS = {
    "test_resnet": ("residual", 64),
    "test_byobnet": ("residual", 64),
    "test_convnext": ("residual", 64),  # layer scale between branch and sum
    "test_efficientnet": ("stages", 64),
    "test_mambaout": ("residual", 64),  # channels last
    "test_nfnet": ("residual", 64),  # no batch norm
    "mobilenetv3_small_050": ("attention", 64),
    "regnety_002": ("stages", 64),  # stages run whatever children they have
    "densenet121": ("stages", 64),  # a ModuleDict with a forward of its own
    "lcnet_035": ("attention", 64),
    "starnet_s050": ("residual", 64),
    "fasternet_t0": ("residual", 64),
}
# Some forty more networks, nearly each from another module, for the tests marked slow, with the input of their cfg.
_MORE = {
    "residual": (
        "cpubone_nano csatv2 cs3darknet_focus_s cspnext_tiny dla46x_c dpn48b efficientformer_l1 efficientformerv2_s0 "
        "efficientvit_b0 efficientvit_m0 edgenext_xx_small fastvit_t8 focalnet_tiny_srf hardcorenas_b hgnetv2_b0 "
        "hrnet_w18_small iformer_t inception_next_atto levit_conv_128s lowformer_b0 poolformerv2_s12 mobilevit_xxs "
        "repghostnet_050 res2next50 resnest14d resnetv2_18 legacy_seresnet18 skresnet18 swiftformer_xs "
        "ghostnet_050 test_maxvit "
        "swin_tiny_patch4_window7_224 tiny_vit_5m_224 visformer_tiny vitamin_small_224"
    ),
    "stages": "inception_v3 pvt_v2_b0 rexnet_100 shvit_s1 ese_vovnet19b_slim_dw",
    "attention": "efficientvim_m1",
}
MORE = {name: (where, None) for where, names in _MORE.items() for name in names.split()}
PLACES = NETWORKS | MORE
SMALLER = {"densenet121": {"block_config": (2, 2, 2, 2)}}


@lru_cache(16)  # the dozen; the forty would take gigabytes
def _plain(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomize(timm.create_model(name, num_classes=5, **SMALLER.get(name, {})))


@lru_cache(16)  # the dozen; the forty would take gigabytes
def _inserted(name: str) -> nn.Module:
    return insert(copy.deepcopy(_plain(name)), name)


def insert(model: nn.Module, name: str) -> nn.Module:
    return insert_attention(model, "coord", PLACES[name][0])


@pytest.fixture
def plain(name) -> nn.Module:
    return copy.deepcopy(_plain(name))


@pytest.fixture
def inserted(name) -> nn.Module:
    """A network with attention as it is inserted."""
    return copy.deepcopy(_inserted(name))


@pytest.fixture
def trained(inserted) -> nn.Module:
    """A network whose inserted attention does something."""
    return train(inserted)


@pytest.fixture
def x(name) -> torch.Tensor:
    side = PLACES[name][1]
    return images(side) if side else example_of(_plain(name), 2)


def images(side: int) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def train(model: nn.Module) -> nn.Module:
    """Give inserted attention an effect."""
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, InsertedAttention) and layer.gain is not None:
            nn.init.constant_(layer.gain, 0.5)
        elif isinstance(layer, InsertedAttention):
            for conv in (layer.attn.conv_h, layer.attn.conv_w):
                for parameter in conv.parameters():
                    nn.init.normal_(parameter, std=0.3)
    return model


def every_network(test):
    return pytest.mark.parametrize("name", NETWORKS)(test)


# Converted quickly, in the tests that are not slow; of the forty more, each is scripted or exported.
QUICK = ("test_resnet", "test_mambaout", "regnety_002", "densenet121")


def quick_ones_and(more):
    slow = [*(name for name in NETWORKS if name not in QUICK), *more]
    return pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)])


def outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        out = model(x)
    return list(out) if isinstance(out, (list, tuple)) else [out]


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


# At insertion


@pytest.mark.parametrize("where", ["residual", "stages", "attention"])
@every_network
def test_nothing_changes_at_insertion(plain, name, x, where):
    try:
        assert check(plain, where, x, outputs(plain, x)[0]) > 0
    except ValueError as error:
        assert f"where={where!r} looks for" in str(error)  # noqa: PT017
        assert where != NETWORKS[name][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_nothing_changes_in_forty_more(plain, name, x):
    assert check(plain, PLACES[name][0], x, outputs(plain, x)[0]) > 0


@pytest.mark.parametrize(
    "attention", ["coord", "se", "eca", "cbam", "gc", "nl", CoordAttn, lambda c: nn.Conv2d(c, c, 1)]
)
def test_nothing_changes_with_any_attention(attention):
    plain, x = _plain("test_resnet"), images(64)
    model = insert_attention(copy.deepcopy(plain), attention)
    for training in (True, False):
        before = copy.deepcopy(plain).train(training)
        assert_same(outputs(model.train(training), x), outputs(before, x))
        if training:
            model = insert_attention(copy.deepcopy(plain), attention)
    neutral_by_itself = attention in ("coord", CoordAttn)
    gains = [name for name, _ in model.named_parameters() if name.endswith(".gain")]
    assert len(gains) == (0 if neutral_by_itself else 4)
    plainly = insert_attention(copy.deepcopy(plain), attention, neutral=False)
    assert not torch.equal(*outputs(plainly, x), *outputs(plain, x))


@every_network
def test_every_inserted_parameter_learns_and_no_other(inserted, name, x):
    plain = {key: value.clone() for key, value in inserted.state_dict().items() if "inserted_attn" not in key}
    inserted.requires_grad_(False)
    mine = [parameter.requires_grad_(True) for parameter in attention_parameters(inserted)]
    optimizer = torch.optim.SGD(mine, lr=0.1)
    generator = torch.Generator().manual_seed(0)
    learned = set()
    for _ in range(3):  # those behind a factor of zero learn from the second step on
        optimizer.zero_grad()
        (inserted(x) * torch.randn(2, 5, generator=generator)).sum().backward()
        learned |= {index for index, p in enumerate(mine) if p.grad.any() and p.grad.isfinite().all()}
        optimizer.step()
    assert len(learned) == len(mine)
    assert {key for key, p in inserted.named_parameters() if p.requires_grad} == {
        key for key, _ in inserted.named_parameters() if "inserted_attn" in key
    }
    assert all(torch.equal(inserted.state_dict()[key], value) for key, value in plain.items())


# The contract of timm's networks


@every_network
def test_intermediate_features(trained, name, x):
    final, levels = trained.forward_intermediates(x)
    torch.testing.assert_close(trained.forward_head(final), trained(x))
    getter = FeatureGetterNet(copy.deepcopy(trained), out_indices=(0, 1))
    for actual, expected in zip(getter(x), levels[:2], strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "densenet121"])
def test_networks_that_give_features(name, x):
    features = randomize(timm.create_model(name, features_only=True))
    expected = outputs(features, x)
    insert(features, name)
    assert_same(outputs(features, x), expected)
    changed = [not torch.equal(a, b) for a, b in zip(outputs(train(features), x), expected, strict=True)]
    assert changed[-1]
    assert all(changed[changed.index(True) :])


def test_hooks_that_collect_features_see_attention():
    model = timm.create_model("test_resnet").eval()
    features = FeatureHookNet(model, out_indices=(1, 2))
    train(insert_attention(model, "coord", "stages"))
    x = images(64)
    _, levels = model.forward_intermediates(x)
    for actual, expected in zip(features(x), levels[1:3], strict=True):
        torch.testing.assert_close(actual, expected)


@quick_ones_and([])
def test_gradient_checkpointing(trained, name, x):
    def gradients(model: nn.Module, enable: bool) -> list[torch.Tensor]:
        model.set_grad_checkpointing(enable)
        torch.manual_seed(0)  # dropout, which need not be a module
        model(x.double()).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    trained.double().train()
    for module in trained.modules():  # a second pass changes statistics
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    expected = gradients(copy.deepcopy(trained), False)
    actual = gradients(trained, True)
    assert len(actual) == len(expected) > 0
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@every_network
def test_parameter_groups(inserted, name):
    for coarse in (False, True):
        groups = group_parameters(inserted, inserted.group_matcher(coarse))
        names = [each for group in groups.values() for each in group]
        assert sorted(names) == sorted(each for each, _ in inserted.named_parameters())
    decayed = param_groups_layer_decay(inserted)
    assert sum(len(group["params"]) for group in decayed) == len(list(inserted.parameters()))


@every_network
def test_copies(trained, name, x):
    expected = outputs(trained, x)
    assert_same(outputs(copy.deepcopy(trained), x), expected)
    assert_same(outputs(pickle.loads(pickle.dumps(trained)), x), expected)
    ema = ModelEmaV3(trained)
    ema.update(trained)
    assert_same(outputs(ema, x), expected)
    again = insert(copy.deepcopy(_plain(name)), name)
    again.load_state_dict(trained.state_dict())
    assert_same(outputs(again, x), expected)
    again.reset_classifier(3)
    assert again(x).shape == (2, 3)


@pytest.mark.parametrize("kind", ["channels_last", torch.bfloat16, pytest.param(torch.half, marks=pytest.mark.slow)])
@every_network
def test_memory_formats_and_types(plain, inserted, name, x, kind):
    to = {"memory_format": torch.channels_last} if kind == "channels_last" else {"dtype": kind}
    x = x.to(**to)
    assert_same(outputs(inserted.to(**to), x), outputs(plain.to(**to), x))
    assert {p.dtype for p in insert(plain, name).parameters()} == {x.dtype}


@quick_ones_and([name for name in list(MORE)[::2] if name != "hrnet_w18_small"])
def test_script(trained, name, x):  # hrnet cannot be scripted without attention either
    # In double precision: attention calls its convolutions there, and multiplies otherwise, which rounds otherwise.
    model, x = deepcopy(trained).double(), x.double()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is to go
        torch.testing.assert_close(torch.jit.script(model)(x), outputs(model, x)[0])


@pytest.mark.parametrize("name", ["test_resnet", "test_mambaout", "densenet121"])
def test_trace(trained, name, x):
    model, x = deepcopy(trained).double(), x.double()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(torch.jit.trace(model, x)(x), outputs(model, x)[0])


@quick_ones_and(list(MORE)[1::2])
def test_export_with_a_dynamic_batch(trained, name, x):
    exported = torch.export.export(trained, (x,), dynamic_shapes=({0: torch.export.Dim("b")},))
    three = x[[0, 1, 0]]
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(three), outputs(trained, three)[0])


@pytest.mark.parametrize("name", QUICK)
def test_compile(trained, name, x):
    with torch.no_grad():
        compiled = torch.compile(trained, backend="eager", fullgraph=True)(x)
        torch.testing.assert_close(compiled, outputs(trained, x)[0])


@pytest.mark.parametrize("name", ["test_resnet", pytest.param("test_mambaout", marks=pytest.mark.slow)])
def test_fx_and_onnx(trained, name, x, tmp_path):
    expected = outputs(trained, x)[0]
    graph = create_feature_extractor(trained, {"head": "head"} if name == "test_mambaout" else {"fc": "head"})
    with torch.no_grad():
        torch.testing.assert_close(graph(x)["head"], expected)
    file = tmp_path / "model.onnx"
    torch.onnx.export(trained, (x,), file, input_names=["x"], dynamo=True, dynamic_shapes=({0: torch.export.Dim("b")},))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    five = x[[0, 1, 0, 1, 0]]
    (actual,) = session.run(None, {"x": five.numpy()})
    np.testing.assert_allclose(actual, outputs(trained, five)[0].numpy(), rtol=1e-3, atol=1e-5)


# Places


def places_in(name: str, where, **kwargs) -> list[tuple]:
    model = insert_attention(timm.create_model(name), "coord", where, **kwargs)
    return [(each.module, each.channels, each.channels_last, each.how) for each in insertions(model)]


def test_places_by_hand():
    assert places_in("resnet18", "residual") == [
        (f"layer{stage}.{block}.bn2", 32 * 2**stage, False, "after") for stage in (1, 2, 3, 4) for block in (0, 1)
    ]
    assert places_in("resnet50", "residual")[0] == ("layer1.0.bn3", 256, False, "after")
    assert places_in("resnet18", "stages") == [
        ("act1", 64, False, "after"),
        *((f"layer{stage}", 32 * 2**stage, False, "last_child") for stage in (1, 2, 3, 4)),
    ]
    assert places_in("seresnet18", "attention") == [
        (f"layer{stage}.{block}.se", 32 * 2**stage, False, "after") for stage in (1, 2, 3, 4) for block in (0, 1)
    ]
    assert places_in("test_mambaout", "residual")[0] == ("stages.0.blocks.0.ls", 16, True, "after")
    assert places_in("regnety_002", "stages")[1] == ("s1", 24, False, "last_child")
    assert {how for *_, how in places_in("densenet121", "stages")} == {"behind", "after"}


def test_res2net_and_hrnet_add_up_more_than_branches():
    assert [name for name, *_ in places_in("res2net50_14w_8s", "residual")] == [
        f"layer{stage + 1}.{block}.bn3" for stage, depth in enumerate((3, 4, 6, 3)) for block in range(depth)
    ]


def test_mobilenets_attention_is_where_it_has_some():
    names = [name for name, *_ in places_in("mobilenetv3_large_100", "attention")]
    assert names == [f"blocks.{place}.se" for place in ("2.0", "2.1", "2.2", "4.0", "4.1", "5.0", "5.1", "5.2")]


def test_networks_without_attention_that_keep_room_for_it():
    assert [name for name, *_ in places_in("mobileone_s1", "attention")][:2] == ["stem.attn", "stages.0.0.attn"]


def test_stages_that_give_tokens_or_several_maps_are_left_out():
    assert [name for name, *_ in places_in("efficientformer_l1", "stages")] == ["stages.0", "stages.1", "stages.2"]
    assert "features.1" not in [name for name, *_ in places_in("selecsls42", "stages")]


def test_own_network():
    residual = [name for name, *_ in places_in("mrcar_resnet", "residual")]
    assert residual[0] == "branches.face.stages.0.0.restore"
    assert len(residual) == 18
    assert len(places_in("mrcar_resnet", "attention")) == 18
    with pytest.raises(ValueError, match="gives 64 channels, but feature_info says 192"):
        places_in("mrcar_resnet", "stages")
    shared = timm.create_model("mrcar_resnet", shared=True)
    assert len(insertions(insert_attention(shared, "coord"))) == 6


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("layer4", ["layer4"]),
        (["layer3.*", "layer4.*"], ["layer3.0", "layer3.1", "layer4.0", "layer4.1"]),
        (["layer?.1"], ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
        (["layer4.**.bn2", "layer4.1.bn2"], ["layer4.0.bn2", "layer4.1.bn2"]),
    ],
)
def test_places_by_name(where, expected):
    assert [name for name, *_ in places_in("resnet18", where)] == expected


def test_networks_of_torchvision():
    plain, x = torchvision.models.mobilenet_v3_small().eval(), images(64)
    model = insert_attention(copy.deepcopy(plain), "coord")
    assert [each.module for each in insertions(model)] == [f"features.{block}.block" for block in (3, 5, 6, 8, 10, 11)]
    assert_same(outputs(model, x), outputs(plain, x))
    assert not torch.equal(*outputs(train(model), x), *outputs(plain, x))
    with pytest.raises(ValueError, match="feature_info names.*where='residual' finds 6, where='attention' finds 9"):
        insert_attention(copy.deepcopy(plain), "coord", "stages")


def test_shape_alone_does_not_tell_channels_last():
    class Net(nn.Module):
        def __init__(self, last: bool) -> None:
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), last
            self.block = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.block(self.norm(x.permute(0, 2, 3, 1)) if self.last else x)

    for last in (False, True):
        model = insert_attention(Net(last), "coord", "block", example=torch.rand(1, 3, 64, 64))
        assert [each.channels_last for each in insertions(model)] == [last]


# Replacing and taking out


@pytest.mark.parametrize("attention", ["coord", "eca"])
def test_replaced_attention_comes_back(attention):
    plain, x = _plain("mobilenetv3_small_050"), images(64)
    model = insert_attention(copy.deepcopy(plain), attention, "attention", replace=True)
    assert not any("conv_reduce" in key for key in model.state_dict())
    without = copy.deepcopy(plain)
    for name in [each.module for each in insertions(model)]:
        parent, _, child = name.rpartition(".")
        setattr(without.get_submodule(parent), child, nn.Identity())
    assert_same(outputs(model, x), outputs(without, x))
    model = pickle.loads(pickle.dumps(copy.deepcopy(model.to(torch.bfloat16)))).float()
    remove_attention(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert insertions(model) == []
    replaced = insert_attention(copy.deepcopy(plain), attention, "attention", replace=True)
    assert_same(outputs(remove_attention(replaced), x), outputs(plain, x))


def test_attention_goes_into_several_places_one_after_the_other():
    plain, x = _plain("test_resnet"), images(64)
    model = insert_attention(insert_attention(copy.deepcopy(plain), "coord"), "se", "stages")
    assert {each.attention for each in insertions(model)} == {"coord", "se"}
    assert_same(outputs(model, x), outputs(plain, x))
    assert len(list(remove_attention(model).parameters())) == len(list(plain.parameters()))


def test_modes_device_and_frozen_statistics_are_taken_over():
    model = timm.create_model("test_resnet").train()
    model.layer1.eval()
    insert_attention(model, "coord")
    modes = {name: layer.training for name, layer in model.named_modules() if isinstance(layer, InsertedAttention)}
    assert [mode for name, mode in modes.items() if name.startswith("layer1")] == [False]
    assert all(mode for name, mode in modes.items() if not name.startswith("layer1"))
    with torch.device("meta"):
        model = timm.create_model("test_resnet")
    assert {p.device.type for p in attention_parameters(insert_attention(model, "coord"))} == {"meta"}


def test_the_dry_run_leaves_no_trace():
    model = randomize(timm.create_model("efficientformerv2_s0"))
    state, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    record(model, _example(model))
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    # Its attention keeps biases of an earlier forward pass; those of a dry run would be of the wrong weights.
    caches = [module.attention_bias_cache for module in model.modules() if hasattr(module, "attention_bias_cache")]
    assert caches
    assert not any(caches)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["repvgg_a0", "fastvit_t8", "repvit_m0_9", "tiny_vit_5m_224"])
@pytest.mark.slow
def test_reparameterized_networks_keep_attention(name):
    model = randomize(timm.create_model(name))
    if name == "repvgg_a0":
        with pytest.raises(ValueError, match="has none; where='stages' finds 5"):
            insert_attention(model, "coord")
    else:
        insert_attention(model, "coord")
    train(insert_attention(model, "coord", "stages"))
    x = example_of(model)
    expected = outputs(model, x)
    torch.testing.assert_close(outputs(reparameterize_model(model), x), expected, rtol=1e-3, atol=1e-4)


def test_folding_for_inference_keeps_attention():
    x = torch.rand(1, 3, 3, 44, 44)
    for where in ("residual", ["branches.**.restore.conv"], ["branches.**.reduce.bn"], "attention"):
        torch.manual_seed(0)
        model = randomize(timm.create_model("mrcar_resnet", **SMALL.model_args))
        train(insert_attention(model, "coord", where))
        torch.testing.assert_close(optimize_for_inference(model)(x), model(x), rtol=1e-3, atol=1e-4)


def test_batch_norms_that_were_converted():
    model = insert_attention(timm.create_model("test_resnet"), "coord")
    with pytest.raises(ValueError, match=r"layer1.0.bn2 has lost the hook.*insert attention after"):
        attention_parameters(nn.SyncBatchNorm.convert_sync_batchnorm(model))


# Errors


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("resnet18", {"where": "residuals"}, r"no module is named 'residuals'; near: residual"),
        ("resnet18", {"where": ["layer5.*"]}, r"no module is named 'layer5.\*'; near: layer\d"),
        ("resnet18", {"where": []}, "no module was named"),
        ("resnet18", {"where": "fc"}, r"fc gives \(1, 1000\) for a square image: no feature map"),
        ("resnet18", {"where": "attention"}, "ResNet has none; where='residual' finds 8, where='stages' finds 5"),
        ("test_vit", {}, r"VisionTransformer has none; it computes on tokens \(B, N, C\)"),
        ("test_vit", {"where": "stages"}, r"VisionTransformer has none; it computes on tokens"),
        ("nest_tiny", {}, "where='stages' finds 3"),
        ("resnet18", {"attention": "cord"}, "knows no attention 'cord'"),
        ("resnet18", {"attention": None}, "a name, a class or a callable, got None"),
        ("resnet18", {"attention": lambda c: nn.Conv2d(c, c, 3)}, r"does not run: .*54.* must match .*56"),
        (
            "resnet18",
            {"attention": lambda c: nn.MaxPool2d(2), "neutral": False, "where": "layer4"},
            r"makes \(1, 512, 3",
        ),
        ("resnet18", {"attention": lambda c: nn.Conv2d(2 * c, c, 1)}, "the network does not run"),
        (
            "resnet18",
            {"where": "layer2.0.conv1", "replace": True},
            r"cannot replace layer2.0.conv1, which makes \(1, 128",
        ),
        ("resnet18", {"example": torch.rand(1, 3, 64, 96)}, r"must be square.*got \(1, 3, 64, 96\)"),
        ("resnet18", {"example": torch.rand(1, 5, 64, 64)}, r"does not take a batch of shape \(1, 5, 64, 64\)"),
    ],
)
def test_what_cannot_be(name, kwargs, message):
    model = timm.create_model(name)
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        insert_attention(model, **kwargs)
    assert list(model.state_dict()) == keys
    with pytest.raises(ValueError, match="no attention was inserted"):
        remove_attention(model)
    with pytest.raises(ValueError, match="no attention was inserted"):
        attention_parameters(model)


def test_twice_at_one_place():
    model = insert_attention(timm.create_model("test_resnet"), "coord")
    for where in ("residual", "layer1.0.bn2"):
        with pytest.raises(ValueError, match="layer1.0.bn2 has attention already"):
            insert_attention(model, "se", where)
    model = insert_attention(timm.create_model("mobilenetv3_small_050"), "coord", "attention", replace=True)
    with pytest.raises(ValueError, match="blocks.0.0.se has attention already"):
        insert_attention(model, "se", "attention")


def test_a_module_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    with pytest.raises(ValueError, match="conv runs 2 times in a forward pass"):
        insert_attention(Twice(), "coord", "conv", example=torch.rand(1, 3, 8, 8))
