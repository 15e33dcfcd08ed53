"""The data sets that can be read, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from . import fer2013, rafdb
from .ckplus import read_ckplus
from .fer2013 import read_fer2013
from .ferplus import read_ferplus
from .image_set import ImageSet
from .imagefolder import labelled_part, read_labelled
from .jaffe import read_jaffe
from .listing import is_labelled
from .rafdb import read_rafdb


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        read: From a path and the name of a split to its images.
        splits: Names of the splits it comes in; ("all",) where it has none; () where each copy has its own.
        looks_like: Whether a path seems to hold it.
        title: Name in tables.
        license: Terms of use.
        recipe: Recipe of the package that trains on it; the one of its name if None.
    """

    read: Callable[[Path, str], ImageSet]
    splits: tuple[str, ...]
    looks_like: Callable[[Path], bool]
    title: str
    license: str
    recipe: str | None = None

    @property
    def trained_on(self) -> str:
        """In words, what of it a training uses."""
        return _TRAINED_ON[self.splits]


_TRAINED_ON = {
    (): "what is not in validation or test",
    ("train", "validation", "test"): "split train, without the images that are in validation or test",
    ("train", "test"): "split train, without a tenth and without the images that are in test",
    ("all",): "without the subjects held out",
}


def _has(path: Path, *patterns: str) -> bool:
    return path.is_dir() and any(next(path.glob(pattern), None) is not None for pattern in patterns)


_VOTES = ("ferplus.csv", "fer2013new.csv")

#: Names of the splits that are scored.
SPLITS = ("validation", "test")

#: In the order in which a path is tried.
DATA_SETS: dict[str, DataSet] = {
    "ferplus": DataSet(
        read_ferplus, fer2013.SPLITS, lambda path: _has(path, *_VOTES), "FER+",
        "the labels under the MIT License, for the images of FER2013",
    ),
    "fer2013": DataSet(
        read_fer2013, fer2013.SPLITS, fer2013.looks_like_fer2013,
        "FER2013",
        "released for a contest on Kaggle, for research; its images come from web searches",
    ),
    "rafdb": DataSet(
        read_rafdb, rafdb.SPLITS, lambda path: _has(path, "EmoLabel", "basic/EmoLabel"), "RAF-DB",
        "non-commercial research, on request",
    ),
    "ckplus": DataSet(
        lambda path, split: read_ckplus(path), ("all",), lambda path: _has(path, "*/S[0-9]*_[0-9]*_[0-9]*.png"), "CK+",
        "non-commercial research, under a signed agreement; no redistribution",
    ),
    "jaffe": DataSet(
        lambda path, split: read_jaffe(path), ("all",), lambda path: _has(path, "*.*[0-9].*.tif*"), "JAFFE",
        "non-commercial research, on request",
    ),
    "imagefolder": DataSet(
        lambda path, split: labelled_part(read_labelled(path), split), (), is_labelled, "labelled images", "not stated",
        recipe="finetune",
    ),
}  # fmt: skip


def recognize(path: Path) -> str:
    """The name of the data set that a path seems to hold.

    Raises:
        DataError: If it looks like none of them.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    for name, data_set in DATA_SETS.items():
        if data_set.looks_like(path):
            return name
    raise DataError(
        f"{path} looks like no data set that can be read: FER2013 (train/<class>/ and test/<class>/, or fer2013.csv), "
        "FER+ (FER2013 with ferplus.csv or fer2013new.csv), RAF-DB (EmoLabel/ and Image/aligned/), "
        "CK+ (<class>/S010_006_00000013.png), JAFFE (KA.AN1.39.tiff); nor like images of your own (<class>/*.jpg, "
        "perhaps with train/, val/ and test/ above, or a table with the columns path and label)"
    )


def read_split(name: str, path: Path, split: str) -> ImageSet:
    """One split of a data set.

    Raises:
        DataError: If there is no such data set or split, or its layout is another one.
    """
    if name not in DATA_SETS:
        raise DataError(f"no data set {name!r}; there are {', '.join(DATA_SETS)}")
    if name != "imagefolder" and split not in DATA_SETS[name].splits:
        raise DataError(f"{DATA_SETS[name].title} has no split {split!r}, but {', '.join(DATA_SETS[name].splits)}")
    return DATA_SETS[name].read(path, split)
