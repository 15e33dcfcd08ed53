"""A network for inference alone: the same function with fewer operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from timm.layers import BatchNormAct2d, ConvNormAct
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..devices import as_device
from ..forked import inference, note_run
from ..layers import CARBlock, CoordAttn
from ..layers.insert import InsertedAttention, insertions
from ..layers.untouched import is_untouched
from .mrcar_resnet import MRCARResNet

# Where the modules are from that may be computed in another way than by calling them.
_KNOWN = ("torch.nn.modules.", "timm.layers.", "mrcar_timm.")
# Above this the branches one by one are faster: convolutions of many images take less time than matrix products.
_MOST_FACES = 8


def optimize_for_inference(model: nn.Module) -> nn.Module:
    """A copy of a network in which batch norms are folded and the regions' branches run together.

    Args:
        model: Any network; it stays as it is.

    Returns:
        A network in evaluation mode with the same logits, for inference alone: an :class:`InferenceNetwork` for an
        :class:`~mrcar_timm.models.MRCARResNet` with a branch for each region; else the copy with folded batch norms.

    Example:
        >>> from mrcar_timm.models import mrcar_resnet
        >>> fast = optimize_for_inference(mrcar_resnet())
        >>> fast(torch.zeros(1, 3, 3, 44, 44)).shape
        torch.Size([1, 7])
    """
    model = folded(model)
    if isinstance(model, MRCARResNet) and _can_run_in_one(model):
        return InferenceNetwork(model).eval()
    return model


class TorchBackend:
    """A network that PyTorch runs, optimized for inference.

    Args:
        model: The network; it stays as and where it is.
        device: Device of the copy that runs.
    """

    name = "torch"

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        note_run()
        self._model = optimize_for_inference(model)
        self.embedding_size = int(getattr(model, "head_hidden_size", 0))
        parameter = next(model.parameters(), None)
        self._dtype = torch.float32 if parameter is None else parameter.dtype
        self.to(device)

    def to(self, device: torch.device | str) -> TorchBackend:
        self.device = as_device(device)
        self._model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    @inference
    def __call__(self, regions: np.ndarray) -> np.ndarray:
        return _to_numpy(self._model(self._on_device(regions)))

    @inference
    def with_embeddings(self, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model: Any = self._model
        embeddings = model.forward_head(model.forward_features(self._on_device(regions)), pre_logits=True)
        return _to_numpy(model.get_classifier()(embeddings)), _to_numpy(embeddings)

    def _on_device(self, regions: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(regions).to(self.device, self._dtype)


def _to_numpy(values: torch.Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def folded(model: nn.Module) -> nn.Module:
    """A copy of a network, in evaluation mode, whose batch norms are folded into the convolutions before them.

    What was replaced or has hooks, as by adapters, stays as it is.
    """
    model = deepcopy(model).eval().requires_grad_(False)
    _fold_batch_norms(model)
    return model


def _fold_batch_norms(model: nn.Module) -> None:
    """Fold batch norms into the convolutions before them, in place."""
    for module in list(model.modules()):
        if any(isinstance(part, InsertedAttention) for child in module.children() for part in child.children()):
            continue  # attention may be between the two
        if isinstance(module, ConvNormAct) and _can_be_folded(module.conv, module.bn):
            act = getattr(module.bn, "act", nn.Identity())
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = act
        elif isinstance(module, CoordAttn) and _can_be_folded(module.conv1, module.bn1):
            module.conv1 = fuse_conv_bn_eval(module.conv1, module.bn1)
            module.bn1 = nn.Identity()


def _can_be_folded(conv: Any, norm: Any) -> bool:
    """Whether a convolution and a batch norm are what their classes say, and are called by nobody else."""
    if type(conv) is not nn.Conv2d or type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
        return False
    dropout = getattr(norm, "drop", nn.Identity())
    return type(dropout) is nn.Identity and all(map(is_untouched, (conv, norm, dropout)))


class InferenceNetwork(nn.Module):
    """Logits of a folded :class:`~mrcar_timm.models.MRCARResNet`, whose branches run in one.

    Args:
        model: In evaluation mode, its batch norms folded; its parts are used.

    Shape:
        Faces (B, C, H, W) or regions (B, R, C, h, w) to logits (B, num_classes).
    """

    def __init__(self, model: MRCARResNet) -> None:
        super().__init__()
        self.regions, self.in_chans, self.num_classes = model.regions, model.in_chans, model.num_classes
        self.split = model.split
        self.branches = StackedBranches(list(model.branches.values()))
        self.global_pool, self.fusion, self.head = model.global_pool, model.fusion, model.head

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.split(x).transpose(0, 1).flatten(0, 1)  # (R * B, C, h, w)
        return torch.cat(self.branches(x).chunk(len(self.regions)), 1)  # (B, num_features, h', w')

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.fusion(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class StackedBranches(nn.Module):
    """Several :class:`~mrcar_timm.models.mrcar_resnet.RegionBranch` with weights of their own as one module.

    Weights are held twice: in the branches, for many faces, and stacked, for few.

    Args:
        branches: R branches of one shape.

    Shape:
        (R * B, in_chans, H, W), all images of the first branch first, to (R * B, widths[-1], ⌈H/16⌉, ⌈W/16⌉).
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


def _can_run_in_one(model: MRCARResNet) -> bool:
    """Whether there are several branches, which can be stacked, and nothing else has been changed."""
    several = type(model) is MRCARResNet and not model.shared and len(model.regions) > 1 and not insertions(model)
    return several and _can_be_stacked(list(model.branches.values())) and all(map(is_untouched, model.modules()))


def _can_be_stacked(branches: list[Any]) -> bool:
    """Whether branches are alike, nothing but convolutions has weights, and attention is what :class:`_CoordAttn`
    computes.
    """
    modules = list(branches[0].modules())
    blocks = [module for module in modules if isinstance(module, CARBlock)]
    return (
        len({repr(branch) for branch in branches}) == 1
        and all(type(block.attn) in (CoordAttn, nn.Identity) and _is_folded(block) for block in blocks)
        and all(
            type(module) is nn.Conv2d and module.bias is not None
            for module in modules
            if list(module.parameters(recurse=False))
        )
        and all(type(module).__module__.startswith(_KNOWN) for module in modules)
    )


def _is_folded(block: CARBlock) -> bool:
    """Whether the same activation is all that is left of the inner norms of a block, and nothing of the last ones."""
    layers: list[Any] = [block.reduce, block.branch1, block.branch3]
    last: list[Any] = [block.restore, block.shortcut]
    inner = {repr(getattr(layer, "bn", None)) for layer in layers}
    return len(inner) == 1 and all(isinstance(getattr(layer, "bn", layer), nn.Identity) for layer in last)
