"""RAF-DB, single-label part: aligned faces of 100×100 pixels in color.

Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in the Wild -
https://doi.org/10.1109/CVPR.2017.277
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from .files import collect, read_image
from .image_set import ImageSet
from .labels import SEVEN

SPLITS = ("train", "test")

# The class numbers of the list, from 1.
_CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
_LIST = Path("EmoLabel/list_patition_label.txt")  # spelt so
_LAYOUT = f"expected basic/{_LIST} and basic/Image/aligned/train_00001_aligned.jpg"


def read_rafdb(path: str | Path, split: str) -> ImageSet:
    """Read one split of RAF-DB.

    Args:
        path: The folder ``basic``, or the one that holds it.
        split: "train" or "test".

    Raises:
        DataError: If the layout is another one, a line of the list says no class, or an image is
            missing or cannot be read.
    """
    root = Path(path)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    if (root / "basic").is_dir():
        root = root / "basic"
    if not (root / _LIST).is_file():
        raise DataError(f"{root}: no {_LIST}; {_LAYOUT}")
    return collect(_rows(root, split), SEVEN, f"{root}: the list names no image of {split!r}; {_LAYOUT}")


def _rows(root: Path, split: str) -> Iterator[tuple[str, int, np.ndarray]]:
    lines = (root / _LIST).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            name, code = line.split()
            expression = dict(enumerate(_CLASSES, 1))[int(code)]
        except (ValueError, KeyError):
            raise DataError(f"{root / _LIST}, line {number}: expected a name and a class of 1 to 7: {line!r}") from None
        if name.split("_")[0] != split:
            continue
        file = root / "Image" / "aligned" / f"{Path(name).stem}_aligned.jpg"
        yield file.relative_to(root).as_posix(), SEVEN.index(expression), read_image(file, (100, 100), "RGB")
