"""Regions out of one picture of any size."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from .geometry import REGIONS, pixels_per_unit, region_matrices, warp


def cut_regions(
    image: np.ndarray,
    landmarks: np.ndarray,
    regions: tuple[str, ...] = REGIONS,
    size: tuple[int, int] = (44, 44),
) -> torch.Tensor:
    """Face, eyes and mouth, aligned, each from the original pixels.

    A region's neighbourhood is cut first and reduced by the whole factor nearest to its scale, each
    pixel the mean of those it replaces; one warp does the rest.

    Args:
        image: RGB, uint8, (H, W, 3).
        landmarks: (5, 2) in pixels.
        regions: Names of the regions.
        size: Height and width of a region.

    Returns:
        (R, 3, h, w), float32, values 0…1.
    """
    matrices = region_matrices(torch.as_tensor(np.asarray(landmarks))[None], regions)[0]  # (R, 3, 3)
    target = torch.tensor(size[::-1], dtype=torch.float64)  # w, h
    return torch.cat([_cut(image, matrix, target, size) for matrix in matrices])


def _cut(image: np.ndarray, matrix: torch.Tensor, target: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    factor = max(1, round(float((pixels_per_unit(matrix) / target).max())))
    corners = matrix[:2] @ torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.float64)
    height, width = image.shape[:2]
    limits = torch.tensor([width, height], dtype=torch.float64)
    margin = 2 * factor  # bilinear sampling reads one reduced pixel further
    low = (corners.amin(1) - margin).floor().clamp(min=0).minimum(limits - 1).long()
    high = (corners.amax(1) + margin).ceil().minimum(limits).long().maximum(low + 1)
    patch = image[low[1] : high[1], low[0] : high[0]]
    if factor > 1:
        patch = np.asarray(Image.fromarray(patch).reduce(factor))
    pixels = torch.from_numpy(patch.copy()).permute(2, 0, 1)[None].float() / 255
    to_patch = torch.eye(3, dtype=torch.float64) / factor
    to_patch[:2, 2] = -low / factor
    to_patch[2, 2] = 1
    return warp(pixels, (to_patch @ matrix)[None, None], size)[0]  # (1, 3, h, w)
