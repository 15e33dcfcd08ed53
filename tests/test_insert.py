"""Attention in networks that were made without it: nothing changes at first, and everything goes on working."""

import copy
import pickle
from functools import cache

import numpy as np
import onnxruntime
import pytest
import timm
import torch
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

# Small networks, each with something of its own, and where attention goes in the tests of the contract.
NETWORKS = {
    "test_resnet": "residual",
    "test_byobnet": "residual",
    "test_convnext": "residual",  # layer scale between branch and sum
    "test_efficientnet": "stages",
    "test_mambaout": "residual",  # channels last
    "test_maxvit": "residual",
    "test_nfnet": "residual",  # no batch norm
    "mobilenetv3_small_050": "attention",
    "regnety_002": "stages",  # stages run whatever children they have
    "densenet121": "stages",  # a ModuleDict with a forward of its own
    "ghostnet_050": "residual",
    "edgenext_xx_small": "residual",
}
MORE = {
    "tinynet_e": "residual",
}


def networks():
    return [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]


@cache
def _plain(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomize(timm.create_model(name, num_classes=5))


@cache
def _attended(name: str) -> nn.Module:
    return insert_attention(copy.deepcopy(_plain(name)), "coord", {**NETWORKS, **MORE}[name])


@pytest.fixture
def plain(name) -> nn.Module:
    return copy.deepcopy(_plain(name))


@pytest.fixture
def inserted(name) -> nn.Module:
    """A network with attention as it is inserted."""
    return copy.deepcopy(_attended(name))


@pytest.fixture
def trained(inserted) -> nn.Module:
    """A network whose inserted attention does something."""
    torch.manual_seed(1)
    for layer in inserted.modules():
        if isinstance(layer, InsertedAttention):
            for conv in (layer.attn.conv_h, layer.attn.conv_w):
                nn.init.normal_(conv.weight, std=0.3)
    return inserted


def every_network(test):
    return pytest.mark.parametrize("name", networks())(test)


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
def test_nothing_changes_at_insertion(plain, name, where):
    x = example_of(plain)
    try:
        assert check(plain, where, x, outputs(plain, x)[0]) > 0
    except ValueError as error:
        assert f"where={where!r} looks for" in str(error)  # noqa: PT017
        assert where != {**NETWORKS, **MORE}[name]


@pytest.mark.parametrize(
    "attention", ["coord", "se", "eca", "cbam", "gc", "nl", CoordAttn, lambda c: nn.Conv2d(c, c, 1)]
)
def test_nothing_changes_with_any_attention(attention):
    plain = _plain("test_resnet")
    model = insert_attention(copy.deepcopy(plain), attention)
    for training in (False, True):
        x = example_of(plain, 4)
        before = copy.deepcopy(plain).train(training)
        assert_same(outputs(model.train(training), x), outputs(before, x))
    neutral_by_itself = attention in ("coord", CoordAttn)
    gains = [name for name, _ in model.named_parameters() if name.endswith(".gain")]
    assert len(gains) == (0 if neutral_by_itself else 4)
    plainly = insert_attention(copy.deepcopy(plain), attention, neutral=False).eval()
    assert not torch.equal(*outputs(plainly, x), *outputs(plain, x))


@every_network
def test_every_inserted_parameter_learns(inserted, name):
    x = example_of(inserted, 2)
    mine = attention_parameters(inserted.train())
    others = [p for p in inserted.parameters() if all(p is not each for each in mine)]
    assert len(others) == len(list(_plain(name).parameters()))
    for parameter in others:
        parameter.requires_grad_(False)
    before = [parameter.detach().clone() for parameter in mine]
    optimizer = torch.optim.SGD(mine, lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):  # those behind a factor of zero learn from the second step on
        optimizer.zero_grad()
        (inserted(x) * torch.randn(2, 5, generator=generator)).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in mine)
        optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(mine, before, strict=True))


# The contract of timm's networks


@every_network
def test_features(trained, name):
    x = example_of(trained)
    if hasattr(trained, "forward_intermediates"):
        final, levels = trained.forward_intermediates(x)
        torch.testing.assert_close(trained.forward_head(final), trained(x))
        getter = FeatureGetterNet(copy.deepcopy(trained), out_indices=(0, 1))
        assert_same(outputs(getter, x), [level.detach() for level in levels[:2]])
    features = timm.create_model(name, features_only=True).eval()
    expected = outputs(features, x)
    places = {"residual": "residual", "stages": "stages", "attention": "attention"}[{**NETWORKS, **MORE}[name]]
    insert_attention(features, "coord", places)
    assert_same(outputs(features, x), expected)
    for layer in features.modules():
        if isinstance(layer, InsertedAttention):
            nn.init.ones_(layer.attn.conv_h.bias)
    changed = [not torch.equal(a, b) for a, b in zip(outputs(features, x), expected, strict=True)]
    assert changed[-1]
    assert all(changed[changed.index(True) :])


@every_network
def test_gradient_checkpointing(trained, name):
    x = example_of(trained, 2)

    def gradients(model, enable):
        model.set_grad_checkpointing(enable)
        model(x).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    trained.train()
    for module in trained.modules():  # what is random, and statistics
        if isinstance(module, (nn.Dropout, nn.modules.batchnorm._BatchNorm)):
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
def test_copies(trained, name):
    x = example_of(trained)
    expected = outputs(trained, x)
    assert_same(outputs(copy.deepcopy(trained), x), expected)
    assert_same(outputs(pickle.loads(pickle.dumps(trained)), x), expected)
    ema = ModelEmaV3(trained)
    assert_same(outputs(ema, x), expected)
    ema.update(trained)
    again = insert_attention(copy.deepcopy(_plain(name)), "coord", {**NETWORKS, **MORE}[name])
    again.load_state_dict(trained.state_dict())
    assert_same(outputs(again, x), expected)


@pytest.mark.parametrize("kind", ["channels_last", torch.bfloat16, torch.half])
@every_network
def test_memory_formats_and_types(plain, inserted, name, kind):
    x = example_of(plain)
    to = {"memory_format": torch.channels_last} if kind == "channels_last" else {"dtype": kind}
    assert_same(outputs(inserted.to(**to), x.to(**to)), outputs(plain.to(**to), x.to(**to)))
    cast = insert_attention(plain.to(**to), "coord", {**NETWORKS, **MORE}[name])
    assert {p.dtype for p in cast.parameters()} == {x.to(**to).dtype}


@every_network
def test_script_and_trace(trained, name):
    x = example_of(trained)
    expected = outputs(trained, x)[0]
    for converted in (torch.jit.script(trained), torch.jit.trace(trained, x)):
        with torch.no_grad():
            torch.testing.assert_close(converted(x), expected)


@every_network
def test_export_compile_and_fx(trained, name):
    x = example_of(trained, 2)
    expected = outputs(trained, x)[0]
    exported = torch.export.export(trained, (x,), dynamic_shapes=({0: torch.export.Dim("b")},))
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), expected)
        torch.testing.assert_close(torch.compile(trained, backend="aot_eager")(x), expected)
