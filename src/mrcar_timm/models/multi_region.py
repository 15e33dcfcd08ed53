"""Regions of a face in front of any backbone of timm's that gives feature maps.

Paper: `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals` -
https://doi.org/10.1109/ACCESS.2023.3285781
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import timm
import torch
from timm.models import generate_default_cfgs, register_model
from torch import nn

from ..inputs import INPUT_MEAN, INPUT_STD
from ..layers.insert import Insertion, insert_at, insert_attention, insertions
from ..regions.geometry import REGIONS, check_regions
from .build import build_region_network
from .region_network import RegionNetwork

__all__ = ["MultiRegionNet", "from_classifier", "multi_region"]


class BackboneBranch(nn.Module):
    """A network of timm's without its classifier, which sees what it would see without this package.

    Args:
        model: Made with ``num_classes=0``.
        in_chans: Channels of the images.

    Shape:
        (B, in_chans, H, W), normalized by ``INPUT_MEAN`` and ``INPUT_STD``, to (B, num_features, h, w).
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model: Any, in_chans: int) -> None:
        super().__init__()
        self.model = model
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self.in_chans = in_chans
        reference = next(model.parameters())
        for name, values in self._normalization().items():
            self.register_buffer(name, values.to(reference), persistent=False)

    def _normalization(self) -> dict[str, torch.Tensor]:
        """What normalizes by the backbone's own mean and deviation, to which its weights may be used."""
        mean, std = (_per_channel(self.model.pretrained_cfg[key], self.in_chans) for key in ("mean", "std"))
        return {"scale": INPUT_STD[0] / std, "shift": (INPUT_MEAN[0] - mean) / std}

    @torch.jit.unused
    def init_non_persistent_buffers(self) -> None:
        """Give the buffers their values again, as timm and transformers ask for after the meta device."""
        for name, values in self._normalization().items():
            getattr(self, name).copy_(values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.model.forward_features(x * self.scale + self.shift)
        return x.permute(0, 3, 1, 2) if self.channels_last else x

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """Feature maps to what the backbone makes of them before its classifier, (B, head_hidden_size)."""
        if self.channels_last:
            x = x.permute(0, 2, 3, 1)
        return self.model.forward_head(x, pre_logits=True)

    @torch.jit.ignore
    def forward_intermediates(self, x: torch.Tensor, take: list[int], last: int) -> list[torch.Tensor]:
        """Feature maps of the levels in ``take``, then the final features, or those of an earlier level ``last``."""
        early = last < len(self.model.feature_info) - 1
        final, maps = self.model.forward_intermediates(
            x * self.scale + self.shift, indices=take, stop_early=early, output_fmt="NCHW"
        )
        return [*maps, final.permute(0, 3, 1, 2) if self.channels_last else final]


def _per_channel(values: Sequence[float], in_chans: int) -> torch.Tensor:
    """(in_chans, 1, 1); where that is not three channels, the mean of three."""
    tensor = torch.tensor(values, dtype=torch.float32)
    return (tensor if in_chans == len(values) else tensor.mean().expand(in_chans))[:, None, None]


class MultiRegionNet(RegionNetwork):
    """Any backbone of timm's that gives feature maps, looking at face, eyes and mouth.

    One backbone for each region, or one for all; what it makes of its features before its classifier is fused by a
    fully connected layer into an embedding, which the head classifies. Input, regions and head are as in
    :class:`~mrcar_timm.models.MRCARResNet`. With one region, ``embed_dim=0``, ``attention="none"`` and
    ``head="linear"`` it is the backbone with its classifier, see :func:`from_classifier`.

    Args:
        num_classes: Number of classes; 0 gives embeddings.
        in_chans: Channels of the input.
        global_pool: "avg", "max" or "avgmax"; "" (with ``num_classes=0``) gives unpooled features.
        backbone: Name of a network, as :func:`timm.create_model` takes it.
        regions: Regions that are looked at, a choice of "face", "eyes", "mouth".
        shared: Whether one backbone sees all regions, instead of one each.
        attention: What :func:`~mrcar_timm.insert_attention` puts into the backbone, without effect at first: "coord",
            any other attention that it takes, or "none".
        where: Where it goes.
        insertions: Where attention was inserted in such a network, as its config.json has it; instead of these two.
        head: "arcface" or "linear".
        margin: Margin of the ArcFace head in radians; acts in training only.
        scale: Scale of the ArcFace head.
        embed_dim: Width of the embedding; 0 for none.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth of the backbone.
        pretrained_backbone: Load the backbone's pretrained weights.
        backbone_args: Further arguments of the backbone, such as ``{"output_stride": 16}`` for small regions.

    Raises:
        ValueError: If the backbone gives no feature maps.

    Example:
        >>> model = MultiRegionNet(backbone="mobilenetv3_small_050").eval()
        >>> model(torch.rand(2, 3, 64, 64)).shape, model(torch.rand(2, 3, 3, 64, 64)).shape
        (torch.Size([2, 7]), torch.Size([2, 7]))
    """

    keeps_insertions = True  # model_args has them

    def __init__(
        self,
        num_classes: int = 7,
        in_chans: int = 3,
        global_pool: str = "avg",
        backbone: str = "resnet18",
        regions: tuple[str, ...] = REGIONS,
        shared: bool = True,
        attention: str = "coord",
        where: str | Sequence[str] = "stages",
        insertions: Sequence[Mapping[str, Any]] | None = None,
        head: str = "arcface",
        margin: float = 0.1,
        scale: float = 16.0,
        embed_dim: int = 256,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        pretrained_backbone: bool = False,
        backbone_args: Mapping[str, Any] | None = None,
    ) -> None:
        regions = check_regions(regions)
        pooling = {"global_pool": global_pool} if global_pool in ("max", "avgmax") else {}
        dropping = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}

        def branch() -> BackboneBranch:
            model = timm.create_model(
                backbone, pretrained_backbone, num_classes=0, in_chans=in_chans, **pooling, **dropping,
                **(backbone_args or {}),
            )  # fmt: skip
            _check_gives_maps(model, backbone, in_chans)
            if insertions is not None:
                insert_at(model, [Insertion(**each) for each in insertions])
            elif attention != "none":
                insert_attention(model, attention, where)
            return BackboneBranch(model, in_chans)

        branches: dict[str, nn.Module] = {name: branch() for name in (("shared",) if shared else regions)}
        first: Any = next(iter(branches.values()))
        model = first.model
        feature_info = [
            {
                "num_chs": len(regions) * info["num_chs"],
                "reduction": info["reduction"],
                "module": f"model.{info['module']}",
            }
            for info in model.feature_info
        ]
        width = len(regions) * model.num_features
        pooled_width = len(regions) * getattr(model, "head_hidden_size", model.num_features)
        super().__init__(
            branches, feature_info, regions, width, pooled_width, num_classes, in_chans, global_pool, head, margin,
            scale, embed_dim, drop_rate,
        )  # fmt: skip
        self.pooled: bool = bool(global_pool)
        self._structure: dict[str, Any] = {
            "backbone": backbone, "regions": list(regions), "shared": shared, "attention": attention, "head": head,
            "margin": margin, "scale": scale, "embed_dim": embed_dim, "backbone_args": dict(backbone_args or {}),
        }  # fmt: skip

    @torch.jit.ignore
    def _backbones(self) -> dict[str, Any]:
        """The backbones by the prefix of their parameters."""
        branches: dict[str, Any] = dict(self.branches.items())
        return {f"branches.{name}.model.": branch.model for name, branch in branches.items()}

    @torch.jit.ignore
    def first_convs(self) -> list[str]:
        names = []
        for prefix, model in self._backbones().items():
            first = model.pretrained_cfg.get("first_conv") or ()
            names += [prefix + name for name in ((first,) if isinstance(first, str) else first)]
        return names

    @torch.jit.ignore
    def model_args(self) -> dict[str, Any]:
        inserted = insertions(next(iter(self._backbones().values())))
        args = {
            **self._structure,
            "in_chans": self.in_chans,
            "global_pool": self.global_pool.pool_type,
            "insertions": [insertion.to_dict() for insertion in inserted],
        }
        if isinstance(self.fusion, nn.Identity) and self.global_pool.pool_type:
            args["embed_dim"] = 0
        return args

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {
            prefix + name
            for prefix, model in self._backbones().items()
            if hasattr(model, "no_weight_decay")
            for name in model.no_weight_decay()
        }

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """That of the backbone, one group for the same layers of all branches; behind it the embedding."""

        def within(pattern: Any) -> Any:
            if isinstance(pattern, str):
                return r"^branches\.\w+\.model\." + (pattern[1:] if pattern.startswith("^") else ".*?" + pattern)
            return [(within(each), order) for each, order in pattern]

        groups = next(iter(self._backbones().values())).group_matcher(coarse)
        matcher = {name: within(pattern) for name, pattern in groups.items()}
        last = list(matcher)[-1]
        blocks = matcher[last]
        matcher[last] = [*([(blocks, None)] if isinstance(blocks, str) else blocks), (r"^fusion", (99999,))]
        return matcher

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for model in self._backbones().values():
            model.set_grad_checkpointing(enable)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the layers behind the last index, and with them the head."""
        take: list[int] = []
        for model in self._backbones().values():
            take = model.prune_intermediate_layers(indices, prune_norm=prune_norm, prune_head=prune_head)
        pruned = max(take) < len(self.feature_info) - 1
        if pruned:
            self.num_features = self._pooled_features = self.feature_info[max(take)]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, and the pooling where one is named; see :meth:`RegionNetwork.reset_classifier`."""
        before = self.global_pool.pool_type
        super().reset_classifier(num_classes, global_pool)
        after = self.global_pool.pool_type
        self.pooled = bool(after)
        if after not in ("", before):
            for model in self._backbones().values():
                model.reset_classifier(0, after)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Features to logits (B, num_classes), or with ``pre_logits`` to the embedding."""
        if self.pooled:
            n = len(self.regions)
            width = self.num_features // n
            pooled: list[torch.Tensor] = []
            for i, branch in enumerate(self.branches.values()):
                first = 0 if self.shared else i
                last = n if self.shared else i + 1
                for k in range(first, last):
                    part = x[:, k * width : (k + 1) * width]
                    pooled.append(branch.forward_head(part))  # type: ignore[operator]
            x = torch.cat(pooled, dim=1)
        x = self.head_drop(self.fusion(x))
        return x if pre_logits else self.head(x)


def _check_gives_maps(model: Any, name: str, in_chans: int) -> None:
    """Raise if a network's features are no maps; asked of a copy without values or memory."""
    shape = (1, in_chans, *model.pretrained_cfg["input_size"][1:])
    try:
        with torch.no_grad():
            features = deepcopy(model).to("meta").eval().forward_features(torch.empty(shape, device="meta"))
    except (NotImplementedError, RuntimeError):
        return  # what cannot be asked there is found out by its first image
    if features.ndim != 4:
        raise ValueError(f"{name} gives no feature maps, but features of shape {tuple(features.shape[1:])}")


