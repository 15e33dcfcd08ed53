"""Coordinate attention.

Papers:
- `Coordinate Attention for Efficient Mobile Network Design` - https://arxiv.org/abs/2103.02907
- `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals`, eqs 1-7 -
  https://doi.org/10.1109/ACCESS.2023.3285781
"""

import torch
from timm.layers.coord_attn import CoordAttn as _TimmCoordAttn
from torch import nn


class CoordAttn(_TimmCoordAttn):
    r"""Coordinate attention with the widths and biases of the authors' code.

    Means along each axis are mixed by a 1×1 convolution :math:`F_1` over the H + W positions, and
    two more give a gate per row and a gate per column (eqs 2-7):

    .. math::
        f = \delta(F_1([z^h, z^w])), \quad g^h = \sigma(F_h(f^h)), \quad g^w = \sigma(F_w(f^w)), \quad
        y_c(i, j) = x_c(i, j) \cdot g^h_c(i) \cdot g^w_c(j)

    The computation is timm's :class:`timm.layers.coord_attn.CoordAttn`; only the defaults differ:
    ``max(8, channels · rd_ratio)`` channels between and biases, so that state dicts of the authors'
    module load as they are.

    Args:
        channels: Number of input and output channels C.
        rd_ratio: Reduction 1/r of the channels between (the authors' r is 32).
        rd_channels: Channels between, instead of ``rd_ratio``.
        bias: Whether the three convolutions have a bias.
        act_layer: δ.
        norm_layer: Normalisation before δ, or None.
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
