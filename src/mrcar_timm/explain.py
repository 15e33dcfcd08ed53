"""Where the evidence for an expression lies: Grad-CAM, coordinate-attention maps, and covered regions.

Papers:
- `Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization` -
  https://arxiv.org/abs/1610.02391
- `Integrated Grad-CAM: Sensitivity-Aware Visual Explanation of Deep Convolutional Networks via Integrated
  Gradient-Based Scoring` - https://arxiv.org/abs/2102.07805
- `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals`, eqs 5-7 -
  https://doi.org/10.1109/ACCESS.2023.3285781
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.utils import _pair

from .forked import note_run
from .layers import CoordAttn
from .models import RegionNetwork

# Steps from a covered region to the region, over which gradients are averaged.
_STEPS = 32


@dataclass(frozen=True)
class RegionExplanation:
    """What one region says about an expression.

    Attributes:
        image: The region as the network sees it, aligned and evenly exposed: RGB, uint8, (h, w, 3).
        evidence: Heat map, float32, (h, w): positive where the region speaks for the expression, negative where it
            speaks against it. Where features are averaged over places, as in all packaged networks, it adds up to
            ``drop``. It is computed at the resolution of the last stage, such as 4×4, and each of its cells is spread
            around its place.
        drop: Log-odds of the expression that are lost when this region is covered; negative where they grow.
        covered: Probability of the expression then, 0…1. Another region may show the same part of the face: that of
            the face shows the eyes and the mouth, too.
        attention: Maps of coordinate attention by the name of the block, float32, (h, w): the gate of the row times
            that of the column, g^h · g^w, the mean over the channels, interpolated. Empty where there is no coordinate
            attention.
    """

    image: np.ndarray
    evidence: np.ndarray
    drop: float
    covered: float
    attention: dict[str, np.ndarray]


def explain_regions(
    model: RegionNetwork, inputs: np.ndarray, images: np.ndarray, asked: list[int], targets: list[int]
) -> list[dict[str, RegionExplanation]]:
    """For each face, what its regions say about an expression.

    A region is covered by its mean color. Its heat map is Grad-CAM, with two changes. The score is the logarithm of the
    expression's odds instead of its logit, and the sign is kept: what raises all logits alike is no evidence. And
    weights are averaged, and features compared, along the way from the covered region to the region (Integrated
    Grad-CAM): the cosines of an ArcFace head do not change with the length of the embedding, so that the gradients at
    one point do not add up to what covering a region costs.

    All is computed in float32, whatever the type of the network, which stays as it is.

    Args:
        model: The network.
        inputs: Regions (N, R, C, h, w) as the network takes them.
        images: The same as images, (N, R, 3, h, w), values 0…1.
        asked: Indices of the expressions that are asked for.
        targets: For each face the place of its expression among these.
    """
    if not len(inputs):
        return []
    note_run()
    copied: RegionNetwork = deepcopy(model).float().eval().requires_grad_(False)
    with torch.inference_mode(False), torch.no_grad():
        x = torch.from_numpy(inputs).to(next(copied.parameters()).device)
        blank = copied.forward_regions(x.mean((3, 4), keepdim=True).expand_as(x))
        watched = {name: _Watched(branch) for name, branch in copied.branches.named_children()}
        features = copied.forward_regions(x)
        found = {
            region: _evidence(copied, features, i, blank[i], asked, targets) for i, region in enumerate(copied.regions)
        }
    images = (images.transpose(0, 1, 3, 4, 2) * 255).round().astype(np.uint8)  # (N, R, h, w, 3)
    explained: list[dict[str, RegionExplanation]] = [{} for _ in inputs]
    for i, (region, (evidence, drop, covered)) in enumerate(found.items()):
        seen = watched["shared"] if copied.shared else watched[region]
        part = slice(i * len(x), (i + 1) * len(x)) if copied.shared else slice(None)
        spread = seen.spread(evidence).cpu().numpy()
        attention = {block: seen.interpolated(maps[part]).cpu().numpy() for block, maps in seen.attention.items()}
        for n, each in enumerate(explained):
            maps_of_face = {block: maps[n] for block, maps in attention.items()}
            each[region] = RegionExplanation(images[n, i], spread[n], drop[n].item(), covered[n].item(), maps_of_face)
    return explained


class _Watched:
    """What a branch does in its next call: the maps of its coordinate attention, and where the cells of maps lie.

    The first cell of a map lies over the first pixel of the region, or further right, as strides and paddings say: a
    3×3 convolution with stride 2 has its first cell over the very first pixel, so that a map of 4×4 cells, of 32 pixels
    each, would else be drawn half a cell too far right and down.

    Args:
        branch: The branch; its hooks stay.

    Attributes:
        attention: By the name of the block the gates' product, the mean over the channels, (N, H, W).
    """

    def __init__(self, branch: nn.Module) -> None:
        self.attention: dict[str, torch.Tensor] = {}
        # By height and width of a map, for y and x: the place of the first cell, and the distance of cells, in pixels.
        self._places: dict[tuple[int, int], list[tuple[float, float]]] = {}
        branch.register_forward_pre_hook(self._note_input)
        for block, layer in branch.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
                layer.register_forward_hook(self._note_place)
            elif isinstance(layer, CoordAttn):
                layer.register_forward_hook(partial(self._note_attention, block))

    def _note_input(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self._size = _size_of(args[0])
        self._places[self._size] = [(0.5, 1.0), (0.5, 1.0)]

    def _note_place(self, layer: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        before, after = self._places.get(_size_of(args[0])), _size_of(output)
        if before is None or after in self._places or isinstance(layer.padding, str):
            return
        kernel, stride, padding = (_pair(value) for value in (layer.kernel_size, layer.stride, layer.padding))
        self._places[after] = [
            (first + ((k - 1) / 2 - p) * step, step * s)
            for (first, step), k, s, p in zip(before, kernel, stride, padding, strict=True)
        ]

    def _note_attention(self, block: str, layer: CoordAttn, args: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        g_h, g_w = layer.gates(args[0])
        self.attention[block] = (g_h * g_w).mean(1)

    def interpolated(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (N, H, W) at each pixel of the region, (N, h, w)."""
        rows, columns = self._weights(maps)
        return rows @ maps @ columns.T

    def spread(self, maps: torch.Tensor) -> torch.Tensor:
        """The same with the sum that they had."""
        rows, columns = (weights / weights.sum(0).clamp(min=1e-12) for weights in self._weights(maps))
        return rows @ maps @ columns.T

    def _weights(self, maps: torch.Tensor) -> list[torch.Tensor]:
        """Weights (h, H) and (w, W) of linear interpolation between cells; beyond the last, its value."""
        size = _size_of(maps)
        centred = [(whole / part / 2, whole / part) for whole, part in zip(self._size, size, strict=True)]
        weights = []
        for pixels, cells, (first, step) in zip(self._size, size, self._places.get(size, centred), strict=True):
            at = ((torch.arange(pixels) + 0.5 - first) / step).clamp(0, cells - 1)
            weights.append((1 - (at[:, None] - torch.arange(cells)).abs()).clamp(min=0).to(maps))
        return weights


