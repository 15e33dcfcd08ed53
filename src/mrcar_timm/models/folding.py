"""Networks made ready for inference: the same function with fewer operations."""

from __future__ import annotations

from timm.layers import ConvNormAct
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..layers import CoordAttn
from .mrcar_resnet import MRCARResNet
from .stacking import stack_branches


def fold_for_inference(model: nn.Module) -> None:
    """Fold batch norms and let the regions' branches run together, in place: the same function in less time.

    Args:
        model: In evaluation mode. It can be trained no more, its state dict is another one, and of features it gives
            those of the last stage alone. Of networks that are no :class:`~mrcar_timm.models.MRCARResNet` the batch
            norms alone are folded.

    Raises:
        ValueError: If the model is in training mode.

    Example:
        >>> from mrcar_timm.models import mrcar_resnet
        >>> model = mrcar_resnet().eval()
        >>> fold_for_inference(model)
        >>> list(model.branches)
        ['stacked']
    """
    fold_batch_norms(model)
    if isinstance(model, MRCARResNet):
        stack_branches(model)


def fold_batch_norms(model: nn.Module) -> None:
    """Fold them into the convolutions before them, in place, for inference alone: the network can be trained no more.

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
        elif isinstance(module, CoordAttn) and isinstance(module.bn1, nn.BatchNorm2d):
            module.conv1 = fuse_conv_bn_eval(module.conv1, module.bn1)
            module.bn1 = nn.Identity()
