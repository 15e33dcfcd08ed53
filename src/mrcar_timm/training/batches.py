"""Batches of regions from a data set in memory, augmented in batches on the device that trains.

Rotation, zoom, shift and mirroring multiply the regions' matrices before the one warp that cuts them,
so training and inference share one geometry and pixels are interpolated once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..data.images import ImageSet
from ..models.checkpoints import INPUT_MEAN, INPUT_STD
from ..regions.geometry import box_matrices, frame_transform, similarity_from_landmarks, warp
from .recipe import Augmentation


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64) * (high - low) + low


class RegionBatches:
    """A data set's pictures and landmarks on a device, from which regions are cut.

    Args:
        data: Pictures and labels.
        landmarks: (N, 5, 2) in pixels.
        regions: Names of the regions.
        size: Height and width of a region.
        device: Where pictures lie and regions are made.
    """

    def __init__(
        self,
        data: ImageSet,
        landmarks: torch.Tensor,
        regions: tuple[str, ...],
        size: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.images = torch.from_numpy(data.images)[:, None].to(self.device)  # (N, 1, H, W)
        self.labels = torch.from_numpy(data.labels).to(self.device)
        self.frames = similarity_from_landmarks(landmarks)  # (N, 3, 3)
        self.boxes = box_matrices(regions)  # (R, 3, 3)
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def _cut(self, rows: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        matrices = (self.frames[rows] @ change)[:, None] @ self.boxes
        pixels = self.images[rows.to(self.device)].float() / 255
        return warp(pixels, matrices.to(self.device, torch.float32), self.size)  # (B, R, 1, h, w)

    def view(self, rows: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """Regions of some pictures under one change of the frame, ready for the network."""
        return normalise(self._cut(rows, change))

    def training(
        self, batch_size: int, augmentation: Augmentation, generator: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One pass in random order: augmented regions (B, R, 1, h, w) and labels (B,).

        The last, smaller batch is left out: batch statistics of a few pictures mislead.
        """
        order = torch.randperm(len(self), generator=generator)
        for rows in order.split(batch_size):
            if len(rows) < min(batch_size, len(self)):
                return
            regions = self._cut(rows, random_changes(len(rows), augmentation, generator))
            regions = change_light(regions, augmentation, generator)
            regions = erase(regions, augmentation.erase, generator)
            yield normalise(regions), self.labels[rows.to(self.device)]


def normalise(regions: torch.Tensor) -> torch.Tensor:
    """Values of 0…1 to what the networks expect."""
    return (regions - INPUT_MEAN[0]) / INPUT_STD[0]


def random_changes(n: int, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Random changes of the canonical frame (n, 3, 3)."""
    a = augmentation
    return frame_transform(
        degrees=_uniform(n, -a.degrees, a.degrees, generator),
        zoom=1 + _uniform(n, -a.zoom, a.zoom, generator),
        shift=_uniform(2 * n, -a.shift, a.shift, generator).reshape(n, 2),
        mirror=torch.rand(n, generator=generator) < 0.5,
    )


def change_light(regions: torch.Tensor, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Another contrast about the mean of all regions, and another brightness; clipped to 0…1."""
    n = len(regions)
    contrast = 1 + _uniform(n, -augmentation.contrast, augmentation.contrast, generator)
    brightness = _uniform(n, -augmentation.brightness, augmentation.brightness, generator)
    contrast, brightness = (v.to(regions)[:, None, None, None, None] for v in (contrast, brightness))
    mean = regions.mean((1, 2, 3, 4), keepdim=True)
    return ((regions - mean) * contrast + mean + brightness).clamp(0, 1)


def erase(regions: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Fill one rectangle of a region, of 0.15 to 0.5 of each side, with the region's mean."""
    b, r, _, h, w = regions.shape
    n = b * r
    inside = (torch.rand(n, generator=generator) < probability).reshape(b, r, 1, 1, 1).to(regions.device)
    for dim, length in ((3, h), (4, w)):
        extent = _uniform(n, 0.15, 0.5, generator) * length
        start = _uniform(n, 0, 1, generator) * (length - extent)
        shape = [b, r, 1, 1, 1]
        start, end = (v.reshape(shape).to(regions) for v in (start, start + extent))
        shape = [1, 1, 1, 1, 1]
        shape[dim] = length
        position = torch.arange(length, device=regions.device).reshape(shape) + 0.5
        inside = inside & (position >= start) & (position < end)
    return torch.where(inside, regions.mean((3, 4), keepdim=True), regions)
