"""From a data set on disk to what is trained on and what is validated on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..data.ferplus import read_ferplus
from ..data.images import ImageSet, contained_in
from ..data.landmarks import LandmarkSet, cache_beside, find_landmarks
from ..data.sets import DATA_SETS, read_split
from ..regions.geometry import template_landmarks
from .batches import RegionBatches
from .folds import image_folds, subject_folds
from .recipe import Recipe


class Progress(Protocol):
    """What long loops tell about themselves; the command line draws bars from it."""

    def __call__(self, iterable: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]: ...


def silent(iterable: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]:
    """No progress is shown."""
    return iterable


@dataclass(frozen=True)
class Split:
    """Pictures to train on or to score.

    Attributes:
        data: Pictures and labels.
        batches: Regions cut from them.
        landmarks: How many pictures' landmarks came from where.
    """

    data: ImageSet
    batches: RegionBatches
    landmarks: dict[str, int]

    def select(self, rows: np.ndarray) -> Split:
        """Some of the pictures."""
        return Split(self.data.select(rows), self.batches.select(torch.from_numpy(rows)), self.landmarks)

    def of_regions(self, regions: tuple[str, ...]) -> Split:
        """The same pictures with other regions."""
        return Split(self.data, self.batches.of_regions(regions), self.landmarks)

    def summary(self) -> dict[str, Any]:
        """What a run's config says about it."""
        return {"sha256": self.data.digest(), "count": len(self.data), "landmarks": self.landmarks}


def read_part(name: str, path: Path, part: str) -> ImageSet:
    """The pictures "train", "validation" or "test" of a data set, whichever splits it comes in.

    Where there is no validation split, a tenth of the pictures is held out: always the same, whole subjects
    where subjects are known. Where there is no test split either, it is the one part that is held out.
    Training pictures that stand in another split too are left out.

    Raises:
        DataError: If the data set is not what its reader expects, or has no such part.
    """
    splits = DATA_SETS[name].splits
    if "validation" in splits:
        if part != "train":
            return read_split(name, path, part)
        return _without(read_split(name, path, part), *(read_split(name, path, other) for other in splits[1:]))
    if part == "test" or part not in ("train", "validation"):
        return read_split(name, path, part)
    data = read_split(name, path, splits[0])
    if "test" in splits:
        data = _without(data, read_split(name, path, "test"))
    if data.subjects is None:
        held_out = image_folds(data, 10, seed=0)[0]
    else:
        held_out = subject_folds(data, min(10, len(np.unique(data.subjects))), seed=0)[0]
    return data.select(held_out if part == "validation" else np.setdiff1d(np.arange(len(data)), held_out))


def _without(data: ImageSet, *others: ImageSet) -> ImageSet:
    for other in others:
        data = data.select(~contained_in(data, other))
    return data


def read_training(recipe: Recipe, path: Path) -> ImageSet:
    """The pictures that a recipe trains on: the part "train", with its labels, cut down to its limit."""
    if recipe.data == "ferplus":
        # "original" has the most pictures: none of those that could be scored is trained on.
        held_out = (read_ferplus(path, split, "original") for split in ("validation", "test"))
        data = _without(read_ferplus(path, "train", recipe.labels), *held_out)
    else:
        data = read_part(recipe.data, path, "train")
    return limited(data, recipe.limit, recipe.seed)


def limited(data: ImageSet, limit: int | None, seed: int) -> ImageSet:
    """At most so many pictures, drawn at random, each class in its share."""
    if limit is None or limit >= len(data):
        return data
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data))
    # In an order in which every beginning has the classes in their shares.
    rank = np.empty(len(data))
    for label in np.unique(data.labels):
        rows = order[data.labels[order] == label]
        rank[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return data.select(np.sort(np.argsort(rank)[:limit]))


def make_split(
    data: ImageSet,
    path: Path,
    regions: tuple[str, ...],
    size: int,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    landmarks: str = "detected",
) -> Split:
    """Pictures with their landmarks, which are sought once and cached beside the data.

    Args:
        data: Pictures.
        path: Where they came from; the cache goes there if it can be written to.
        regions: Names of the regions.
        size: Side of the regions in pixels.
        device: Where pictures lie.
        progress: Wrapper of long loops.
        landmarks: "detected", or "template" for the same ones in every picture.
    """
    if landmarks == "template":
        points = template_landmarks(data.images.shape[2], data.images.shape[1]).numpy()
        found = LandmarkSet(np.tile(points, (len(data), 1, 1)), np.full(len(data), "template"))
    else:
        found = find_landmarks(data.images, cache_beside(path), partial(progress, description="landmarks"))
    batches = RegionBatches(data, torch.from_numpy(found.points), regions, (size, size), device)
    return Split(data, batches, found.counts())


def read_validation(recipe: Recipe, path: Path) -> ImageSet:
    """The pictures that a recipe validates on."""
    if recipe.data == "ferplus" and recipe.labels in ("original", "blended"):
        return read_ferplus(path, "validation", "original")
    return read_part(recipe.data, path, "validation")


def make_split_for(
    recipe: Recipe, data: ImageSet, path: Path, device: torch.device | str = "cpu", progress: Progress = silent
) -> Split:
    """Pictures with the landmarks, regions and size of a recipe."""
    return make_split(data, path, recipe.regions, recipe.size, device, progress, recipe.landmarks)


def load_training(
    recipe: Recipe, path: Path, device: torch.device | str = "cpu", progress: Progress = silent
) -> tuple[Split, Split]:
    """What a recipe trains on and what it validates on."""
    train, validation = (
        make_split_for(recipe, data, path, device, progress)
        for data in (read_training(recipe, path), read_validation(recipe, path))
    )
    return train, validation
