"""How a data set without splits is cut into folds; scikit-learn cuts."""

from __future__ import annotations

import numpy as np

from ..errors import DataError, MRCARError
from .image_set import ImageSet


def image_folds(data: ImageSet, count: int, seed: int) -> list[np.ndarray]:
    """Images at random, each class in its share: indices of each fold.

    Raises:
        DataError: If there are too few images.
    """
    return _cut("StratifiedKFold", data, count, seed, None)


def subject_folds(data: ImageSet, count: int, seed: int) -> list[np.ndarray]:
    """All images of a subject in one fold, each class as near to its share as that allows.

    Raises:
        DataError: If the data set does not say who is shown, or there are too few subjects.
    """
    if data.subjects is None:
        raise DataError("this data set does not say who is shown; split it by image")
    folds = _cut("StratifiedGroupKFold", data, count, seed, data.subjects)
    check_disjoint(data.subjects, folds)
    return folds


def check_disjoint(subjects: np.ndarray, folds: list[np.ndarray]) -> None:
    """Make sure that every image is in one fold, and all of a subject's in the same.

    Raises:
        MRCARError: If not.
    """
    if sorted(np.concatenate(folds).tolist()) != list(range(len(subjects))):
        raise MRCARError("an image is in no fold, or in two")
    owner: dict[str, int] = {}
    for number, fold in enumerate(folds):
        for subject in np.unique(subjects[fold]):
            if owner.setdefault(str(subject), number) != number:
                raise MRCARError(f"subject {subject} is in the folds {owner[str(subject)]} and {number}")


def _cut(splitter: str, data: ImageSet, count: int, seed: int, groups: np.ndarray | None) -> list[np.ndarray]:
    from sklearn import model_selection

    units = len(data) if groups is None else len(np.unique(groups))
    if not 2 <= count <= units:
        raise DataError(f"{units} {'images' if groups is None else 'subjects'} cannot be cut into {count} folds")
    cut = getattr(model_selection, splitter)(count, shuffle=True, random_state=seed)
    return [test for _, test in cut.split(data.images, data.labels, groups)]
