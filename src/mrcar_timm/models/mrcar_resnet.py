"""MrCAR: multi-regional coordinate-attention residual network.

Paper: `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals` -
https://doi.org/10.1109/ACCESS.2023.3285781
"""

from functools import partial
from typing import Any

import torch
from timm.layers import ConvNormAct
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import nn

from ..layers.car_block import AttnLayer, CARBlock, DSBlock
from ..regions.geometry import REGIONS, check_regions
from .build import build_region_network, packaged_cfgs
from .staged_network import StagedNetwork, cfg_of

__all__ = ["MRCARResNet", "mrcar_resnet"]


class RegionBranch(nn.Module):
    """The residual network of one region: the paper's table from Conv1 to DSblock3.

    Shape:
        (B, in_chans, H, W) to (B, widths[-1], ⌈H/16⌉, ⌈W/16⌉); 44×44 becomes 3×3.
    """

    def __init__(
        self,
        in_chans: int,
        stem_width: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        drop_path_rates: list[float],
        act_layer: type[nn.Module],
        norm_layer: type[nn.Module],
        **block_args: Any,
    ) -> None:
        super().__init__()
        factory = {key: block_args[key] for key in ("device", "dtype")}
        layers: dict[str, Any] = {"act_layer": act_layer, "norm_layer": norm_layer}
        self.conv1 = ConvNormAct(in_chans, stem_width, 3, **layers, **factory)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = []
        prev = stem_width
        for width, depth, drop_path in zip(widths, depths, drop_path_rates, strict=True):
            blocks: list[nn.Module] = []
            for _ in range(depth):
                blocks.append(CARBlock(prev, width, drop_path=drop_path, **layers, **block_args))
                prev = width
            blocks.append(DSBlock(prev, width, drop_path=drop_path, **layers, **block_args))
            stages.append(nn.Sequential(*blocks))
            prev = width
        self.stages = nn.Sequential(*stages)
        self.grad_checkpointing = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.conv1(x))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.stages, x, flatten=True)
        return self.stages(x)

    @torch.jit.ignore
    def forward_intermediates(self, x: torch.Tensor, take: list[int], last: int) -> list[torch.Tensor]:
        """Outputs of the stem (0) and the stages (1…), those in ``take``, then that of layer ``last``."""
        x = self.maxpool(self.conv1(x))
        taken = [x] if 0 in take else []
        for index, stage in enumerate(self.stages[:last], start=1):
            x = checkpoint_seq(stage, x) if self.grad_checkpointing and not torch.jit.is_scripting() else stage(x)
            if index in take:
                taken.append(x)
        return [*taken, x]


