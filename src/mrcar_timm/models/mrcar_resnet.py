"""MrCAR: multi-regional coordinate-attention residual network.

Paper: `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals` -
https://doi.org/10.1109/ACCESS.2023.3285781
"""

import re
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct, SelectAdaptivePool2d
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
    register_notrace_module,
    resolve_pretrained_cfg,
)
from timm.models._features import feature_take_indices
from torch import nn

from ..checkpoints.folder import CONFIG_NAME, WEIGHTS_NAME, read_json
from ..checkpoints.packaged import DEFAULT_TAGS, PACKAGED, WEIGHTS_DIR
from ..checkpoints.verify import verified_source
from ..errors import WeightsError
from ..inputs import INPUT_MEAN, INPUT_STD, is_first_conv
from ..layers.arcface import ArcFaceHead
from ..layers.car_block import AttnLayer, CARBlock, DSBlock
from ..regions.geometry import BOXES_IN_FACE, REGIONS, UNITS_OF_FACE, check_regions

__all__ = ["MRCARResNet", "mrcar_resnet"]

_POOLINGS = ("", "avg", "max", "avgmax")


@register_notrace_module  # its output shape does not depend on the branch taken
class RegionSplit(nn.Module):
    """Brings either input to regions: (B, C, H, W) is cut at the canonical places, (B, R, C, h, w) is kept."""

    def __init__(self, regions: tuple[str, ...]) -> None:
        super().__init__()
        self.num_regions = len(regions)
        self.boxes = [BOXES_IN_FACE[name] for name in regions]
        self.units = UNITS_OF_FACE

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 5:
            if x.shape[1] != self.num_regions:
                raise ValueError(f"expected {self.num_regions} regions in (B, R, C, h, w), got {x.shape[1]}")
            return x
        if x.ndim != 4:
            raise ValueError(f"expected faces (B, C, H, W) or regions (B, R, C, h, w), got {x.ndim} dimensions")
        height, width = x.shape[2], x.shape[3]
        crops: list[torch.Tensor] = []
        for x1, y1, x2, y2 in self.boxes:
            top, bottom = y1 * height // self.units, y2 * height // self.units
            left, right = x1 * width // self.units, x2 * width // self.units
            crop = x[:, :, top:bottom, left:right]
            # Shapes are compared, not box edges: the whole face needs no resampling.
            if crop.shape[2] != height or crop.shape[3] != width:
                crop = F.interpolate(crop, size=[height, width], mode="bilinear", align_corners=False)
            crops.append(crop)
        return torch.stack(crops, dim=1)  # (B, R, C, H, W)


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


