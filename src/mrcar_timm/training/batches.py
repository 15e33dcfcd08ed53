"""Batches of regions from a data set in memory, augmented in batches on the device that trains.

Rotation, zoom, shift and mirroring multiply the regions' matrices before the one warp that cuts them,
so training and inference share one geometry and pixels are interpolated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ..data.face_crops import crop_side
from ..data.image_set import ImageSet
from ..data.imagefolder import FaceSearch, LabelledFaces, labelled_part, read_labelled
from ..data.landmarks import LandmarkSet, cache_beside, find_landmarks
from ..data.splits import limited, read_training, read_validation
from ..devices import as_device
from ..inputs import INPUT_MEAN, INPUT_STD
from ..progress import Progress, silent
from ..regions.geometry import box_matrices, frame_transform, similarity_from_landmarks, template_landmarks
from ..regions.warp import warp
from .exposure import normalize_exposure

if TYPE_CHECKING:
    from .recipe import Augmentation, Recipe


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64) * (high - low) + low


class RegionBatches:
    """Images and where their faces are, on a device, from which regions are cut.

    Args:
        data: Images and labels.
        landmarks: (N, 5, 2) in pixels.
        regions: Names of the regions.
        size: Height and width of a region.
        device: Device that keeps the images and cuts the regions.

    Attributes:
        labels: (N,), on the device.
        targets: (N, K) probabilities of the labels, or ``labels`` where each image has one.
    """

    def __init__(
        self,
        data: ImageSet,
        landmarks: npt.ArrayLike,
        regions: tuple[str, ...],
        size: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = as_device(device)
        images = torch.from_numpy(data.images).reshape(*data.images.shape[:3], -1)
        self.images = images.permute(0, 3, 1, 2).contiguous().to(self.device)  # (N, C, H, W)
        self.rows = torch.arange(len(data))  # the image of each sample
        self.frames = torch.from_numpy(similarity_from_landmarks(landmarks))  # (N, 3, 3)
        self.labels = torch.from_numpy(data.labels).to(self.device)
        self.targets = self.labels if data.targets is None else torch.from_numpy(data.targets).to(self.device)
        self.weights = None if data.weights is None else torch.from_numpy(data.weights)  # (N,)
        self.boxes = torch.from_numpy(box_matrices(regions))  # (R, 3, 3)
        self.size = size

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: torch.Tensor) -> RegionBatches:
        """Some of the samples; the images are shared."""
        part = copy(self)
        part.rows, part.frames = self.rows[rows], self.frames[rows]
        part.weights = None if self.weights is None else self.weights[rows]
        rows = rows.to(self.device)
        part.labels, part.targets = self.labels[rows], self.targets[rows]
        return part

    def of_regions(self, regions: tuple[str, ...]) -> RegionBatches:
        """The same samples with other regions."""
        part = copy(self)
        part.boxes = torch.from_numpy(box_matrices(regions))
        return part

    def copies(self, changes: torch.Tensor) -> RegionBatches:
        """Each sample k times in turn, under changes (N, k, 3, 3) of its frame that stay; the images are shared."""
        n, k = changes.shape[:2]
        out = self.select(torch.arange(n).repeat_interleave(k))
        out.frames = out.frames @ changes.flatten(0, 1)
        return out

    def _cut(self, rows: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        matrices = (self.frames[rows] @ change)[:, None] @ self.boxes
        pixels = self.images[self.rows[rows].to(self.device)].float() / 255
        return warp(pixels, matrices, self.size)  # (B, R, C, h, w)

    def view(self, rows: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """Regions of some samples under one change of the frame, ready for the network."""
        return normalize(normalize_exposure(self._cut(rows, change)))

    def training(
        self,
        batch_size: int,
        augmentation: Augmentation,
        generator: torch.Generator,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One pass in random order: augmented regions (B, R, C, h, w) and targets, (B,) or (B, K).

        Where images have weights, as many are drawn by them, with replacement. The last, smaller batch is left out:
        batch statistics of a few images mislead.

        Args:
            batch_size: Images a batch.
            augmentation: Random changes to them.
            generator: Random numbers.
            share: The part of each batch that is asked for, its number and of how many. All parts must be asked for
                with the same random numbers; each has changes of its own.
        """
        if self.weights is None:
            order = torch.randperm(len(self), generator=generator)
        else:
            order = torch.multinomial(self.weights, len(self), replacement=True, generator=generator)
        part, parts = share
        if parts > 1:
            seed = int(torch.randint(2**62, (1,), generator=generator))
            generator = torch.Generator().manual_seed(seed + part)
        for batch in order.split(batch_size):
            if len(batch) < min(batch_size, len(self)):
                return
            rows = batch.tensor_split(parts)[part]
            regions = self._cut(rows, random_changes(len(rows), augmentation, generator))
            regions = change_light(regions, augmentation, generator)
            regions = erase(regions, augmentation.erase, generator)
            if augmentation.cover:  # runs without it keep the random numbers that they had
                regions = cover(regions, augmentation.cover, generator)
            yield normalize(normalize_exposure(regions)), self.targets[rows.to(self.device)]


def _random(generator: torch.Generator) -> np.random.Generator:
    """NumPy's random numbers, which have a beta distribution, seeded by PyTorch's."""
    return np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))


def normalize(regions: torch.Tensor) -> torch.Tensor:
    """Normalize values in 0…1 as the networks expect."""
    return (regions - INPUT_MEAN[0]) / INPUT_STD[0]


