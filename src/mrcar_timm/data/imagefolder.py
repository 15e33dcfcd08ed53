"""Labelled images of a user as a data set: any sizes, whole photos or crops, own classes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..progress import Progress, silent
from .face_crops import FaceChoice, FaceCrops, find_faces
from .folds import image_folds, subject_folds
from .image_set import ImageSet
from .listing import LabelledFile, Listing, list_files

_FEW = 10  # images of a class below which a warning is due
_HELD_OUT = 10  # one part in so many validates where no validation split is given


@dataclass(frozen=True)
class FaceSearch:
    """How the faces of a data set of photos are found; data sets of face crops of one size do not ask.

    Attributes:
        faces: "largest", "all", or "crop" where each image is a crop of a face already.
        side: Side in pixels of the crops that are kept.
        progress: Wrapper of the loop over photos.
    """

    faces: FaceChoice = "largest"
    side: int = 128
    progress: Progress = silent


@dataclass(frozen=True)
class LabelledFaces:
    """A data set of a user.

    Attributes:
        splits: Images by split, of those that are there; "all" where none are named.
        left_out: Reasons by name, of files that are not used.
        warnings: What the user may want to know.
        several: Number of photos with several faces, by split.
        missing: Number of photos without a face, by split.
        unreadable: Number of files that cannot be read, by split.
    """

    splits: dict[str, ImageSet]
    left_out: dict[str, str]
    warnings: tuple[str, ...]
    several: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)


def read_labelled(path: Path, search: FaceSearch = FaceSearch()) -> LabelledFaces:
    """Read a data set of a user, see :func:`~mrcar_timm.data.listing.list_files` for its layouts.

    Files that cannot be read and photos without a face are left out. Of files of the same content one is kept: that in
    test rather than in validation rather than in train.

    Raises:
        DataError: If there are fewer than two classes, no face at all, or classes of validation or test that no image
            trains.
    """
    listing = list_files(path)
    crops = find_faces(listing.root, [file.name for file in listing.files], search.faces, search.side, search.progress)
    left_out = dict(listing.left_out)
    for index, reason in crops.errors.items():
        left_out[listing.files[index].name] = f"cannot be read: {reason.removeprefix('cannot be read ')}"
    for index in np.flatnonzero(crops.found == 0).tolist():
        left_out[listing.files[index].name] = "no face found"
    kept = _without_duplicates(listing, crops, left_out)
    images = _grey_if_all_are(crops.images)
    classes = tuple(name for name in listing.classes if any(listing.files[i].label == name for i in kept)) or (
        listing.classes
    )
    names = sorted({listing.files[i].split for i in kept}, key=("", "train", "validation", "test").index)
    if not names:
        raise DataError(f"{path}: no image can be used; " + "; ".join(f"{k}: {v}" for k, v in [*left_out.items()][:3]))
    if len(classes) < 2:
        raise DataError(f"{path}: two classes are needed, there is {', '.join(classes) or 'none'} alone")
    if "" in names and len(names) > 1:
        raise DataError(f"{path}: some files have a split ({', '.join(filter(None, names))}), others have none")
    splits = {}
    for split in names:
        chosen = np.array([i for i in kept if listing.files[i].split == split])
        title = path.resolve().stem if path.is_file() else path.resolve().name
        splits[split or "all"] = _image_set(listing, classes, crops, images, chosen, title)
    whole = splits.get("all", splits.get("train"))
    notes = [*listing.warnings, *([] if whole is None else _about_classes(path, whole, splits))]

    def count(which: np.ndarray) -> dict[str, int]:
        return {
            split or "all": sum(bool(which[i]) for i, file in enumerate(listing.files) if file.split == split)
            for split in names
        }

    return LabelledFaces(
        splits, left_out, tuple(notes), count(crops.found > 1), count(crops.found == 0), count(crops.found < 0)
    )


def labelled_part(data: LabelledFaces, part: str) -> ImageSet:
    """The images "train", "validation", "test" or "all".

    Where there is no validation split, a tenth of what is trained on is held out, whole subjects where they are known,
    each class in its share.

    Raises:
        DataError: If there is no such part.
    """
    splits = data.splits
    if part == "all" and "all" not in splits:
        raise DataError(f"these images have splits of their own: {', '.join(splits)}")
    if part in splits:
        found = splits[part]
        if part != "train" or "validation" in splits:
            return found
    whole = splits.get("train", splits.get("all"))
    if part not in ("train", "validation") or whole is None:
        raise DataError(f"there are no images of the split {part!r}, but of {', '.join(splits)}")
    held_out = _held_out(whole)
    return whole.select(held_out if part == "validation" else np.setdiff1d(np.arange(len(whole)), held_out))


def _held_out(whole: ImageSet) -> np.ndarray:
    """Indices of a tenth, always the same; of a larger part where a class has fewer than ten images or subjects."""
    count = min(_HELD_OUT, max(whole.counts().values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn's of rare classes, of which ours tells
        if whole.subjects is None:
            return image_folds(whole, max(2, count), seed=0)[0]
        return subject_folds(whole, max(2, min(count, len(np.unique(whole.subjects)))), seed=0)[0]


def _without_duplicates(listing: Listing, crops: FaceCrops, left_out: dict[str, str]) -> list[int]:
    """Indices of the files with faces, each content once: in test rather than validation rather than train."""
    order = {"test": 0, "validation": 1}
    usable = np.flatnonzero(crops.found > 0).tolist()
    first: dict[str, LabelledFile] = {}
    kept = []
    for index in sorted(usable, key=lambda i: (order.get(listing.files[i].split, 2), i)):
        file, digest = listing.files[index], str(crops.digests[index])
        before = first.setdefault(digest, file)
        if before is file:
            kept.append(index)
        elif (file.label, file.shares) != (before.label, before.shares):
            left_out[file.name] = f"the same as {before.name}, which has another label"
        else:
            left_out[file.name] = f"the same as {before.name}"
    return sorted(kept)


def _image_set(
    listing: Listing, classes: tuple[str, ...], crops: FaceCrops, images: np.ndarray, chosen: np.ndarray, title: str
) -> ImageSet:
    rows = np.flatnonzero(np.isin(crops.owners, chosen))
    files = [listing.files[i] for i in crops.owners[rows]]
    targets = None
    if files and files[0].shares is not None:
        targets = np.array([[(file.shares or {}).get(name, 0.0) for name in classes] for file in files], np.float32)
        labels = targets.argmax(1)
    else:
        labels = np.array([classes.index(file.label) for file in files])
    subjects = np.array([file.subject for file in files])
    weights = np.array([file.weight for file in files], np.float32)
    return ImageSet(
        images[rows],
        labels.astype(np.int64),
        classes,
        np.array([file.name for file in files]),
        targets,
        # An image of nobody known is a subject of its own.
        np.where(subjects == "", [f"?{file.name}" for file in files], subjects) if (subjects != "").any() else None,
        crops.landmarks[rows],
        weights if (weights != 1).any() else None,
        title,
    )


def _grey_if_all_are(images: np.ndarray) -> np.ndarray:
    """(M, S, S) where red, green and blue are the same everywhere: grey networks train faster."""
    step = 256
    for start in range(0, len(images), step):
        part = images[start : start + step]
        if (part[..., 0] != part[..., 1]).any() or (part[..., 0] != part[..., 2]).any():
            return images
    return np.ascontiguousarray(images[..., 0])


def _about_classes(path: Path, whole: ImageSet, splits: dict[str, ImageSet]) -> list[str]:
    notes = []
    counts = whole.counts()
    for name, data in splits.items():
        unknown = [each for each, count in data.counts().items() if count and not counts[each]]
        if unknown:
            raise DataError(f"{path}: class {unknown[0]!r} of {name} has no image to train on")
    few = [f"{name} {count}" for name, count in counts.items() if count < _FEW]
    if few:
        notes.append(f"fewer than {_FEW} images of {', '.join(few)}: what is learned of these is little")
    most, least = max(counts.values()), max(1, min(counts.values()))
    if most >= 3 * least:
        notes.append(
            f"classes are imbalanced, {most} to {least}: --balance 0.5 weighs rare ones higher, 1 weighs all alike"
        )
    return notes
