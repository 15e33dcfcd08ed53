"""Networks made ready for inference compute what they did before."""

import copy

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

from mrcar_timm.layers import CARBlock
from mrcar_timm.models import MRCARResNet
from mrcar_timm.models.inference import InferenceNetwork, optimize_for_inference

SMALL = {"widths": (16, 24, 32), "stem_width": 8, "embed_dim": 16, "rd_ratio": 0.5}


def network(**arguments):
    """In evaluation mode, with nothing at the values it starts with: there, residual branches give zero."""
    torch.manual_seed(0)
    model = MRCARResNet(**{**SMALL, **arguments}).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"regions": ("face",)},
        {"regions": ("eyes", "mouth"), "in_chans": 1},
        {"shared": True},
        {"attn_layer": "none"},
        {"depths": (2, 1, 3), "drop_path_rate": 0.2, "drop_rate": 0.5},
        {"act_layer": nn.SiLU, "head": "linear"},
        {"num_classes": 0},
    ],
)
@pytest.mark.parametrize("count", [1, 3, 9])  # nine are too many to run together
@torch.inference_mode()
def test_same_function(arguments, count):
    model = network(**arguments)
    regions = torch.rand(count, len(model.regions), model.in_chans, 44, 36)
    faces = torch.rand(count, model.in_chans, 45, 33)
    expected = [model.double()(x.double()) for x in (regions, faces)]
    fast = optimize_for_inference(model.float().to(memory_format=torch.channels_last))
    assert isinstance(fast, InferenceNetwork) == (len(model.branches) > 1)
    for x, wanted in zip((regions, faces), expected, strict=True):
        kept = x.clone()
        torch.testing.assert_close(fast(x).double(), wanted, atol=1e-4, rtol=1e-4)
        assert torch.equal(x, kept)
    assert torch.equal(copy.deepcopy(fast)(regions), fast(regions))
    assert fast.double()(regions.double()).dtype == torch.float64


@pytest.mark.parametrize("arguments", [{"attn_layer": "se"}, {"norm_layer": LayerNorm2d}, {"act_layer": nn.PReLU}])
@torch.inference_mode()
def test_what_cannot_be_stacked_stays(arguments):
    model = network(**arguments)
    regions = torch.rand(2, 3, 3, 44, 44)
    expected = model(regions)
    fast = optimize_for_inference(model)
    assert not isinstance(fast, InferenceNetwork)
    torch.testing.assert_close(fast(regions), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_other_networks_are_folded_alone():
    block = CARBlock(8, 16).eval()
    x = torch.rand(2, 8, 9, 9)
    expected = block(x)
    fast = optimize_for_inference(block)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    torch.testing.assert_close(fast(x), expected)


def test_the_network_itself_stays_as_it_is():
    model = network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = optimize_for_inference(model)
    assert model.training
    assert not fast.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.model_args()["shared"] is model.shared is False
    assert len(model.eval().forward_intermediates(torch.rand(1, 3, 44, 44))[1]) == 4
