"""Check a data set: counts, duplicates, images without a face."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .image_set import ImageSet, contained_in, repeated
from .landmarks import cache_beside, find_landmarks
from .sets import DATA_SETS, read_split


@dataclass(frozen=True)
class SplitCheck:
    """Findings in a split.

    Attributes:
        count: Images.
        classes: Images a class.
        repeated: Images that are, pixel for pixel, earlier in the same split too.
        also_in: For each other split, how many images are in it too.
        contradictory: Images that have another label elsewhere in the data set.
        subjects: Number of subjects, 0 where they are not known.
        faceless: Images in which no face was found; None if it was not looked for.
    """

    count: int
    classes: dict[str, int]
    repeated: int
    also_in: dict[str, int]
    contradictory: int
    subjects: int
    faceless: int | None


@dataclass(frozen=True)
class DataCheck:
    """Findings in a data set, by split."""

    name: str
    splits: dict[str, SplitCheck]


def check_data(
    name: str, path: Path, faces: bool = True, progress: Callable[..., Iterable[Any]] | None = None
) -> DataCheck:
    """Read a whole data set and count.

    Args:
        name: Name of the data set.
        path: Path of the data set.
        faces: Look for a face in every image; about a millisecond each.
        progress: Wrapper of long loops, called with ``description=``.

    Raises:
        DataError: If it is not what its reader expects.
    """
    data = {split: read_split(name, path, split) for split in DATA_SETS[name].splits}
    labels = defaultdict(set)
    for part in data.values():
        for image, label in zip(part.images, part.labels, strict=True):
            labels[image.tobytes()].add(int(label))

    def check(split: str, part: ImageSet) -> SplitCheck:
        faceless = None
        if faces:
            track = iter if progress is None else partial(progress, description=f"faces of {split}")
            faceless = find_landmarks(part.images, cache_beside(path), track).counts()["template"]
        return SplitCheck(
            count=len(part),
            classes=part.counts(),
            repeated=int(repeated(part).sum()),
            also_in={other: int(contained_in(part, images).sum()) for other, images in data.items() if other != split},
            contradictory=sum(len(labels[image.tobytes()]) > 1 for image in part.images),
            subjects=0 if part.subjects is None else len(np.unique(part.subjects)),
            faceless=faceless,
        )

    return DataCheck(name, {split: check(split, part) for split, part in data.items()})
