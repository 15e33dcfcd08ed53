"""MrCAR on MobileNet: face, eyes and mouth by depthwise convolutions, with coordinate attention and ArcFace.

Papers:
- `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals` -
  https://doi.org/10.1109/ACCESS.2023.3285781
- `MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications` -
  https://arxiv.org/abs/1704.04861
"""

from functools import partial
from typing import Any

import torch
from timm.layers import ConvNormAct, create_attn
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import nn

from ..layers.car_block import AttnLayer
from ..layers.coord_attn import CoordAttn, UnitGate
from ..regions.geometry import REGIONS, check_regions
from .build import build_region_network, packaged_cfgs
from .staged_network import StagedNetwork, cfg_of

__all__ = ["MRCARMobileNet", "mrcar_mobilenet"]

# Widths of the blocks of each stage: all of MobileNet's for the face; eyes and mouth are seen at half the size by its
# first five. Both stages end at the same reductions: 4, 8, 16 and 32.
STEM_WIDTH = 32
FACE_STAGES = ((64, 128, 128), (256, 256), (512,) * 6, (1024,) * 2)
PART_STAGES = ((64,), (128, 128), (256, 256))


class DepthwiseSeparable(nn.Sequential):
    """A depthwise 3×3 and a 1×1 convolution, each with batch norm and ReLU6.

    Shape:
        (B, in_chs, H, W) to (B, out_chs, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int, **factory: Any) -> None:
        super().__init__(
            ConvNormAct(in_chs, in_chs, 3, stride=stride, groups=in_chs, act_layer=nn.ReLU6, **factory),
            ConvNormAct(in_chs, out_chs, 1, act_layer=nn.ReLU6, **factory),
        )


class MobileNetBranch(nn.Module):
    """MobileNet's stem and blocks for one region, with attention behind each stage.

    Args:
        in_chans: Channels of the image.
        stages: Widths of the blocks of each stage.
        halved: Whether the region is seen at half the size; the features are then halved once more, so that they fit
            those of the face.
        attn_layer: Attention behind each stage.
        factory: Device and type of the parameters.

    Shape:
        (B, in_chans, H, W) to (B, stages[-1][-1], ⌈H/32⌉, ⌈W/32⌉).
    """

    def __init__(
        self,
        in_chans: int,
        stages: tuple[tuple[int, ...], ...],
        halved: bool,
        attn_layer: AttnLayer,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.halve = _halve() if halved else nn.Identity()
        self.conv1 = ConvNormAct(in_chans, STEM_WIDTH, 3, stride=2, act_layer=nn.ReLU6, **factory)
        made: list[nn.Module] = []
        prev = STEM_WIDTH
        for widths in stages:
            layers: list[nn.Module] = []
            for width in widths:
                stride = 2 if width > prev > STEM_WIDTH else 1
                layers.append(DepthwiseSeparable(prev, width, stride, **factory))
                prev = width
            if attn_layer is not None and attn_layer != "none":
                layers.append(_make_attn(attn_layer, prev, **factory))
            made.append(nn.Sequential(*layers))
        if halved:
            made.append(_halve())
        self.stages = nn.Sequential(*made)
        self.grad_checkpointing = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(self.halve(x))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.stages, x)
        return self.stages(x)

    @torch.jit.ignore
    def forward_intermediates(self, x: torch.Tensor, take: list[int], last: int) -> list[torch.Tensor]:
        """Outputs of the stages in ``take``, then that of stage ``last``."""
        x = self.conv1(self.halve(x))
        taken = []
        for index, stage in enumerate(self.stages[: last + 1]):
            x = checkpoint_seq(stage, x) if self.grad_checkpointing and not torch.jit.is_scripting() else stage(x)
            if index in take:
                taken.append(x)
        return [*taken, x]


def _halve() -> nn.Module:
    return nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)


def _make_attn(attn_layer: AttnLayer, channels: int, **factory: Any) -> nn.Module:
    """Attention; coordinate attention has gates of 0…2, which start at one, so that a trained backbone stays itself."""
    if attn_layer == "coord":
        return CoordAttn(channels, gate_layer=UnitGate, **factory)
    return create_attn(attn_layer, channels, **factory)


class MRCARMobileNet(StagedNetwork):
    """MobileNet v1 for the face and its first blocks for eyes and mouth, with coordinate attention behind each stage.

    What the branches see is fused by a fully connected layer into an embedding, which the head classifies. Input and
    regions are as in :class:`~mrcar_timm.models.MRCARResNet`. Any H, W of at least 32 works.

    Args:
        num_classes: Number of classes; 0 gives embeddings.
        in_chans: Channels of the input.
        global_pool: "avg", "max" or "avgmax"; "" (with ``num_classes=0``) gives unpooled features.
        regions: Regions that are looked at, a choice of "face", "eyes", "mouth".
        attn_layer: Attention behind the stages: "coord", another name or class that :func:`timm.layers.create_attn`
            takes, or "none". Coordinate attention starts without effect.
        head: "arcface" or "linear".
        margin: Margin of the ArcFace head in radians; acts in training only.
        scale: Scale of the ArcFace head.
        embed_dim: Width of the embedding; 0 for none, so that the head takes the pooled features.
        drop_rate: Dropout before the head.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Example:
        >>> model = MRCARMobileNet(num_classes=8).eval()
        >>> model(torch.rand(2, 3, 112, 112)).shape, model(torch.rand(2, 3, 3, 112, 112)).shape
        (torch.Size([2, 8]), torch.Size([2, 8]))
    """

    def __init__(
        self,
        num_classes: int = 8,
        in_chans: int = 3,
        global_pool: str = "avg",
        regions: tuple[str, ...] = REGIONS,
        attn_layer: AttnLayer = "coord",
        head: str = "arcface",
        margin: float = 0.1,
        scale: float = 16.0,
        embed_dim: int = 128,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        regions = check_regions(regions)
        branches: dict[str, nn.Module] = {}
        widths = [0, 0, 0, 0]
        for name in regions:
            stages = FACE_STAGES if name == "face" else PART_STAGES
            branches[name] = MobileNetBranch(in_chans, stages, name != "face", attn_layer, **factory)
            ends = [stage[-1] for stage in stages]
            for i in range(4):
                widths[i] += ends[min(i, len(ends) - 1)]
        feature_info = [
            {"num_chs": chs, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, chs in enumerate(widths)
        ]
        super().__init__(
            branches, feature_info, regions, widths[-1], widths[-1], num_classes, in_chans, global_pool, head, margin,
            scale, embed_dim, drop_rate, **factory,
        )  # fmt: skip
        self.structure: dict[str, Any] = {
            "regions": list(regions), "attn_layer": attn_layer, "head": head, "margin": margin, "scale": scale,
            "embed_dim": embed_dim,
        }  # fmt: skip
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Kaiming for convolutions; coordinate attention starts without effect."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, CoordAttn) and isinstance(module.gate, UnitGate):
                for conv in (module.conv_h, module.conv_w):
                    nn.init.zeros_(conv.weight)


def _create_mrcar_mobilenet(variant: str, pretrained: bool = False, **kwargs: Any) -> MRCARMobileNet:
    stages = None
    if kwargs.get("features_only"):
        _, last = feature_take_indices(4, kwargs.get("out_indices"))
        stages = last + 1
    return build_region_network(MRCARMobileNet, variant, pretrained, stages, default_out_indices=(0, 1, 2, 3), **kwargs)


_cfg = partial(cfg_of, num_classes=8, size=112, pool_size=4, min_size=32)
default_cfgs = generate_default_cfgs(packaged_cfgs("mrcar_mobilenet", _cfg))


@register_model
def mrcar_mobilenet(pretrained: bool = False, **kwargs: Any) -> MRCARMobileNet:
    """MobileNet v1 with coordinate attention for the face, its first blocks for eyes and mouth."""
    return _create_mrcar_mobilenet("mrcar_mobilenet", pretrained, **kwargs)
