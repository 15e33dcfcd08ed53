"""CAR and DS blocks: residual blocks with two branches and attention over their concatenation.

Paper: `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals`, Fig. 4 -
https://doi.org/10.1109/ACCESS.2023.3285781
"""

import torch
from timm.layers import ConvNormAct, DropPath, create_act_layer, create_attn
from torch import nn

from .coord_attn import CoordAttn

AttnLayer = str | type[nn.Module] | None


class CARBlock(nn.Module):
    """Coordinate-attention residual block, stride 1.

    A 1×1 convolution reduces the channels; a 1×1 and a 3×3 convolution stand side by side; their
    concatenation goes through attention; a 1×1 convolution gives the output width; the identity
    branch is added. The paper gives no widths inside the block: here both branches have
    ``rd_ratio · out_chs`` channels, and the identity branch is a 1×1 convolution where the width
    changes.

    Args:
        in_chs: Input channels.
        out_chs: Output channels.
        rd_ratio: Width of each branch as a part of ``out_chs``.
        attn_layer: Attention over the concatenated branches: "coord" for :class:`CoordAttn`, or
            anything else that :func:`timm.layers.create_attn` takes (a name or a class); "none" or None for
            none.
        drop_path: Probability of dropping the residual branch of a sample (stochastic depth).
        act_layer: Activation.
        norm_layer: Normalization.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, in_chs, H, W) to (B, out_chs, H, W).

    Example:
        >>> CARBlock(64, 128)(torch.rand(2, 64, 22, 22)).shape
        torch.Size([2, 128, 22, 22])
    """

    stride = 1

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        rd_ratio: float = 0.25,
        attn_layer: AttnLayer = "coord",
        drop_path: float = 0.0,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        layers = {"act_layer": act_layer, "norm_layer": norm_layer, **factory}
        mid_chs = int(out_chs * rd_ratio)
        down = self.stride > 1

        self.reduce = ConvNormAct(in_chs, mid_chs, 1, **layers)
        self.branch1 = ConvNormAct(mid_chs, mid_chs, 1, **layers)
        self.branch1_pool = nn.MaxPool2d(3, self.stride, padding=1) if down else nn.Identity()
        self.branch3 = ConvNormAct(mid_chs, mid_chs, 3, stride=self.stride, **layers)
        if attn_layer is None or attn_layer == "none":
            self.attn: nn.Module = nn.Identity()
        else:
            self.attn = create_attn(CoordAttn if attn_layer == "coord" else attn_layer, 2 * mid_chs, **factory)
        self.restore = ConvNormAct(2 * mid_chs, out_chs, 1, apply_act=False, **layers)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

        # The mean over every position, where a strided 1×1 convolution would skip three of four.
        self.shortcut_pool = nn.AvgPool2d(3, self.stride, padding=1, count_include_pad=False) if down else nn.Identity()
        self.shortcut = (
            ConvNormAct(in_chs, out_chs, 1, apply_act=False, **layers) if in_chs != out_chs else nn.Identity()
        )
        self.act = create_act_layer(act_layer, inplace=True)

    @torch.jit.ignore
    def zero_init_last(self) -> None:
        """Let the block start as its identity branch."""
        if getattr(self.restore.bn, "weight", None) is not None:
            nn.init.zeros_(self.restore.bn.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.shortcut(self.shortcut_pool(x))
        x = self.reduce(x)
        x = torch.cat([self.branch1_pool(self.branch1(x)), self.branch3(x)], dim=1)
        x = self.restore(self.attn(x))
        return self.act(self.drop_path(x) + shortcut)


class DSBlock(CARBlock):
    """Down-sampling block: :class:`CARBlock` with stride 2.

    A 1×1 convolution with stride 2 would never see three quarters of the positions; it is replaced
    by one with stride 1 and 3×3 max pooling with stride 2, beside the 3×3 convolution. The identity
    branch is pooled too.

    Shape:
        (B, in_chs, H, W) to (B, out_chs, ⌈H/2⌉, ⌈W/2⌉).

    Example:
        >>> DSBlock(128, 128)(torch.rand(2, 128, 11, 22)).shape
        torch.Size([2, 128, 6, 11])
    """

    stride = 2
