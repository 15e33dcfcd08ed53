"""Regions out of batches of images of one size, on any device: what training cuts with.

Where they lie is arithmetic of :mod:`~mrcar_timm.regions.geometry`. Sampling is there twice: here for a batch of
tensors that may be on a GPU, in :mod:`~mrcar_timm.regions.cut` for one image of any size, without PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def warp(images: torch.Tensor, matrices: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cut regions out of images: one bilinear sampling for all of them.

    Points outside the image take the nearest pixel of its border.

    Args:
        images: (N, C, H, W), floating point.
        matrices: (N, R, 3, 3) from :func:`~mrcar_timm.regions.geometry.region_matrices`, float64 so that huge images
            lose nothing.
        size: Height h and width w of every region, in pixels.

    Returns:
        (N, R, C, h, w), of the type of ``images``.
    """
    n, r = matrices.shape[:2]
    h, w = size
    y = (torch.arange(h, device=images.device) + 0.5) / h
    x = (torch.arange(w, device=images.device) + 0.5) / w
    # In the coordinates of grid_sample the image spans -1…1.
    scale = matrices.new_tensor([[2 / images.shape[3]], [2 / images.shape[2]]])
    affine = (matrices[..., :2, :] * scale).to(images.device, torch.float32)[:, :, None, None]  # (N, R, 1, 1, 2, 3)
    grid = affine[..., 0] * x[:, None] + affine[..., 1] * y[:, None, None] + (affine[..., 2] - 1)  # (N, R, h, w, 2)
    grid = grid.to(images.dtype).reshape(n, r * h, w, 2)
    out = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return out.reshape(n, -1, r, h, w).transpose(1, 2)  # (N, R, C, h, w)