def from_classifier(classifier: Any, labels: Sequence[str], region: str = "face") -> MultiRegionNet:
    """A classifier of timm's, trained on faces, as a network that the recognizer takes: the same logits.

    Args:
        classifier: Made by :func:`timm.create_model`, with a linear classifier; it stays as it is.
        labels: Names of its classes, in the order of the logits.
        region: The region that it was trained on.

    Raises:
        ValueError: If it gives no feature maps, its classifier is not linear, or there is not one label for each class.

    Example:
        >>> classifier = timm.create_model("resnet18", num_classes=2).eval()
        >>> network = from_classifier(classifier, ["smile", "other"]).eval()
        >>> network.regions, network(torch.rand(1, 3, 64, 64)).shape
        (('face',), torch.Size([1, 2]))
    """
    head = classifier.get_classifier()
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ValueError(f"expected a network with a linear classifier, this one has {type(head).__name__}")
    if not len(labels) == len(set(labels)) == head.out_features:
        raise ValueError(f"expected {head.out_features} different labels, one for each class, got {list(labels)}")
    cfg = classifier.pretrained_cfg
    given = dict(getattr(classifier, "_model_args", {}) or {})
    in_chans = given.pop("in_chans", cfg["input_size"][0])
    pooling = given.pop("global_pool", "avg")
    given.pop("num_classes", None)
    _, height, width = cfg["input_size"]
    network = timm.create_model(
        "multi_region", num_classes=len(labels), in_chans=in_chans, backbone=cfg["architecture"], regions=(region,),
        attention="none", head="linear", embed_dim=0, global_pool=pooling, backbone_args=given,
        pretrained_cfg_overlay={
            "input_size": (in_chans, height, width), "label_names": list(labels),
            "license": cfg.get("license"), "notes": (), "paper_name": None, "paper_ids": None, "origin_url": None,
        },
    )  # fmt: skip
    backbone = deepcopy(classifier)
    backbone.reset_classifier(0)
    own_backbone, own_head = network.branches["shared"].model, network.get_classifier()
    own_backbone.load_state_dict(backbone.state_dict())
    own_head.load_state_dict(head.state_dict())
    return network.train(classifier.training)