def mixup(
    regions: torch.Tensor, targets: torch.Tensor, alpha: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each sample mixed with another of the batch, λ of itself and 1 - λ of the other, λ ~ Beta(α, α).

    One λ a batch. Source: `mixup: Beyond Empirical Risk Minimization` - https://arxiv.org/abs/1710.09412

    Args:
        regions: (B, R, C, h, w).
        targets: Probabilities (B, K).
        alpha: α > 0.
        generator: Random numbers for λ and the pairs.

    Returns:
        Mixed regions and mixed targets.
    """
    lam = float(_random(generator).beta(alpha, alpha))
    other = torch.randperm(len(regions), generator=generator).to(regions.device)
    return lam * regions + (1 - lam) * regions[other], lam * targets + (1 - lam) * targets[other]


def random_changes(n: int, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Random changes of the canonical frame (n, 3, 3)."""
    a = augmentation
    changes = frame_transform(
        degrees=_uniform(n, -a.degrees, a.degrees, generator),
        zoom=1 + _uniform(n, -a.zoom - a.shrink, a.zoom, generator),
        shift=_uniform(2 * n, -a.shift, a.shift, generator).reshape(n, 2),
        mirror=torch.rand(n, generator=generator) < 0.5,
    )
    return torch.from_numpy(changes)


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


def cover(regions: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Fill whole regions with their mean, but leave at least one of each sample."""
    b, r = regions.shape[:2]
    covered = torch.rand(b, r, generator=generator) < probability
    covered[torch.arange(b), torch.randint(r, (b,), generator=generator)] = False
    covered = covered.to(regions.device)[:, :, None, None, None]
    return torch.where(covered, regions.mean((3, 4), keepdim=True), regions)


@dataclass(frozen=True)
class Split:
    """Images to train on or to score.

    Attributes:
        data: Images and labels.
        batches: Regions cut from them.
        landmarks: How many images' landmarks came from where.
    """

    data: ImageSet
    batches: RegionBatches
    landmarks: dict[str, int]

    def select(self, rows: np.ndarray) -> Split:
        """Some of the images."""
        return Split(self.data.select(rows), self.batches.select(torch.from_numpy(rows)), self.landmarks)

    def of_regions(self, regions: tuple[str, ...]) -> Split:
        """The same images with other regions."""
        return Split(self.data, self.batches.of_regions(regions), self.landmarks)

    def summary(self) -> dict[str, Any]:
        """The summary that a run's record has."""
        titled = {"title": self.data.title} if self.data.title else {}
        return {**titled, "sha256": self.data.digest(), "count": len(self.data), "landmarks": self.landmarks}


def make_split(
    data: ImageSet,
    path: Path,
    regions: tuple[str, ...],
    size: int,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    landmarks: str = "detected",
) -> Split:
    """Images with their landmarks, which are detected once and cached beside the data.

    Args:
        data: Images.
        path: The data set; the cache goes beside it if it can be written to.
        regions: Names of the regions.
        size: Side of the regions in pixels.
        device: Device that keeps the images.
        progress: Wrapper of long loops.
        landmarks: "detected", or "template" for the same ones in every image; where images come with theirs, these.
    """
    if data.landmarks is not None:
        points, counts = data.landmarks, {"detected": len(data)}
    elif landmarks == "template":
        points = template_landmarks(data.images.shape[2], data.images.shape[1])
        found = LandmarkSet(np.tile(points, (len(data), 1, 1)), np.full(len(data), "template"))
        points, counts = found.points, found.counts()
    else:
        found = find_landmarks(data.images, cache_beside(path), partial(progress, description="landmarks"))
        points, counts = found.points, found.counts()
    batches = RegionBatches(data, torch.from_numpy(points), regions, (size, size), device)
    return Split(data, batches, counts)


def make_split_for(
    recipe: Recipe, data: ImageSet, path: Path, device: torch.device | str = "cpu", progress: Progress = silent
) -> Split:
    """Images with the landmarks, regions and size of a recipe."""
    return make_split(data, path, recipe.regions, recipe.size, device, progress, recipe.landmarks)


def search_for(recipe: Recipe, progress: Progress = silent) -> FaceSearch:
    """How a recipe wants the faces of photos found."""
    return FaceSearch(recipe.faces, crop_side(recipe.size), progress)


def load_training(
    recipe: Recipe,
    path: Path,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    on_labelled: Callable[[LabelledFaces], None] = lambda data: None,
) -> tuple[Split, Split]:
    """Training and validation split of a recipe.

    Args:
        recipe: How to train.
        path: The data set.
        device: Device that keeps the images.
        progress: Wrapper of long loops.
        on_labelled: Gets what was found, where the data set is a user's own.
    """
    device = as_device(device)  # before minutes are spent on the data
    if recipe.data == "imagefolder":
        data = read_labelled(path, search_for(recipe, progress))
        on_labelled(data)
        train = limited(labelled_part(data, "train"), recipe.limit, recipe.seed)
        validation = labelled_part(data, "validation")
        del data  # the images are held once
    else:
        train = read_training(recipe.data, path, recipe.labels, recipe.limit, recipe.seed)
        validation = read_validation(recipe.data, path, recipe.labels)
    return (
        make_split_for(recipe, train, path, device, progress),
        make_split_for(recipe, validation, path, device, progress),
    )
