"""All regions' branches in one: the same function in fewer calls, which for one face take much of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..layers import CARBlock, CoordAttn

# Above this the branches one by one are faster: convolutions of many pictures take less time than matrix products.
_MOST_FACES = 8


def stack_branches(model: Any) -> None:
    """Let the branches of a folded network run together, in place, for inference alone.

    A network with other attention, or with normalisation that cannot be folded, stays as it is.

    Args:
        model: An :class:`~mrcar_timm.models.MRCARResNet` after
            :func:`~mrcar_timm.models.folding.fold_batch_norms`.
    """
    branches = list(model.branches.values())
    if all(_can_be_stacked(branch) for branch in branches):
        model.branches = nn.ModuleDict({"stacked": StackedBranches(branches)})
        model.shared = True  # one module gets all regions in one batch


class StackedBranches(nn.Module):
    """Several :class:`~mrcar_timm.models.mrcar_resnet.RegionBranch` with weights of their own as one module.

    Weights are held twice: in the branches, for many faces, and stacked, for few.

    Args:
        branches: R branches of one shape.

    Shape:
        (R * B, in_chans, H, W), all pictures of the first branch first, to (R * B, widths[-1], ⌈H/16⌉, ⌈W/16⌉).
    """

    def __init__(self, branches: list[Any]) -> None:
        super().__init__()
        self.branches: Any = nn.ModuleList(branches)
        blocks = zip(*([block for stage in branch.stages for block in stage] for branch in branches), strict=True)
        self.blocks = nn.Sequential(*map(_Block, blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.chunk(len(self.branches))
        if len(parts[0]) > _MOST_FACES:
            return torch.cat([branch(part) for branch, part in zip(self.branches, parts, strict=True)])
        stems = [branch.maxpool(branch.conv1(part)) for branch, part in zip(self.branches, parts, strict=True)]
        return self.blocks(torch.cat(stems).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Conv1x1(nn.Module):
    """A 1×1 convolution with other weights for each region, channels last: (R * B, …, C) to (R * B, …, C')."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, convs: Iterable[Any]) -> None:
        super().__init__()
        convs = list(convs)
        weights = [conv.weight.detach().flatten(1).T for conv in convs]
        self.register_buffer("weight", torch.stack(weights), persistent=False)  # (R, C, C')
        biases = [conv.bias.detach()[None] for conv in convs]
        self.register_buffer("bias", torch.stack(biases), persistent=False)  # (R, 1, C')

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape[:-1]
        x = x.reshape(len(self.weight), -1, x.shape[-1])  # (R, positions, C)
        return torch.baddbmm(self.bias, x, self.weight).view(*shape, -1)


class _CoordAttn(nn.Module):
    """:class:`~mrcar_timm.layers.CoordAttn` with other weights for each region: (R * B, H, W, C) to the same."""

    def __init__(self, attns: list[Any]) -> None:
        super().__init__()
        self.conv1 = _Conv1x1(attn.conv1 for attn in attns)
        self.conv_h = _Conv1x1(attn.conv_h for attn in attns)
        self.conv_w = _Conv1x1(attn.conv_w for attn in attns)
        self.act, self.gate = attns[0].act, attns[0].gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f = self.act(self.conv1(torch.cat([x.mean(2), x.mean(1)], 1)))  # (R * B, H + W, C/r)
        f_h, f_w = f.split(x.shape[1:3], 1)
        g_h, g_w = self.gate(self.conv_h(f_h)), self.gate(self.conv_w(f_w))
        return x.mul_(g_w[:, None]).mul_(g_h[:, :, None])


class _Block(nn.Module):
    """A CAR or DS block with other weights for each region: (R * B, H, W, C) to (R * B, H', W', C')."""

    def __init__(self, blocks: tuple[Any, ...]) -> None:
        super().__init__()
        first = blocks[0]
        self.reduce = _Conv1x1(block.reduce.conv for block in blocks)
        self.branch1 = _Conv1x1(block.branch1.conv for block in blocks)
        self.branch1_pool = first.branch1_pool
        self.branch3 = nn.ModuleList(block.branch3.conv for block in blocks)
        self.inner_act = first.reduce.bn  # folding leaves the activation alone there
        attns = [block.attn for block in blocks]
        self.attn = attns[0] if isinstance(attns[0], nn.Identity) else _CoordAttn(attns)
        self.restore = _Conv1x1(block.restore.conv for block in blocks)
        self.shortcut_pool = first.shortcut_pool
        self.shortcut = (
            first.shortcut
            if isinstance(first.shortcut, nn.Identity)
            else _Conv1x1(block.shortcut.conv for block in blocks)
        )
        self.act = first.act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.shortcut(_pooled(self.shortcut_pool, x))
        x = self.inner_act(self.reduce(x))
        left = _pooled(self.branch1_pool, self.inner_act(self.branch1(x)))
        parts = x.permute(0, 3, 1, 2).chunk(len(self.branch3))
        right = torch.cat([conv(part) for conv, part in zip(self.branch3, parts, strict=True)]).permute(0, 2, 3, 1)
        x = self.restore(self.attn(torch.cat([left, self.inner_act(right)], 3)))
        return self.act(x.add_(shortcut))


def _pooled(pool: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Pooled over positions, with the channels last."""
    return pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _can_be_stacked(branch: Any) -> bool:
    """Whether nothing but convolutions has weights, and attention is what :class:`_CoordAttn` computes."""
    attentions = {type(block.attn) for block in branch.modules() if isinstance(block, CARBlock)}
    return attentions <= {CoordAttn, nn.Identity} and all(
        isinstance(module, nn.Conv2d) and module.bias is not None
        for module in branch.modules()
        if list(module.parameters(recurse=False))
    )
