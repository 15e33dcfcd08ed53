"""Which images of a data set are trained on, validated on and tested: decided here, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .ferplus import read_ferplus
from .folds import image_folds, subject_folds
from .image_set import ImageSet, contained_in
from .imagefolder import FaceSearch, labelled_part, read_labelled
from .sets import DATA_SETS, read_split


def read_part(name: str, path: Path, part: str, search: FaceSearch = FaceSearch()) -> ImageSet:  # noqa: B008 - frozen
    """The images "train", "validation" or "test" of a data set, whichever splits it comes in.

    Where there is no validation split, a tenth of the images is held out: always the same, whole subjects where
    subjects are known. Where there is no test split either, it is the only part that is held out. Training images that
    are in another split too are left out.

    Args:
        name: Name of the data set.
        path: Path of the data set.
        part: "train", "validation" or "test"; "all" of a data set without splits.
        search: How faces are found in the photos of an "imagefolder".

    Raises:
        DataError: If the data set is not what its reader expects, or has no such part.
    """
    if name == "imagefolder":
        return labelled_part(read_labelled(path, search), part)
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


def read_training(name: str, path: Path, labels: str = "votes", limit: int | None = None, seed: int = 0) -> ImageSet:
    """The images that are trained on.

    Args:
        name: Name of the data set.
        path: Path of the data set.
        labels: Which labels of FER+, see :func:`~mrcar_timm.data.ferplus.read_ferplus`; no effect elsewhere.
        limit: How many images, see :func:`limited`.
        seed: Seed of the choice.
    """
    if name == "ferplus":
        # "original" has the most images: none of those that could be scored is trained on.
        held_out = (read_ferplus(path, split, "original") for split in ("validation", "test"))
        data = _without(read_ferplus(path, "train", labels), *held_out)
    else:
        data = read_part(name, path, "train")
    return limited(data, limit, seed)


def read_validation(name: str, path: Path, labels: str = "votes") -> ImageSet:
    """The images that a training is validated on; arguments as in :func:`read_training`."""
    if name == "ferplus" and labels in ("original", "blended"):
        return read_ferplus(path, "validation", "original")
    return read_part(name, path, "validation")


def limited(data: ImageSet, limit: int | None, seed: int) -> ImageSet:
    """At most so many images, drawn at random, each class in its share."""
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


def _without(data: ImageSet, *others: ImageSet) -> ImageSet:
    for other in others:
        data = data.select(~contained_in(data, other))
    return data
