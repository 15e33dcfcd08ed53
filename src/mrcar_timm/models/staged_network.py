"""What networks share whose branches are made here: a first convolution and stages, and timm's contract on them.

Paper: `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals` -
https://doi.org/10.1109/ACCESS.2023.3285781
"""

from typing import Any

import torch
from timm.models._features import feature_take_indices
from torch import nn

from ..errors import WeightsError
from ..inputs import INPUT_MEAN, INPUT_STD
from ..regions.geometry import REGIONS
from .region_network import RegionNetwork


class StagedNetwork(RegionNetwork):
    """A network of regions whose branches have a first convolution ``conv1``, ``stages`` and ``grad_checkpointing``.

    Attributes:
        structure: Arguments that make a network of this shape.
        levels_before: How many levels of ``feature_info`` come before that of the first stage.
    """

    structure: dict[str, Any]
    levels_before = 0

    @torch.jit.ignore
    def first_convs(self) -> list[str]:
        return [f"branches.{name}.conv1.conv" for name in self.branches]

    @torch.jit.ignore
    def model_args(self) -> dict[str, Any]:
        args = {**self.structure, "in_chans": self.in_chans, "global_pool": self.global_pool.pool_type}
        if isinstance(self.fusion, nn.Identity) and self.global_pool.pool_type:
            args["embed_dim"] = 0
        for name, value in args.items():
            if isinstance(value, type):
                raise WeightsError(f"{name}={value.__name__} cannot be written to a file; use one that goes by a name")
        return args

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        block = r"^branches\.\w+\.stages\.(\d+)" if coarse else r"^branches\.\w+\.stages\.(\d+)\.(\d+)"
        return {"stem": r"^branches\.\w+\.conv1", "blocks": [(block, None), (r"^fusion", (99999,))]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for branch in self._branch_list():
            branch.grad_checkpointing = enable

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
            branch.stages = branch.stages[: last + 1 - self.levels_before]
        pruned = last < len(self.feature_info) - 1
        if pruned:
            self.num_features = self._pooled_features = self.feature_info[last]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take


def cfg_of(*, num_classes: int, size: int, pool_size: int, min_size: int, **kwargs: Any) -> dict[str, Any]:
    """A cfg for timm of a network with a branch for each region."""
    return {
        "num_classes": num_classes,
        "input_size": (3, size, size),
        "pool_size": (pool_size, pool_size),
        "min_input_size": (3, min_size, min_size),
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
