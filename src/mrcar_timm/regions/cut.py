"""Regions out of one image of any size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from .geometry import REGIONS, corners, pixels_per_unit, region_matrices


def cut_regions(
    image: np.ndarray,
    landmarks: npt.ArrayLike,
    regions: tuple[str, ...] = REGIONS,
    size: tuple[int, int] = (44, 44),
) -> np.ndarray:
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
    matrices = region_matrices(landmarks, regions).reshape(-1, 3, 3)  # (N·R, 3, 3)
    return cut_matrices(image, matrices, size).reshape(-1, len(regions), 3, *size)


def cut_matrices(image: np.ndarray, matrices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Parts of an image, each reduced first as :func:`cut_regions` says.

    Args:
        image: RGB, uint8, (H, W, 3).
        matrices: (N, 3, 3), float64, from each part's unit square to the image.
        size: Height and width of a part.

    Returns:
        (N, 3, h, w), float32, values 0…1.
    """
    factors = (pixels_per_unit(matrices) / size[::-1]).max(1).round().clip(min=1)
    margin = 2 * factors[:, None]  # bilinear sampling reads one reduced pixel further
    limits = np.array([image.shape[1], image.shape[0]])
    places = corners(matrices)  # (N, 4, 2)
    low = np.minimum(np.floor(places.min(1) - margin).clip(min=0), limits - 1)
    high = np.maximum(np.minimum(np.ceil(places.max(1) + margin), limits), low + 1)
    # From the image to the patch that is cut from it and reduced.
    matrices = matrices.copy()
    matrices[:, :2, 2] -= low
    matrices[:, :2] /= factors[:, None, None]
    out = np.empty((len(matrices), 3, *size), np.float32)
    windows = np.concatenate([low, high, factors[:, None]], 1).astype(int).tolist()
    for part, matrix, (x1, y1, x2, y2, factor) in zip(out, matrices, windows, strict=True):
        patch = image[y1:y2, x1:x2]
        if factor > 1:
            patch = np.asarray(Image.fromarray(patch).reduce(factor))
        _sample(patch, matrix, part)
    return out


def _sample(patch: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Fill a part (3, h, w) by bilinear sampling; points outside of the patch take the nearest pixel of its border.

    The same as :func:`~mrcar_timm.regions.warp.warp`, which is for tensors on any device.
    """
    h, w = out.shape[1:]
    x, y = (np.arange(w) + 0.5) / w, (np.arange(h)[:, None] + 0.5) / h
    if min(patch.shape[:2]) == 1:  # two pixels a side, so that each has a neighbour
        patch = np.pad(patch, [(0, 1), (0, 1), (0, 0)], mode="edge")
    height, width = patch.shape[:2]

    def pixels(row: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Whole and broken part of a coordinate, h·w of each; pixel centres are at whole numbers."""
        a, b, c = matrix[row]
        at = (a * x + b * y + (c - 0.5)).astype(np.float32).ravel().clip(0, last)
        whole = at.astype(np.int64).clip(max=last - 1)
        return whole, at - whole

    (left, right_part), (top, lower_part) = pixels(0, width - 1), pixels(1, height - 1)
    index = top * width + left
    for channel, values in zip(out.reshape(3, -1), patch.reshape(-1, 3).T / np.float32(255), strict=True):
        upper, lower = values.take(index), values.take(index + width)
        upper += (values.take(index + 1) - upper) * right_part
        lower += (values.take(index + width + 1) - lower) * right_part
        channel[:] = upper + (lower - upper) * lower_part