def _create_multi_region(variant: str, pretrained: bool = False, **kwargs: Any) -> MultiRegionNet:
    model = build_region_network(
        MultiRegionNet, variant, pretrained, **kwargs
    )  # the last four levels all backbones have
    network = getattr(model, "model", model)
    network.pretrained_cfg = network.default_cfg = {
        **network.pretrained_cfg, "first_conv": tuple(network.first_convs()),
    }  # fmt: skip
    return model


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 7,
        "input_size": (3, 96, 96),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": INPUT_MEAN,
        "std": INPUT_STD,
        "first_conv": None,
        "classifier": "head",
        "paper_name": "Expression Recognition Based on Multi-Regional Coordinate Attention Residuals",
        "paper_ids": "doi:10.1109/ACCESS.2023.3285781",
        "origin_url": "https://doi.org/10.1109/ACCESS.2023.3285781",
        **kwargs,
    }


default_cfgs = generate_default_cfgs({"multi_region.untrained": _cfg()})


@register_model
def multi_region(pretrained: bool = False, **kwargs: Any) -> MultiRegionNet:
    """Face, eyes and mouth in front of any backbone of timm's: ``backbone="resnet18.a1_in1k"``, and the rest of
    :class:`MultiRegionNet`'s arguments."""
    return _create_multi_region("multi_region", pretrained, **kwargs)
