"""CK+ as 48×48 crops: the last three frames of 327 labelled sequences.

The Extended Cohn-Kanade Dataset (CK+) - https://doi.org/10.1109/CVPRW.2010.5543262
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from .files import class_label, collect, read_image
from .image_set import ImageSet
from .labels import EXPRESSIONS

#: Contempt is in place of neutral.
CLASSES = tuple(name for name in EXPRESSIONS if name != "neutral")

_NAME = re.compile(r"S\d+_\d+_\d+\.png", re.IGNORECASE)
_LAYOUT = "expected <class>/S<subject>_<sequence>_<frame>.png, such as happy/S010_006_00000013.png"


def read_ckplus(path: str | Path) -> ImageSet:
    """Read CK+ from ``<class>/S<subject>_<sequence>_<frame>.png``, with the subject of each image.

    Args:
        path: The folder with a folder for each class.

    Raises:
        DataError: If the layout is another one, or an image cannot be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {_LAYOUT}")
    return collect(_rows(root), CLASSES, f"{root}: no images; {_LAYOUT}", subjects=True)


def _rows(root: Path) -> Iterator[tuple[str, int, np.ndarray]]:
    for class_folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."):
        label = class_label(class_folder.name, CLASSES, class_folder)
        for file in sorted(class_folder.iterdir()):
            if file.suffix.lower() != ".png":
                continue
            if not _NAME.fullmatch(file.name):
                raise DataError(f"{file}: the name does not say subject, sequence and frame; {_LAYOUT}")
            yield file.relative_to(root).as_posix(), label, read_image(file, (48, 48))