class MRCARResNet(StagedNetwork):
    """Multi-regional coordinate-attention residual network.

    One :class:`RegionBranch` a region; their features are fused by a fully connected layer into an
    embedding, which the head classifies. The paper does not say whether the branches share weights
    (its block diagram draws one each, as here by default), nor the fused width.

    The input is either an aligned face (B, C, H, W), from which the network itself cuts eyes and mouth
    at their canonical places, or regions (B, R, C, h, w) from
    :class:`~mrcar_timm.MultiRegionTransform`, in the order of ``regions``. Any H, W of at least 16 works.

    Args:
        num_classes: Number of classes; 0 gives embeddings.
        in_chans: Channels of the input.
        global_pool: "avg", "max" or "avgmax"; "" (with ``num_classes=0``) gives unpooled features.
        regions: Regions that are looked at, a choice of "face", "eyes", "mouth". ("face",) is the
            paper's MrCAR-Mfe.
        shared: Whether one branch sees all regions, instead of one branch each.
        attn_layer: Attention of the blocks: "coord", another name or class that
            :func:`timm.layers.create_attn` takes, or "none" (MrCAR-CA). :func:`timm.create_model` drops
            arguments that are None, so None would there give the default.
        head: "arcface" or "linear" (MrCAR-ALoss).
        margin: Margin of the ArcFace head in radians; acts in training only.
        scale: Scale of the ArcFace head.
        stem_width: Channels of the first convolution.
        widths: Channels of the stages.
        depths: CAR blocks of each stage, before its DS block.
        rd_ratio: Width of the branches inside a block as a part of its output's.
        embed_dim: Width of the embedding; 0 for none, so that the head takes the pooled features.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth, rising linearly to this rate in the last stage.
        act_layer: Activation.
        norm_layer: Normalization.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Example:
        >>> model = MRCARResNet(num_classes=7).eval()
        >>> model(torch.rand(2, 3, 44, 44)).shape, model(torch.rand(2, 3, 3, 44, 44)).shape
        (torch.Size([2, 7]), torch.Size([2, 7]))
    """

    levels_before = 1  # the stem's

    def __init__(
        self,
        num_classes: int = 7,
        in_chans: int = 3,
        global_pool: str = "avg",
        regions: tuple[str, ...] = REGIONS,
        shared: bool = False,
        attn_layer: AttnLayer = "coord",
        head: str = "arcface",
        margin: float = 0.1,
        scale: float = 16.0,
        stem_width: int = 64,
        widths: tuple[int, ...] = (128, 256, 512),
        depths: tuple[int, ...] = (1, 1, 1),
        rd_ratio: float = 0.25,
        embed_dim: int = 256,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        regions = check_regions(regions)
        rates = [drop_path_rate * i / max(1, len(widths) - 1) for i in range(len(widths))]
        branches: dict[str, nn.Module] = {
            name: RegionBranch(
                in_chans,
                stem_width,
                tuple(widths),
                tuple(depths),
                rates,
                act_layer,
                norm_layer,
                rd_ratio=rd_ratio,
                attn_layer=attn_layer,
                **factory,
            )
            for name in (("shared",) if shared else regions)
        }
        modules = ["maxpool", *(f"stages.{i}" for i in range(len(widths)))]
        feature_info = [
            {"num_chs": len(regions) * chs, "reduction": 2 ** (i + 1), "module": module}
            for i, (chs, module) in enumerate(zip((stem_width, *widths), modules, strict=True))
        ]
        width = len(regions) * widths[-1]
        super().__init__(
            branches, feature_info, regions, width, width, num_classes, in_chans, global_pool, head, margin, scale,
            embed_dim, drop_rate, **factory,
        )  # fmt: skip
        self.structure: dict[str, Any] = {
            "regions": list(regions), "shared": shared, "attn_layer": attn_layer, "head": head, "margin": margin,
            "scale": scale, "stem_width": stem_width, "widths": list(widths), "depths": list(depths),
            "rd_ratio": rd_ratio, "embed_dim": embed_dim,
        }  # fmt: skip
        if act_layer is not nn.ReLU:
            self.structure["act_layer"] = act_layer
        if norm_layer is not nn.BatchNorm2d:
            self.structure["norm_layer"] = norm_layer
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """Kaiming for convolutions; the last normalization of each residual branch starts at zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if zero_init_last:
            for module in self.modules():
                if isinstance(module, CARBlock):
                    module.zero_init_last()


def _create_mrcar_resnet(variant: str, pretrained: bool = False, **kwargs: Any) -> MRCARResNet:
    stages = None
    if kwargs.get("features_only"):
        levels = 1 + len(kwargs.get("widths", (128, 256, 512)))
        _, stages = feature_take_indices(levels, kwargs.get("out_indices"))
    return build_region_network(MRCARResNet, variant, pretrained, stages, default_out_indices=(0, 1, 2, 3), **kwargs)


_cfg = partial(cfg_of, num_classes=7, size=44, pool_size=3, min_size=16)
default_cfgs = generate_default_cfgs(packaged_cfgs("mrcar_resnet", _cfg))


@register_model
def mrcar_resnet(pretrained: bool = False, **kwargs: Any) -> MRCARResNet:
    """MrCAR with the paper's stages (128, 256, 512) for face, eyes and mouth."""
    return _create_mrcar_resnet("mrcar_resnet", pretrained, **kwargs)
