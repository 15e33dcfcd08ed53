"""Regions out of one image of any size."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .geometry import REGIONS, pixels_per_unit, region_matrices, sampling_grid


def cut_regions(
    image: np.ndarray,
    landmarks: np.ndarray,
    regions: tuple[str, ...] = REGIONS,
    size: tuple[int, int] = (44, 44),
) -> torch.Tensor:
    """Face, eyes and mouth of each face, aligned, each from the original pixels.

    A region's neighbourhood is cut first and reduced by the whole factor nearest to its scale, each
    pixel the mean of those it replaces; one warp does the rest.

    Args:
        image: RGB, uint8, (H, W, 3).
        landmarks: (N, 5, 2) in pixels.
        regions: Names of the regions.
        size: Height and width of a region.

    Returns:
        (N, R, 3, h, w), float32, values 0…1.
    """
    matrices = region_matrices(torch.as_tensor(np.asarray(landmarks)), regions).flatten(0, 1)  # (N·R, 3, 3)
    return cut_matrices(image, matrices, size).view(-1, len(regions), 3, *size)


def cut_matrices(image: np.ndarray, matrices: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Parts of an image, each reduced first as :func:`cut_regions` says.

    Args:
        image: RGB, uint8, (H, W, 3).
        matrices: (N, 3, 3), float64, from each part's unit square to the image.
        size: Height and width of a part.

    Returns:
        (N, 3, h, w), float32, values 0…1.
    """
    target = torch.tensor(size[::-1], dtype=torch.float64)  # w, h
    factors = (pixels_per_unit(matrices) / target).amax(1).round().clamp(min=1)
    unit_square = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.float64)
    corners = matrices[:, :2] @ unit_square  # (N, 2, 4)
    margin = 2 * factors[:, None]  # bilinear sampling reads one reduced pixel further
    limits = torch.tensor([image.shape[1], image.shape[0]], dtype=torch.float64)
    low = (corners.amin(2) - margin).floor().clamp(min=0).minimum(limits - 1)
    high = (corners.amax(2) + margin).ceil().minimum(limits).maximum(low + 1)
    # From the image to the patch that is cut from it and reduced.
    matrices = matrices.clone()
    matrices[:, :2, 2] -= low
    matrices[:, :2] /= factors[:, None, None]
    out = torch.empty(len(matrices), 3, *size)
    windows = torch.cat([low, high, factors[:, None]], 1).int().tolist()
    for row, (x1, y1, x2, y2, factor) in enumerate(windows):
        patch = image[y1:y2, x1:x2]
        if factor > 1:
            patch = np.asarray(Image.fromarray(patch).reduce(factor))
        pixels = torch.from_numpy(patch.astype(np.float32)).permute(2, 0, 1)[None]
        grid = sampling_grid(matrices[row : row + 1], pixels.shape[:1:-1], size)
        out[row] = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return out.div_(255)
