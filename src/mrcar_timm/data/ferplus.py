"""FER+: the images of FER2013 with the votes of ten annotators for eight expressions.

Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label Distribution -
https://arxiv.org/abs/1608.01041
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import DataError
from .fer2013 import read_fer2013
from .image_set import ImageSet
from .labels import EXPRESSIONS, expression_name

LABELS = ("votes", "majority", "original", "blended")

_VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
# Columns of the votes in the order of EXPRESSIONS; "unknown" and "NF" (no face) follow.
_ORDER = [*(_VOTES.index(expression_name(name)) for name in EXPRESSIONS), 8, 9]


def read_ferplus(path: str | Path, split: str, labels: str = "majority") -> ImageSet:
    """Read one split of FER+.

    Single votes are taken for slips and dropped first, as FER+'s authors do. Then

    - "majority": an image's label is the expression that has more than half of the remaining votes;
      images without one are left out. This is how FER+ is scored.
    - "votes": the remaining votes for the eight expressions, in parts of their sum, are ``targets``;
      ``labels`` are their maximum. Images are left out for which "unknown" or "no face" has the most
      votes, or no vote for an expression remains.
    - "original": the seven classes of FER2013, for all images that have votes.
    - "blended": the images of "votes" with the seven classes of FER2013. Half of ``targets`` is the image's
      own label, half what images with such votes are labelled, see :func:`_blended`.

    Args:
        path: A folder with FER2013 (folders, or Kaggle's ``fer2013.csv``) and the votes: ``ferplus.csv``,
            whose column ``image`` has the names of the files in the folders, or FER+'s own
            ``fer2013new.csv``, whose lines go with those of ``fer2013.csv``.
        split: "train", "validation" or "test".
        labels: One of :data:`LABELS`.

    Raises:
        DataError: If a file is missing, has another layout, or does not go with the images.
    """
    if labels not in LABELS:
        raise ValueError(f"labels must be one of {LABELS}, got {labels!r}")
    root = Path(path)
    table, lines, names = root / "fer2013.csv", root / "fer2013new.csv", root / "ferplus.csv"
    if names.is_file():
        images, votes = read_fer2013(root, split), dict(_votes(names, "image"))
        keys = [Path(name).name for name in images.names]
    elif lines.is_file() and table.is_file():
        images, votes = read_fer2013(table, split), dict(_votes(lines, None))
        keys = [name.split("_")[1] for name in images.names]
    else:
        raise DataError(
            f"{root}: no votes; expected ferplus.csv beside the folders of FER2013, "
            "or fer2013new.csv beside fer2013.csv"
        )
    known = np.array([key in votes for key in keys])
    if not known.any():
        raise DataError(f"{root}: the votes name none of the images of the split {split!r}")
    images = images.select(known)
    if labels == "original":
        return images
    counts = np.array([votes[key] for key, has in zip(keys, known, strict=True) if has])[:, _ORDER]
    counts[counts < 2] = 0
    if labels == "majority":
        keep = counts[:, :8].max(1) * 2 > counts.sum(1)
    else:
        keep = (counts[:, :8].max(1) >= counts[:, 8:].max(1)) & (counts[:, :8].max(1) > 0)
    expressions = counts[keep, :8].astype(np.float32)
    if labels == "blended":
        chosen = images.select(keep)
        return replace(chosen, targets=_blended(chosen.labels, expressions, len(chosen.classes)))
    return replace(
        images.select(keep),
        labels=expressions.argmax(1).astype(np.int64),
        classes=EXPRESSIONS,
        targets=expressions / expressions.sum(1, keepdims=True) if labels == "votes" else None,
    )


def _blended(labels: np.ndarray, votes: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels between an image's own, which are noisy, and what its votes let expect.

    With votes v (N, 8), in parts of their sum, and own labels y, one-hot (N, K): the labels that go with a vote
    for expression e are T[e] = Σ v[n, e]·y[n] / Σ v[n, e], an image's expected label is v·T, and its target the
    mean of that and y.
    """
    parts = votes / votes.sum(1, keepdims=True)
    own = np.eye(num_classes, dtype=np.float32)[labels]
    table = parts.T @ own / np.maximum(parts.sum(0)[:, None], 1e-9)  # (8, K)
    return ((own + parts @ table) / 2).astype(np.float32)


def _votes(file: Path, key: str | None) -> Iterator[tuple[str, list[int]]]:
    """The ten counts of each line, behind its entry in the column ``key``, or its number from 0 as a string."""
    with open(file, newline="", encoding="utf-8") as source:
        reader = csv.DictReader(source)
        expected = {*_VOTES} | ({key} if key else set())
        if not expected <= set(reader.fieldnames or ()):
            raise DataError(f"{file}: expected the columns {sorted(expected)}, got {reader.fieldnames}")
        for number, row in enumerate(reader):
            try:
                counts = [int(row[name]) for name in _VOTES]
            except (TypeError, ValueError) as error:
                raise DataError(f"{file}, line {number + 2}: {error}") from error
            yield (row[key] if key else str(number)), counts
