"""Coordinate attention.

Papers:
- `Coordinate Attention for Efficient Mobile Network Design` - https://arxiv.org/abs/2103.02907
- `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals`, eqs 1-7 -
  https://doi.org/10.1109/ACCESS.2023.3285781
"""

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers.coord_attn import CoordAttn as _TimmCoordAttn
from torch import nn

from .untouched import is_untouched


class CoordAttn(_TimmCoordAttn):
    r"""Coordinate attention with the widths and biases of the authors' code.

    Means along each axis are mixed by a 1×1 convolution :math:`F_1` over the H + W positions, and
    two more give a gate per row and a gate per column (eqs 2-7):

    .. math::
        f = \delta(F_1([z^h, z^w])), \quad g^h = \sigma(F_h(f^h)), \quad g^w = \sigma(F_w(f^w)), \quad
        y_c(i, j) = x_c(i, j) \cdot g^h_c(i) \cdot g^w_c(j)

    Parameters and result are those of timm's :class:`timm.layers.coord_attn.CoordAttn`; the defaults differ,
    ``max(8, channels · rd_ratio)`` channels between and biases, so that state dicts of the authors'
    module load as they are. The three convolutions, over so few positions, are computed as matrix products with
    the channels last, which takes less than half of the time on a CPU; where one of them was replaced, has a hook or is
    otherwise watched, as adapters, quantizers, pruning and counters do, all of them are called instead.

    Args:
        channels: Number of input and output channels C.
        rd_ratio: Reduction 1/r of the channels between (the authors' r is 32).
        rd_channels: Channels between, instead of ``rd_ratio``.
        bias: Whether the three convolutions have a bias.
        act_layer: δ.
        norm_layer: Normalization before δ, or None.
        gate_layer: σ, a name or a class.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, C, H, W) to (B, C, H, W), for any H and W.

    Example:
        >>> CoordAttn(64)(torch.rand(2, 64, 22, 11)).shape
        torch.Size([2, 64, 22, 11])
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 1 / 32,
        rd_channels: int | None = None,
        bias: bool = True,
        act_layer: type[nn.Module] = nn.Hardswish,
        norm_layer: type[nn.Module] | None = nn.BatchNorm2d,
        gate_layer: str | type[nn.Module] = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels,
            rd_channels=rd_channels or max(8, int(channels * rd_ratio)),
            bias=bias,
            act_layer=act_layer,
            norm_layer=norm_layer,
            gate_layer=gate_layer,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting() and self._may_multiply(x):
            return self._by_products(x)
        g_h, g_w = self.gates(x)
        return x * g_w * g_h

    def gates(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gates of the rows, (B, C, H, 1), and of the columns, (B, C, 1, W), for features (B, C, H, W)."""
        height, width = x.shape[2], x.shape[3]
        z = torch.cat([x.mean(3), x.mean(2)], 2).unsqueeze(3)  # (B, C, H + W, 1)
        f = self.act(self.bn1(self.conv1(z)))  # (B, C/r, H + W, 1)
        f_h, f_w = f.split([height, width], 2)
        return self.gate(self.conv_h(f_h)), self.gate(self.conv_w(f_w)).transpose(2, 3)

    @torch.jit.unused
    def _may_multiply(self, x: torch.Tensor) -> bool:
        """Whether nobody would notice that the convolutions are not called."""
        if isinstance(x, torch.fx.Proxy) or torch.jit.is_tracing():  # what is traced may be watched later
            return False
        return all(_is_plain(conv) for conv in (self.conv1, self.conv_h, self.conv_w))

    @torch.jit.unused
    def _by_products(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        z = torch.cat([x.mean(2), x.mean(1)], 1)  # (B, H + W, C)
        z = _conv1x1(z, self.conv1.weight, self.conv1.bias).transpose(1, 2).unsqueeze(3)  # (B, C/r, H + W, 1)
        f = self.act(self.bn1(z)).squeeze(3).transpose(1, 2)  # (B, H + W, C/r)
        f_h, f_w = f.split([height, width], 1)
        g_h = self.gate(_conv1x1(f_h, self.conv_h.weight, self.conv_h.bias)).unsqueeze(2)  # (B, H, 1, C)
        g_w = self.gate(_conv1x1(f_w, self.conv_w.weight, self.conv_w.bias)).unsqueeze(1)  # (B, 1, W, C)
        return (x * g_w * g_h).permute(0, 3, 1, 2)


class UnitGate(nn.Module):
    """2·σ(x): 1 at 0, values in 0…2."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x.sigmoid()


def _is_plain(conv: nn.Module) -> bool:
    """Whether a module is a 1×1 convolution and nothing else."""
    return type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) and conv.groups == 1 and is_untouched(conv)


def _conv1x1(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A 1×1 convolution over positions with the channels last: (B, L, C) to (B, L, C')."""
    return F.linear(x, weight.flatten(1), bias)