class MRCARResNet(nn.Module):
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
        super().__init__()
        if head not in ("arcface", "linear"):
            raise ValueError(f"head must be 'arcface' or 'linear', got {head!r}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.regions = check_regions(regions)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.head_type, self.margin, self.scale = head, margin, scale
        self.structure: dict[str, Any] = {
            "regions": list(self.regions), "shared": shared, "attn_layer": attn_layer, "head": head, "margin": margin,
            "scale": scale, "stem_width": stem_width, "widths": list(widths), "depths": list(depths),
            "rd_ratio": rd_ratio, "embed_dim": embed_dim, "act_layer": act_layer, "norm_layer": norm_layer,
        }  # fmt: skip

        self.shared: bool = shared
        self.split = RegionSplit(self.regions)
        rates = [drop_path_rate * i / max(1, len(widths) - 1) for i in range(len(widths))]
        self.branches = nn.ModuleDict(
            {
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
                for name in (("shared",) if shared else self.regions)
            }
        )
        n = len(self.regions)
        modules = ["maxpool", *(f"stages.{i}" for i in range(len(widths)))]
        self.feature_info = [
            {"num_chs": n * chs, "reduction": 2 ** (i + 1), "module": f"branches.{next(iter(self.branches))}.{module}"}
            for i, (chs, module) in enumerate(zip((stem_width, *widths), modules, strict=True))
        ]
        self.num_features = n * widths[-1]
        self.head_hidden_size = embed_dim
        _check_pooling(global_pool, num_classes)
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        if global_pool and embed_dim:
            self.fusion: nn.Module = nn.Sequential(
                nn.Linear(self.num_features, embed_dim, bias=False, **factory),
                nn.BatchNorm1d(embed_dim, **factory),
            )
        else:
            self.head_hidden_size = self.num_features
            self.fusion = nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._make_head(**factory)
        self.init_weights()

    @torch.jit.ignore
    def _make_head(self, **factory: Any) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        if self.head_type == "linear":
            return nn.Linear(self.head_hidden_size, self.num_classes, **factory)
        return ArcFaceHead(self.head_hidden_size, self.num_classes, margin=self.margin, scale=self.scale, **factory)

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

    @torch.jit.ignore
    def _branch_list(self) -> list[Any]:
        return list(self.branches.values())

    @torch.jit.ignore
    def model_args(self) -> dict[str, Any]:
        """Arguments for :func:`timm.create_model` that make a network into which this one's weights fit: JSON values.

        Raises:
            WeightsError: If it was made with classes of the caller's, which have no name in JSON.
        """
        args = {**self.structure, "in_chans": self.in_chans, "global_pool": self.global_pool.pool_type}
        if isinstance(self.fusion, nn.Identity) and self.global_pool.pool_type:
            args["embed_dim"] = 0
        for name, default in (("act_layer", nn.ReLU), ("norm_layer", nn.BatchNorm2d)):
            if args[name] is default:
                del args[name]
        for name, value in args.items():
            if isinstance(value, type):
                raise WeightsError(f"{name}={value.__name__} cannot be written to a file; use one that goes by a name")
        return args

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        block = r"^branches\.\w+\.stages\.(\d+)" if coarse else r"^branches\.\w+\.stages\.(\d+)\.(\d+)"
        return {"stem": r"^branches\.\w+\.conv1", "blocks": [(block, None), (r"^fusion", (99999,))]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for branch in self._branch_list():
            branch.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        return "head" if name_only else self.head

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, and the pooling where one is named.

        Pooling "" leaves unpooled features, which the fusing layer cannot take: it goes for good. A
        classifier put behind such features later gets them averaged.
        """
        pooling = self.global_pool.pool_type if global_pool is None else global_pool
        if global_pool is None and num_classes > 0:
            pooling = pooling or "avg"
        _check_pooling(pooling, num_classes)
        reference = next(self.parameters())
        self.num_classes = num_classes
        if pooling != self.global_pool.pool_type:
            self.global_pool = SelectAdaptivePool2d(pool_type=pooling, flatten=bool(pooling))
        if not pooling:
            self.fusion = nn.Identity()
        if isinstance(self.fusion, nn.Identity):
            self.head_hidden_size = self.num_features
        self.head = self._make_head(device=reference.device, dtype=reference.dtype)
        for module in (self.global_pool, self.fusion, self.head):
            module.train(self.training)

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Features of the stem and of each stage, the regions' channels one after the other.

        Args:
            x: Faces or regions.
            indices: The last n if an int, all if None, else these; 0 is the stem.
            norm: Unused: no norm follows the stages.
            stop_early: Leave out what is behind the last index.
            output_fmt: "NCHW".
            intermediates_only: Return the intermediates alone.

        Returns:
            Final features and the list of intermediates, or the list.
        """
        assert output_fmt == "NCHW", "Output format must be NCHW."
        take, last = feature_take_indices(len(self.feature_info), indices)
        last = last if stop_early else len(self.feature_info) - 1
        x = self.split(x)
        branches = self._branch_list() * (len(self.regions) if self.shared else 1)
        per_region = [branch.forward_intermediates(x[:, i], take, last) for i, branch in enumerate(branches)]
        *intermediates, final = [torch.cat(level, dim=1) for level in zip(*per_region, strict=True)]
        return intermediates if intermediates_only else (final, intermediates)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages behind the last index, and with them the head."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        for branch in self._branch_list():
            branch.stages = branch.stages[:last]
        pruned = last < len(self.feature_info) - 1
        if pruned:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Faces or regions to features (B, num_features, H/16, W/16), the regions' channels in turn."""
        x = self.split(x)
        if self.shared:  # one look at the regions of all images
            x = x.transpose(0, 1).flatten(0, 1)  # (R * B, C, h, w)
        features: list[torch.Tensor] = []
        for i, branch in enumerate(self.branches.values()):
            features.append(branch(x if self.shared else x[:, i]))
        if self.shared:
            features = list(features[0].chunk(len(self.regions)))
        return torch.cat(features, dim=1)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Features to logits (B, num_classes), or with ``pre_logits`` to the embedding."""
        x = self.head_drop(self.fusion(self.global_pool(x)))
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def _check_pooling(global_pool: str, num_classes: int) -> None:
    assert global_pool in _POOLINGS, f"global_pool must be one of {_POOLINGS}, got {global_pool!r}"
    assert global_pool or num_classes == 0, "Pooling can only be disabled with num_classes=0."


def checkpoint_filter_fn(
    state_dict: dict[str, torch.Tensor], model: Any, stages: int | None = None
) -> dict[str, torch.Tensor]:
    """Check that a state dict has every tensor of a network, except for a head with another number of classes.

    timm loads leniently where ``num_classes`` differs; a file with all keys wrong would then load
    nothing without a word.

    Args:
        state_dict: Tensors by name.
        model: They are for it.
        stages: How many stages will be used, as features; what is behind them need not be there.

    Raises:
        WeightsError: Naming the first tensors that are missing or have another shape.
    """
    own = model.state_dict()
    unused = {key for key in own if stages is not None and _behind(key, stages)}
    other_head = model.num_classes != model.pretrained_cfg["num_classes"]
    used = [key for key in own if key not in unused and not (other_head and key.startswith("head."))]
    wrong = [key for key in used if key not in state_dict or _shape(key, state_dict[key]) != _shape(key, own[key])]
    if wrong:
        missing = sum(key not in state_dict for key in wrong)
        raise WeightsError(
            f"the weights lack {missing} tensors of this network, and of {len(wrong) - missing} they have "
            f"another shape, among them {wrong[:3]}; were they made for other regions, attn_layer, head or widths?"
        )
    return {**{key: own[key] for key in unused}, **state_dict}


def _shape(key: str, tensor: torch.Tensor) -> tuple[int, ...]:
    """Shape of a tensor; of a first convolution without the channels, to which timm adapts it."""
    return (*tensor.shape[:1], *tensor.shape[2:]) if is_first_conv(key) else tuple(tensor.shape)


def _behind(key: str, stages: int) -> bool:
    """Whether a tensor is behind so many stages."""
    stage = re.search(r"\.stages\.(\d+)\.", key)
    return int(stage[1]) >= stages if stage else key.startswith(("fusion.", "head."))


def _create_mrcar_resnet(variant: str, pretrained: bool = False, **kwargs: Any) -> MRCARResNet:
    overlay = kwargs.pop("pretrained_cfg_overlay", None) or {}
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), overlay)
        name = f"{cfg.architecture}.{cfg.tag}"
        if name in PACKAGED and not cfg.source and kwargs.get("num_classes", cfg.num_classes) == cfg.num_classes:
            kwargs.setdefault("scale", _packaged_config(name)["model_args"]["scale"])  # it holds the calibration
        overlay = {**overlay, **verified_source(cfg, kwargs.get("cache_dir"))}
    stages = None
    if kwargs.get("features_only"):
        levels = 1 + len(kwargs.get("widths", (128, 256, 512)))
        _, stages = feature_take_indices(levels, kwargs.get("out_indices"))
    return build_model_with_cfg(
        MRCARResNet,
        variant,
        pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=partial(checkpoint_filter_fn, stages=stages),
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **kwargs,
    )


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 7,
        "input_size": (3, 44, 44),
        "pool_size": (3, 3),
        "min_input_size": (3, 16, 16),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": INPUT_MEAN,
        "std": INPUT_STD,
        "first_conv": tuple(f"branches.{name}.conv1.conv" for name in REGIONS),
        "classifier": "head",
        "paper_name": "Expression Recognition Based on Multi-Regional Coordinate Attention Residuals",
        "paper_ids": "doi:10.1109/ACCESS.2023.3285781",
        "origin_url": "https://doi.org/10.1109/ACCESS.2023.3285781",
        **kwargs,
    }


def _packaged_config(name: str) -> dict[str, Any]:
    return read_json(WEIGHTS_DIR / name / CONFIG_NAME)


def _packaged_cfg(name: str) -> dict[str, Any]:
    """A cfg with what the folder of packaged weights says."""
    record = PACKAGED[name]
    return _cfg(
        file=str(WEIGHTS_DIR / name / WEIGHTS_NAME),
        license=record.license,
        num_classes=len(record.labels),
        label_names=list(record.labels),
        notes=(record.notes,),
    )


def _with_mark(name: str) -> str:
    """The name with timm's mark of the default weights, where they are."""
    architecture, tag = name.split(".")
    return f"{name}*" if tag == DEFAULT_TAGS[architecture] else name


default_cfgs = generate_default_cfgs(
    {_with_mark(name): _packaged_cfg(name) for name in PACKAGED} or {"mrcar_resnet.untrained": _cfg()}
)


@register_model
def mrcar_resnet(pretrained: bool = False, **kwargs: Any) -> MRCARResNet:
    """MrCAR with the paper's stages (128, 256, 512) for face, eyes and mouth."""
    return _create_mrcar_resnet("mrcar_resnet", pretrained, **kwargs)
