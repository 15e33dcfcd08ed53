"""Networks made ready for inference compute what they did before."""

import copy

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

from mrcar_timm.layers import CARBlock
from mrcar_timm.models import MRCARResNet
from mrcar_timm.models.inference import fold_for_inference

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
        {"num_classes": 0, "global_pool": ""},
    ],
)
@pytest.mark.parametrize("count", [1, 3, 9])  # nine are too many to run together
@torch.inference_mode()
def test_same_function(arguments, count):
    model = network(**arguments)
    regions = torch.rand(count, len(model.regions), model.in_chans, 44, 36)
    faces = torch.rand(count, model.in_chans, 45, 33)
    expected = [model.double()(x.double()) for x in (regions, faces)]
    fold_for_inference(model.float().to(memory_format=torch.channels_last))
    assert list(model.branches) == ["stacked"]
    for x, wanted in zip((regions, faces), expected, strict=True):
        kept = x.clone()
        torch.testing.assert_close(model(x).double(), wanted, atol=1e-4, rtol=1e-4)
        assert torch.equal(x, kept)
    assert torch.equal(copy.deepcopy(model)(regions), model(regions))
    assert model.double()(regions.double()).dtype == torch.float64


@pytest.mark.parametrize("arguments", [{"attn_layer": "se"}, {"norm_layer": LayerNorm2d}, {"act_layer": nn.PReLU}])
@torch.inference_mode()
def test_what_cannot_be_stacked_stays(arguments):
    model = network(**arguments)
    regions = torch.rand(2, 3, 3, 44, 44)
    expected = model(regions)
    fold_for_inference(model)
    assert list(model.branches) == ["face", "eyes", "mouth"]
    torch.testing.assert_close(model(regions), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_other_networks_are_folded_alone():
    block = CARBlock(8, 16).eval()
    x = torch.rand(2, 8, 9, 9)
    expected = block(x)
    fold_for_inference(block)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
    torch.testing.assert_close(block(x), expected)
