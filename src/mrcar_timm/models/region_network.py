"""What all networks of regions share: regions in, branches, an embedding, a head, and timm's contract around them.

Paper: `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals` -
https://doi.org/10.1109/ACCESS.2023.3285781
"""

import re
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from timm.models import register_notrace_module
from timm.models._features import feature_take_indices
from torch import nn

from ..errors import WeightsError
from ..layers.arcface import ArcFaceHead
from ..regions.geometry import BOXES_IN_FACE, UNITS_OF_FACE, check_regions

__all__ = ["RegionNetwork"]

_POOLINGS = ("", "avg", "max", "avgmax")


@register_notrace_module  # its output shape does not depend on the branch taken
class RegionSplit(nn.Module):
    """Brings either input to regions: (B, C, H, W) is cut at the canonical places, (B, R, C, h, w) is kept."""

    def __init__(self, regions: tuple[str, ...]) -> None:
        super().__init__()
        self.boxes = [BOXES_IN_FACE[name] for name in regions]
        self.units = UNITS_OF_FACE

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return split_regions(x, self.boxes, self.units)


@torch.fx.wrap  # one operation to whoever traces symbolically
def split_regions(x: torch.Tensor, boxes: list[tuple[int, int, int, int]], units: int) -> torch.Tensor:
    """Regions (B, R, C, h, w) of aligned faces (B, C, H, W), or the regions themselves.

    Args:
        x: Faces or regions.
        boxes: x1, y1, x2, y2 of each region in the face.
        units: Side of the face in the units of the boxes.

    Raises:
        ValueError: If it is neither, or there are more or fewer regions.
    """
    if x.ndim == 5:
        if x.shape[1] != len(boxes):
            raise ValueError(f"expected {len(boxes)} regions in (B, R, C, h, w), got {x.shape[1]}")
        return x
    if x.ndim != 4:
        raise ValueError(f"expected faces (B, C, H, W) or regions (B, R, C, h, w), got {x.ndim} dimensions")
    height, width = x.shape[2], x.shape[3]
    crops: list[torch.Tensor] = []
    for x1, y1, x2, y2 in boxes:
        top, bottom = y1 * height // units, y2 * height // units
        left, right = x1 * width // units, x2 * width // units
        crop = x[:, :, top:bottom, left:right]
        # Shapes are compared, not box edges: the whole face needs no resampling.
        if crop.shape[2] != height or crop.shape[3] != width:
            crop = F.interpolate(crop, size=[height, width], mode="bilinear", align_corners=False)
        crops.append(crop)
    return torch.stack(crops, dim=1)  # (B, R, C, H, W)


class RegionNetwork(nn.Module):
    """A branch for each region, or one for all; their features are fused into an embedding, which a head classifies.

    The input is either an aligned face (B, C, H, W), from which the network itself cuts eyes and mouth at their
    canonical places, or regions (B, R, C, h, w) from :class:`~mrcar_timm.MultiRegionTransform`, in the order of
    ``regions``. Subclasses make the branches.

    Args:
        branches: By region, or by "shared": modules from (B, C, h, w) to features (B, C', h', w').
        feature_info: As timm's, of all regions together; modules are those of the first branch.
        regions: Names of the regions.
        num_features: Channels of the regions' features together.
        pooled_features: The same after pooling.
        num_classes: Number of classes; 0 gives embeddings.
        in_chans: Channels of the input.
        global_pool: "avg", "max" or "avgmax"; "" (with ``num_classes=0``) gives unpooled features.
        head: "arcface" or "linear".
        margin: Margin of the ArcFace head in radians; acts in training only.
        scale: Scale of the ArcFace head.
        embed_dim: Width of the embedding; 0 for none, so that the head takes the pooled features.
        drop_rate: Dropout before the head.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        branches: dict[str, nn.Module],
        feature_info: list[dict[str, Any]],
        regions: tuple[str, ...],
        num_features: int,
        pooled_features: int,
        num_classes: int,
        in_chans: int,
        global_pool: str,
        head: str,
        margin: float,
        scale: float,
        embed_dim: int,
        drop_rate: float,
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
        self.shared: bool = "shared" in branches
        self.split = RegionSplit(self.regions)
        self.branches = nn.ModuleDict(branches)
        first = f"branches.{next(iter(branches))}"
        self.feature_info = [{**info, "module": f"{first}.{info['module']}"} for info in feature_info]
        self.num_features = num_features
        self._pooled_features = pooled_features
        self.head_hidden_size = embed_dim
        _check_pooling(global_pool, num_classes)
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        if global_pool and embed_dim:
            self.fusion: nn.Module = nn.Sequential(
                nn.Linear(self._pooled_features, embed_dim, bias=False, **factory),
                nn.BatchNorm1d(embed_dim, **factory),
            )
        else:
            self.head_hidden_size = self._pooled_features if global_pool else self.num_features
            self.fusion = nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._make_head(**factory)

    @torch.jit.ignore
    def _make_head(self, **factory: Any) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        if self.head_type == "linear":
            return nn.Linear(self.head_hidden_size, self.num_classes, **factory)
        return ArcFaceHead(self.head_hidden_size, self.num_classes, margin=self.margin, scale=self.scale, **factory)

    @torch.jit.ignore
    def _branch_list(self) -> list[Any]:
        return list(self.branches.values())

    @torch.jit.ignore
    def first_convs(self) -> list[str]:
        """Names of the convolutions that meet the channels of the image."""
        raise NotImplementedError

    @torch.jit.ignore
    def model_args(self) -> dict[str, Any]:
        """Arguments for :func:`timm.create_model` that make a network into which this one's weights fit: JSON values.

        Raises:
            WeightsError: If it was made with classes of the caller's, which have no name in JSON.
        """
        raise NotImplementedError

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return set()

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
            self.head_hidden_size = self._pooled_features if pooling else self.num_features
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

    def forward_regions(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Faces or regions to the features of each region, (B, C', H/16, W/16)."""
        x = self.split(x)
        features: list[torch.Tensor] = []
        if self.shared:  # one look at the regions of all images
            n = len(self.regions)
            for branch in self.branches.values():
                y = branch(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (n, -1))  # (R, B, C', h', w')
                for i in range(n):
                    features.append(y[i])  # noqa: PERF401  # what symbolic tracing gives cannot be iterated
        else:
            for i, branch in enumerate(self.branches.values()):
                features.append(branch(x[:, i]))
        return features

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Faces or regions to features (B, num_features, H/16, W/16), the regions' channels in turn."""
        return torch.cat(self.forward_regions(x), dim=1)

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
    first = {f"{name}.weight" for name in model.first_convs()}

    def shape(key: str, tensor: torch.Tensor) -> tuple[int, ...]:
        """Shape of a tensor; of a first convolution without the channels, to which timm adapts it."""
        return (*tensor.shape[:1], *tensor.shape[2:]) if key in first else tuple(tensor.shape)

    wrong = [key for key in used if key not in state_dict or shape(key, state_dict[key]) != shape(key, own[key])]
    if wrong:
        missing = sum(key not in state_dict for key in wrong)
        raise WeightsError(
            f"the weights lack {missing} tensors of this network, and of {len(wrong) - missing} they have "
            f"another shape, among them {wrong[:3]}; were they made for other regions, attn_layer, head or widths?"
        )
    return {**{key: own[key] for key in unused}, **state_dict}


def _behind(key: str, stages: int) -> bool:
    """Whether a tensor is behind so many stages."""
    stage = re.search(r"\.stages\.(\d+)\.", key)
    return int(stage[1]) >= stages if stage else key.startswith(("fusion.", "head."))