def _size_of(x: torch.Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _evidence(
    model: RegionNetwork,
    features: list[torch.Tensor],
    index: int,
    blank: torch.Tensor,
    asked: list[int],
    targets: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Heat maps (N, h', w') of one region; the log-odds (N,) that it gives, and the probability (N,) without it.

    Args:
        model: The network.
        features: Features of each region, (N, C', h', w').
        index: The region.
        blank: Its features (N, C', h', w') where it is covered.
        asked: Indices of the expressions that are asked for.
        targets: For each face the place of its expression among these.
    """

    def log_odds(part: torch.Tensor) -> torch.Tensor:
        logits = model.forward_head(torch.cat([*features[:index], part, *features[index + 1 :]], 1))
        return _log_odds(logits[:, asked], targets)

    difference = features[index] - blank
    alpha = torch.zeros_like(difference[:, :, :1, :1])
    for step in range(_STEPS):
        with torch.enable_grad():
            part = (blank + (step + 0.5) / _STEPS * difference).requires_grad_()
            (gradient,) = torch.autograd.grad(log_odds(part).sum(), part)
        alpha += gradient.mean((2, 3), keepdim=True) / _STEPS  # eq. 1
    without = log_odds(blank)
    return (alpha * difference).sum(1), log_odds(features[index]) - without, without.sigmoid()  # eq. 2, signed


def _log_odds(logits: torch.Tensor, targets: list[int]) -> torch.Tensor:
    """log p / (1 - p) of one class of each row (N, K): its logit less the logarithm of the others' sum."""
    index = torch.tensor(targets, device=logits.device)[:, None]
    others = logits.scatter(1, index, -torch.inf)
    return logits.gather(1, index).squeeze(1) - others.logsumexp(1)
