"""FER2013 as it reaches a user: Kaggle's CSV, or folders of 48×48 images.

Challenges in Representation Learning: A report on three machine learning contests -
https://arxiv.org/abs/1307.0414
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from .files import class_label, collect, read_image
from .image_set import ImageSet
from .labels import SEVEN, expression_name

SPLITS = ("train", "validation", "test")

_USAGE = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
# The class numbers of the CSV, which the folders name.
_CSV_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def looks_like_fer2013(path: Path) -> bool:
    """Whether a path seems to hold it: Kaggle's table, or its folders with its names of files."""
    if path.is_file() and path.suffix == ".csv":
        with open(path, encoding="utf-8", errors="replace") as file:
            return "pixels" in file.readline()
    names = [f"{folder}/*/{usage}_*" for folder in SPLITS for usage in _USAGE]
    return path.is_dir() and any(next(path.glob(name), None) is not None for name in names)


def read_fer2013(path: str | Path, split: str) -> ImageSet:
    """Read one split of FER2013.

    Args:
        path: Kaggle's ``fer2013.csv``, or a folder with ``train/<class>/…``, ``test/<class>/…`` and
            perhaps ``validation/<class>/…``. Kaggle's folders hold the validation images in ``test``
            under names that begin with ``PublicTest_``.
        split: "train", "validation" or "test".

    Raises:
        DataError: If the layout is another one, or an image cannot be read.
    """
    path = Path(path)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    if path.is_dir():
        rows = _folder_rows(path, split)
    elif path.is_file():
        rows = _csv_rows(path, split)
    else:
        raise DataError(f"{path}: no such file or folder")
    nothing = f"{path}: no images of the split {split!r}; expected {split}/<class>/*.jpg or fer2013.csv"
    return collect(rows, SEVEN, nothing)


def _folder_rows(root: Path, split: str) -> Iterator[tuple[str, int, np.ndarray]]:
    usage = next(key for key, value in _USAGE.items() if value == split)
    folder = root / split
    if split == "validation" and not folder.is_dir():
        folder = root / "test"
    if not folder.is_dir():
        raise DataError(f"{root}: no folder {split!r}; expected {split}/<class>/*.jpg")
    for class_folder in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        label = class_label(class_folder.name, SEVEN, class_folder)
        for file in sorted(class_folder.iterdir()):
            if file.suffix.lower() not in (".jpg", ".jpeg", ".png"):
                continue
            # Kaggle's test folder mixes two splits; names of no split belong to their folder's.
            named = file.name.split("_")[0]
            if _USAGE.get(named, split) != split or (folder.name != split and named != usage):
                continue
            yield file.relative_to(root).as_posix(), label, read_image(file, (48, 48))


def _csv_rows(path: Path, split: str) -> Iterator[tuple[str, int, np.ndarray]]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        expected = {"emotion", "pixels", "Usage"}
        if not expected <= set(reader.fieldnames or ()):
            raise DataError(f"{path}: expected columns {sorted(expected)}, got {reader.fieldnames}")
        for number, row in enumerate(reader):
            if _USAGE.get(row["Usage"]) != split:
                continue
            try:
                label = SEVEN.index(expression_name(_CSV_CLASSES[int(row["emotion"])]))
                pixels = np.array(row["pixels"].split(), dtype=np.uint8).reshape(48, 48)
            except (ValueError, IndexError, OverflowError) as error:
                raise DataError(f"{path}, line {number + 2}: {error}") from error
            yield f"{row['Usage']}_{number}", label, pixels
