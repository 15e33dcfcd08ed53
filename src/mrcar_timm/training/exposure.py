"""Exposure of batches on any device, with the window of :mod:`~mrcar_timm.exposure`."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..exposure import REGION_SAMPLES, exposure_window
from ..inputs import LUMA


def normalize_exposure(regions: torch.Tensor) -> torch.Tensor:
    """Stretch the regions (N, R, C, h, w) of each face together, as :func:`~mrcar_timm.exposure.normalize_exposure`."""
    luma = regions[:, :, 0]  # (N, R, h, w)
    if regions.shape[2] == 3:
        luma = (regions * regions.new_tensor(LUMA)[:, None, None]).sum(2)
    samples = F.adaptive_avg_pool2d(luma, REGION_SAMPLES).flatten(1)
    window = torch.from_numpy(exposure_window(samples.float().cpu().numpy())).to(regions)
    low, high = window[:, :, None, None, None, None].unbind(1)
    return ((regions - low) / (high - low)).clamp(0, 1)
