"""Input of a network: its normalization, and how grey and color images relate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Every network of the package expects values in 0…1, minus the mean, divided by the standard deviation.
#: The channels are alike, so that a grey image gives the same in one channel and in three.
INPUT_MEAN = (0.5, 0.5, 0.5)
INPUT_STD = (0.25, 0.25, 0.25)

#: Weights of red, green and blue in a grey value (ITU-R BT.601), as Pillow has them.
LUMA = (0.299, 0.587, 0.114)

_FIRST_CONV = re.compile(r"branches\.\w+\.conv1\.conv\.weight")


def to_color(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Spread first convolutions of one channel over three by the luma weights.

    The network then sees in a color image what it would see in the grey version of it.
    """
    return {
        key: value * value.new_tensor(LUMA)[:, None, None] if is_first_conv(key) and value.shape[1] == 1 else value
        for key, value in state.items()
    }


def to_grey(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add up first convolutions of three channels: the network then takes grey images in one channel."""
    return {key: value.sum(1, keepdim=True) if is_first_conv(key) else value for key, value in state.items()}


def is_first_conv(key: str) -> bool:
    """Whether this tensor of a network with branches of its own meets the channels of the image."""
    return _FIRST_CONV.fullmatch(key) is not None
