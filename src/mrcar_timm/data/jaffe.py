"""JAFFE: 213 images of ten subjects.

Coding Facial Expressions with Gabor Wavelets - https://doi.org/10.1109/AFGR.1998.670949
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from .files import collect, read_image
from .image_set import ImageSet
from .labels import SEVEN

_CODES = {
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "SA": "sadness",
    "SU": "surprise",
    "NE": "neutral",
}
# A few files of the original have a blank or a second dot in their names.
_NAME = re.compile(r"([A-Z]{2})\.([A-Z]{2})\d*\s*\.+\d+\.tiff?", re.IGNORECASE)
_LAYOUT = "expected images such as KA.AN1.39.tiff: subject, expression (AN DI FE HA NE SA SU) and number"


def read_jaffe(path: str | Path) -> ImageSet:
    """Read JAFFE from its tiff files, with the subject of each image.

    Args:
        path: The folder with the files.

    Raises:
        DataError: If a name says no subject and expression, or an image cannot be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {_LAYOUT}")
    return collect(_rows(root), SEVEN, f"{root}: no images; {_LAYOUT}", subjects=True)


def _rows(root: Path) -> Iterator[tuple[str, int, np.ndarray]]:
    for file in sorted(root.iterdir()):
        if file.suffix.lower() not in (".tif", ".tiff"):
            continue
        match = _NAME.fullmatch(file.name)
        if not match or match[2].upper() not in _CODES:
            raise DataError(f"{file}: the name does not say subject and expression; {_LAYOUT}")
        yield file.name, SEVEN.index(_CODES[match[2].upper()]), read_image(file, (256, 256))
