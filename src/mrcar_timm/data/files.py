"""Reading the files of data sets, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DataError
from .image_set import ImageSet
from .labels import expression_name


def read_image(file: Path, size: tuple[int, int], mode: str = "L") -> np.ndarray:
    """One image as uint8, grey (H, W) or RGB (H, W, 3).

    Args:
        file: Image file.
        size: Width and height that it must have.
        mode: Pillow's "L" or "RGB".

    Raises:
        DataError: If it cannot be read, or has another size.
    """
    try:
        with Image.open(file) as image:
            found = image.size
            pixels = np.asarray(image.convert(mode))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable image ({error})") from error
    if found != size:
        raise DataError(f"{file}: expected {size[0]}×{size[1]} pixels, this one is {found[0]}×{found[1]}")
    return pixels


def class_label(name: str, classes: tuple[str, ...], where: Path | str) -> int:
    """Index of the class that a data set calls by this name.

    Raises:
        DataError: If it is none of the classes.
    """
    try:
        return classes.index(expression_name(name))
    except ValueError:
        raise DataError(f"{where}: {name!r} is no expression of this data set, which has {classes}") from None


def collect(
    rows: Iterable[tuple[str, int, np.ndarray]], classes: tuple[str, ...], nothing: str, subjects: bool = False
) -> ImageSet:
    """An :class:`ImageSet` from names, labels and images.

    Args:
        rows: Name, label and image, one after the other.
        classes: Names of the expressions.
        nothing: Error message if there is no row.
        subjects: Whether a name without its folder begins with the subject, up to an underscore or a dot.

    Raises:
        DataError: If there is no row.
    """
    rows = list(rows)
    if not rows:
        raise DataError(nothing)
    names, labels, images = zip(*rows, strict=True)
    who = np.array([Path(name).name.replace(".", "_").split("_")[0] for name in names]) if subjects else None
    return ImageSet(np.stack(images), np.array(labels, np.int64), classes, np.array(names), subjects=who)
